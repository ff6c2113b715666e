"""The page of a feature, and of two side by side."""

import re
from pathlib import Path

import pytest
import torch
from starlette.testclient import TestClient

from sparsteer.app.browser.pairs import decoder_cosine
from sparsteer.app.browser.session import Session
from sparsteer.sae import SparseAutoencoder
from sparsteer.sae.common.text import visible
from sparsteer.steering.labels.machine_label import MachineLabel
from sparsteer.steering.labels.store import LabelStore

from .conftest import SILENT
from .pages import Page

HTML = {"Accept": "text/html"}


def busiest(session: Session, place: int = 0) -> int:
    return int(session.index.statistics["fired"].argsort()[::-1][place])


def test_everything_that_the_index_holds_is_on_the_page(
    client: TestClient, session: Session
) -> None:
    number = busiest(session)
    feature = session.index.feature(number)
    answer = client.get(f"/features/{number}")
    page = Page(answer.text)
    page.require_harmless()
    examples = [*feature.top, *feature.random, *feature.near_misses]
    examples += [example for group in feature.quantiles for example in group.examples]
    assert sum(given.get("class") == "example" for _, given in page.elements) == len(examples)
    joined = re.sub("\u2026", "", page.text)
    for example in examples:
        assert visible("".join(example.texts)) in joined
        assert f"document {example.document:,}, token {example.position:,}" in page.text
    for other in (*feature.neighbors, *feature.coactivating):
        assert f"/features/{other.feature}" in page.attributes("a", "href")
        assert f"/features/{number}/beside/{other.feature}" in page.attributes("a", "href")
    for token in (*(feature.positive_logits or ()), *(feature.negative_logits or ())):
        assert f"{token.logit:+.2f}" in page.text
    assert f"/playground?feature={number}" in page.attributes("a", "href")


def test_it_is_light(client: TestClient, session: Session) -> None:
    answer = client.get(f"/features/{busiest(session)}", headers={"Accept-Encoding": "gzip"})
    assert answer.headers["content-encoding"] == "gzip"
    assert len(answer.content) < 100_000
    assert int(answer.headers["content-length"]) < 25_000


def test_a_feature_that_never_fired(client: TestClient, session: Session) -> None:
    assert session.index.statistics["fired"][SILENT] == 0
    answer = client.get(f"/features/{SILENT}")
    assert answer.status_code == 200
    assert "never fired" in answer.text


def test_a_number_that_is_none(client: TestClient, session: Session) -> None:
    n = session.index.n_latents
    for address, says in (
        (f"/features/{n}", f"0 to {n - 1}"),
        ("/features/-1", "no feature -1"),
        ("/features?number=abc", "abc"),
        (f"/features/3/beside/{n}", f"0 to {n - 1}"),
        ("/features/x", "number"),
    ):
        answer = client.get(address, headers=HTML)
        is_number = "abc" not in address and not address.endswith("x")
        assert answer.status_code == (404 if is_number else 400), address
        assert says in Page(answer.text).text, address


def test_going_to_a_number(client: TestClient) -> None:
    answer = client.get("/features?number=+7", follow_redirects=False)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/features/7"


def test_the_pick_is_shown_and_its_label_escaped(client: TestClient, session: Session) -> None:
    number = busiest(session)
    hostile = '"><script>alert(1)</script>\u202e'
    session.picks.change(
        number, label=hostile, note="</textarea><b>", starred=True, verdict="keep", confidence=4
    )
    answer = client.get(f"/features/{number}")
    page = Page(answer.text)
    page.require_harmless()
    assert hostile in page.attributes("input", "value")
    assert "</textarea><b>" in page.text
    pressed = [given for _, given in page.elements if given.get("aria-pressed") == "true"]
    assert [{"data-star", "data-verdict", "data-confidence"} & set(given) for given in pressed] == [
        {"data-star"},
        {"data-verdict"},
        {"data-confidence"},
    ]
    title = answer.text[: answer.text.index("</title>")]
    assert "\u202e" not in title and "<script>alert" not in title


def test_two_features_side_by_side(client: TestClient, session: Session) -> None:
    one = busiest(session)
    feature = session.index.feature(one)
    other = feature.neighbors[0]
    answer = client.get(f"/features/{one}/beside/{other.feature}")
    page = Page(answer.text)
    page.require_harmless()
    assert f"{other.cosine:.3f}" in page.text
    assert {f"/features/{one}", f"/features/{other.feature}"} <= set(page.attributes("a", "href"))
    shown = sum(given.get("class") == "example" for _, given in page.elements)
    second = session.index.feature(other.feature)
    assert shown == len(feature.top[:8]) + len(second.top[:8])


def test_a_feature_beside_itself_is_the_same(client: TestClient, session: Session) -> None:
    number = busiest(session)
    page = Page(client.get(f"/features/{number}/beside/{number}").text)
    n_top = len(session.index.feature(number).top)
    assert "1.000" in page.text and f"of {n_top}" in page.text


def test_the_cosine_is_that_of_the_decoder(run: Path) -> None:
    decoder_FD = SparseAutoencoder.load(run / "sae").W_dec.detach().double()
    for one, other in ((0, 1), (5, 30), (7, 7)):
        expected = float(torch.cosine_similarity(decoder_FD[one], decoder_FD[other], dim=0))
        assert decoder_cosine(run, one, other) == pytest.approx(expected, abs=1e-6)


def test_a_label_of_a_machine_is_shown_as_such_and_yields_to_a_persons(
    client: TestClient, session: Session, run: Path
) -> None:
    number = busiest(session)
    store = LabelStore(run, sae=session.index.manifest["sae"])
    label = MachineLabel(
        feature=number,
        label="words <about> rain",
        model="some-model",
        endpoint="local",
        method="shown examples",
        detection=None,
        made="2026-01-01T00:00:00Z",
    )
    with store.writing():
        store.add(label)
    page = Page(client.get(f"/features/{number}").text)
    assert "machine words <about> rain" in " ".join(page.text.split())
    assert "Label by some-model, not scored" in " ".join(page.text.split())
    session.picks.change(number, label="rain")
    page = Page(client.get(f"/features/{number}").text)
    assert "Label by some-model" not in page.text
    assert "words <about> rain" in page.attributes("button", "data-label")
    assert "badge machine" not in client.get("/", params={"show": "picked"}).text
