"""The search and triage pages over HTTP, against what the functions beneath them say."""

from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from sparsteer.app.browser.session import Session
from sparsteer.sae.common.text import visible
from sparsteer.steering.features.listing import interest
from sparsteer.steering.features.lookup import by_neighbor, by_token
from sparsteer.steering.features.search import find_features
from sparsteer.steering.features.text_search import search_text

TEXT = "cats and dogs 11 and rain"


def post(client: TestClient, path: str, **values: Any) -> dict[str, Any]:
    answer = client.post(path, json=values)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_by_text(client: TestClient, session: Session) -> None:
    with session.using_model() as loaded:
        expected = search_text(loaded, session.index, TEXT, top=30, max_density=1.0)
    found = post(client, "/api/search", by="text", query=TEXT, max_density=1.0)
    scores = [(match.feature, match.score) for match in expected.features]
    assert [(match["feature"], match["score"]) for match in found["features"]] == scores != []
    assert len(found["tokens"]) == len(expected.tokens) == len(found["counts"])
    place = found["features"][0]["firings"][0]["token"]
    at_one = post(client, "/api/search", by="text", query=TEXT, max_density=1.0, at=[place])
    assert found["features"][0]["feature"] in [match["feature"] for match in at_one["features"]]
    assert len(at_one["features"]) <= len(found["features"])
    dense = post(client, "/api/search", by="text", query=TEXT, max_density=0.0)
    assert dense["features"] == [] and dense["too_dense"] > 0


def test_by_what_the_index_knows(client: TestClient, session: Session) -> None:
    index = session.index
    client.post("/api/picks/7", json={"label": "\u202eseven", "starred": True})
    near = post(client, "/api/search", by="near", query="7")["features"]
    assert [match["feature"] for match in near] == [n.feature for n in by_neighbor(index, 7)]
    peaks = (text for number in range(48) for text in index.peak_texts(number, 3))
    token = next(text for text in peaks if text.isascii() and text.isalnum())
    found = post(client, "/api/search", by="token", query=token)["features"]
    assert [match["feature"] for match in found] == [
        m.feature for m in by_token(index, token, top=30)
    ]
    (labeled,) = post(client, "/api/search", by="label", query="SEVEN")["features"]
    assert labeled["label"] == "⟨U+202E⟩seven" and labeled["starred"], "what is hidden is shown"


@pytest.mark.parametrize(
    ("path", "values", "sentence"),
    [
        ("search", {"by": "near", "query": "x"}, "'x' is no number of a feature"),
        ("search", {"by": "near", "query": "48"}, "there is no feature 48"),
        ("search", {"by": "token", "query": "qqqqqqqq"}, "no token of the vocabulary"),
        ("search", {"by": "colour", "query": "red"}, "by is 'colour'"),
        ("search", {"by": "token", "query": "a", "top": 100_000}, "top"),
        ("search", {"by": "text", "query": "a" * 20_001}, "more than 20,000 characters"),
        ("search", {"by": "text", "query": "a", "max_density": 7}, "max_density is 7"),
        ("contrast", {"positive": [" "], "negative": ["a"]}, "the first set has no text"),
        ("contrast", {"positive": ["a"] * 501, "negative": ["a"]}, "positive"),
        ("searches", {"name": " ", "by": "text", "query": {"query": "a"}}, "name is empty"),
        ("searches", {"name": "a", "by": "colour", "query": {}}, "by"),
        ("searches/9/delete", {}, "there is no saved search 9"),
        (f"searches/{10**30}/delete", {}, "there is no saved search 10000"),
    ],
)
def test_wrong_searches(
    client: TestClient, path: str, values: dict[str, Any], sentence: str
) -> None:
    answer = client.post(f"/api/{path}", json=values)
    assert answer.status_code == 400
    assert sentence in answer.json()["error"]["message"]


