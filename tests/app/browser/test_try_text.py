"""Where a feature fires in a text that is typed."""

import pytest
import torch
from starlette.testclient import TestClient

from sparsteer.app.browser.session import Session
from sparsteer.sae.common.text import visible
from sparsteer.steering.encoding import encode_texts

TEXT = "rain\nand <b>wind</b> \u202e \u0645\u0631\u062d\u0628\u0627 \u20ac"


def test_activations_are_those_of_the_autoencoder(client: TestClient, session: Session) -> None:
    with session.using_model() as loaded:
        (read,) = encode_texts(*loaded, [TEXT])
    dense_CF = torch.zeros(len(read.codes.indices), session.index.n_latents)
    dense_CF.scatter_(1, read.codes.indices.long(), read.codes.values.float())
    kept = [place for place, counts in enumerate(read.kept) if counts]
    fired = [int(feature) for feature in dense_CF.sum(0).nonzero()[:4, 0]]
    assert fired
    for feature in fired:
        answer = client.post("/api/activations", json={"text": TEXT, "feature": feature})
        tokens = answer.json()["tokens"]
        assert len(tokens) == len(read.tokens)
        found = [tokens[place]["activation"] for place in kept]
        assert found == pytest.approx([float(value) for value in dense_CF[:, feature]], abs=1e-5)
        assert all(token["activation"] == 0 for token in tokens if not token["counts"])
        assert "".join(token["text"] for token in tokens) == visible(TEXT)
        assert max(token["level"] for token in tokens) >= 1


def test_an_empty_text(client: TestClient, session: Session) -> None:
    _ = session.loaded
    answer = client.post("/api/activations", json={"text": "", "feature": 1})
    assert answer.json()["tokens"] == []


def test_a_long_text_is_cut_and_a_longer_one_refused(client: TestClient, session: Session) -> None:
    _ = session.loaded
    answer = client.post("/api/activations", json={"text": "ab" * 5000, "feature": 1}).json()
    assert answer["truncated"] and len(answer["tokens"]) <= 512
    answer = client.post("/api/activations", json={"text": "a" * 30_000, "feature": 1})
    assert answer.status_code == 400
    assert "20,000 characters" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "body", [{"text": "a", "feature": 10**6}, {"text": "a", "feature": -1}, {"text": "a"}, {}]
)
def test_what_is_no_request(client: TestClient, body: dict[str, object]) -> None:
    answer = client.post("/api/activations", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


def test_while_the_model_is_read_it_says_so(
    client: TestClient, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "model_status", "loading")
    answer = client.post("/api/activations", json={"text": "a", "feature": 1})
    assert answer.status_code == 503
    assert "still being read" in answer.json()["error"]["message"]
    monkeypatch.undo()
    _ = session.loaded
