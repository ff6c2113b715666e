"""The first page: what is open, and the list of features."""

import json
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from sparsteer.app.browser.feature_table import PER_PAGE
from sparsteer.app.browser.session import Session
from sparsteer.steering.features.listing import interest

from .pages import Page

HTML = {"Accept": "text/html"}


def features_of(page: Page) -> list[int]:
    links = page.attributes("a", "href")
    return [int(link.removeprefix("/features/")) for link in links if link.startswith("/features/")]


def test_the_most_interesting_come_first(client: TestClient, session: Session) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    page = Page(answer.text)
    page.require_harmless()
    numbers = features_of(page)
    values = interest(session.index)[numbers]
    fired = int((session.index.statistics["fired"] > 0).sum())
    assert len(numbers) == min(fired, PER_PAGE)
    assert values.tolist() == sorted(values, reverse=True)


def test_every_number_is_explained(client: TestClient) -> None:
    page = Page(client.get("/").text)
    named = [
        name for name in page.attributes("summary", "aria-label") if name.startswith("What is")
    ]
    n_facts = sum(tag == "dt" for tag, _ in page.elements)
    assert n_facts >= 9
    assert len(named) >= n_facts
    assert sum(tag == "svg" for tag, _ in page.elements) == 2
    assert all(page.attributes("svg", "aria-label"))


def test_a_run_without_metrics_says_how_to_measure(client: TestClient) -> None:
    assert "sparsteer eval" in client.get("/").text


def test_held_out_measures_of_an_import(client: TestClient, run: Path) -> None:
    measured = {"fvu": 0.123456, "explained_variance": 0.876544, "l0": 31.5, "dead_fraction": 0.25}
    (run / "import.json").write_text(json.dumps({"source": "x", "check": measured}))
    page = client.get("/").text
    assert "0.1235" in page and "31.5" in page and "25.0%" in page


@pytest.mark.parametrize("content", ["{", "[]", '{"check": {"fvu": "low"}}'])
def test_a_damaged_record_is_said_and_the_list_still_opens(
    client: TestClient, run: Path, content: str
) -> None:
    (run / "import.json").write_text(content)
    answer = client.get("/")
    assert answer.status_code == 200
    assert "import.json is damaged" in Page(answer.text).text
    assert features_of(Page(answer.text))


def test_filters_work_by_address_alone(client: TestClient, session: Session) -> None:
    fired = session.index.statistics["fired"]
    one, two = (int(number) for number in fired.argsort()[-2:])
    session.picks.change(one, label="Rain <b>", starred=True)
    session.picks.change(two, verdict="reject")
    assert features_of(Page(client.get("/", params={"show": "starred"}).text)) == [one]
    found = client.get("/", params={"label": "rain <B>"})
    assert features_of(Page(found.text)) == [one]
    assert "Rain <b>" in Page(found.text).text
    assert 'value="rain &lt;B&gt;"' in found.text
    assert set(features_of(Page(client.get("/", params={"reviewed": "yes"}).text))) == {one, two}
    numbers = features_of(Page(client.get("/", params={"sort": "number"}).text))
    assert numbers == list(range(session.index.n_latents))[:PER_PAGE]
    nothing = client.get("/", params={"label": "nobody says this"})
    assert "No feature is like that" in nothing.text


def test_an_unknown_filter_is_said(client: TestClient) -> None:
    answer = client.get("/", params={"sort": "size"}, headers=HTML)
    assert answer.status_code == 400
    assert "size" in Page(answer.text).text


def test_a_page_beyond_the_last_shows_the_last(client: TestClient, session: Session) -> None:
    numbers = features_of(Page(client.get("/", params={"page": "9999", "sort": "number"}).text))
    assert numbers[-1] == session.index.n_latents - 1


def test_pages_follow_each_other(
    client: TestClient, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparsteer.app.browser.pages.overview.PER_PAGE", 20)
    seen: list[int] = []
    address = "/?sort=number"
    for _ in range(10):
        page = Page(client.get(address).text)
        seen += features_of(page)
        following = [
            given["href"] or "" for _, given in page.elements if given.get("rel") == "next"
        ]
        if not following:
            break
        address = following[0]
    assert seen == list(range(session.index.n_latents))