def test_a_saved_search_is_what_json_has_and_of_the_kind_that_is_named(client: TestClient) -> None:
    headers = {"Content-Type": "application/json"}
    wrong = '{"name": "a", "by": "text", "query": {"max_density": NaN}}'
    answer = client.post("/api/searches", content=wrong, headers=headers)
    assert answer.status_code == 400 and "has NaN" in answer.json()["error"]["message"]
    saved = post(client, "/api/searches", name="a", by="text", query={"by": "near", "query": "x"})
    assert saved["search"]["query"] == {"by": "text", "query": "x"}


def test_contrast_with_its_controls(client: TestClient, session: Session) -> None:
    positive = [f"cats and dogs {number}" for number in range(6)]
    negative = [f"rain {number} 19" for number in range(6)]
    assert session.loaded, "else the answer is to wait"
    found = post(client, "/api/contrast", positive=[*positive, " "], negative=negative)
    expected = find_features(session.loaded, positive, negative, top=30)
    for name in ("length_auroc", "chance", "considered"):
        assert found[name] == getattr(expected, name)
    scores = [(match.feature, match.auroc_mean) for match in expected.features]
    assert [(match["feature"], match["auroc_mean"]) for match in found["features"]] == scores
    assert found["positive"]["texts"] == 6


def test_contrast_by_output(client: TestClient, session: Session) -> None:
    assert session.loaded, "else the answer is to wait"
    texts = {"positive": ["cats and dogs", "a cat"], "negative": ["rain 19", "7 of 9"]}
    found = post(client, "/api/contrast", **texts, rank_by="output_score", top=3)
    outputs = [match["output"] for match in found["features"]]
    assert len(outputs) == 3 and found["outputs_measured"] >= 3
    assert [output["score"] for output in outputs] == sorted(
        (output["score"] for output in outputs), reverse=True
    )
    for output in outputs:
        assert all(visible(token) == token for token in output["own_tokens"])


def test_saved_searches(client: TestClient) -> None:
    assert client.get("/api/searches").json() == {"searches": []}
    saved = post(client, "/api/searches", name="cats", by="text", query={"query": TEXT})["search"]
    assert saved["query"] == {"by": "text", "query": TEXT}
    assert [one["name"] for one in client.get("/api/searches").json()["searches"]] == ["cats"]
    assert post(client, f"/api/searches/{saved['number']}/delete") == {"searches": []}


def test_the_queue_is_what_nobody_has_reviewed(client: TestClient, session: Session) -> None:
    values, fired = interest(session.index), session.index.statistics["fired"]
    expected = [int(n) for n in np.argsort(-values, kind="stable") if fired[n]]
    queue = client.get("/api/triage/queue").json()
    assert queue["features"] == expected and queue["left"] == queue["fired"] == len(expected)
    first, second, third = expected[:3]
    client.post(f"/api/picks/{first}", json={"verdict": "reject"})
    client.post(f"/api/picks/{second}", json={"note": "a note alone is no review"})
    client.post(f"/api/picks/{third}", json={"starred": True})
    queue = client.get("/api/triage/queue?limit=5").json()
    assert queue["features"] == [second, *expected[3:7]]
    assert queue["progress"]["reviewed"] == 2 and queue["left"] == len(expected) - 2
    assert client.get("/api/triage/queue?limit=0").status_code == 400


def test_a_card_has_what_one_needs_to_judge(client: TestClient, session: Session) -> None:
    number = client.get("/api/triage/queue").json()["features"][0]
    client.post(f"/api/picks/{number}", json={"label": "<i>tilted</i>"})
    text = client.get(f"/triage/{number}").text
    assert f'href="/features/{number}"' in text and "&lt;i&gt;tilted&lt;/i&gt;" in text
    assert text.count("<li class=example>") == min(6, len(session.index.feature(number).top)) + min(
        4, len(session.index.feature(number).random)
    )
    assert client.get("/triage/48").status_code == 404
    for path in ("/triage", "/search"):
        page = client.get(path)
        assert page.status_code == 200 and len(page.content) < 100_000
