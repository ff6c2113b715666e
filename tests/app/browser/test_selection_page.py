"""The selection page: files without paths, the cut that select makes, rows that are explained."""

import json
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from sparsteer.app.browser.config import ServeConfig
from sparsteer.app.browser.score_files import ScoreFiles
from sparsteer.app.browser.session import Session
from sparsteer.sae import LanguageModel
from sparsteer.steering.selection import Explainer, ScoreConfig, ScoredFile, score

TEXTS = [f"{word} {number}" for number in range(9) for word in ("cats and dogs", "rain", "<b>&")]
TEXTS[4] = "\u202eevil\x00"
HTML = {"Accept": "text/html"}


@pytest.fixture
def scored(run: Path, tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Scored rows beside the run."""

    def load(source: str, **options: object) -> LanguageModel:
        return tiny_model

    monkeypatch.setattr(LanguageModel, "load", load)
    rows, target = run.parent / "rows.jsonl", run.parent / "target.jsonl"
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*TEXTS, ""]))
    target.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS[::7]))
    out = run.parent / "scored.jsonl"
    score(ScoreConfig(file=str(rows), target=str(target), run=str(run), out=str(out), device="cpu"))
    return out


def text_of(page: str) -> str:
    body = re.sub(r"<svg.*?</svg>", " ", page, flags=re.S)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())


def test_files_are_found_and_opened_by_number(client: TestClient, scored: Path) -> None:
    listed = client.get("/selection").text
    assert re.findall(r"/selection/\d+", listed) == ["/selection/1"] and "scored.jsonl" in listed
    page = client.get("/selection/1", headers=HTML)
    assert page.status_code == 200
    for wrong in ("2", "0", "-1", "x", "..%2Fpicks.json"):
        assert client.get(f"/selection/{wrong}", headers=HTML).status_code in (400, 404)


def test_without_scores_the_page_says_how_to_make_them(client: TestClient) -> None:
    assert "sparsteer score rows.jsonl" in client.get("/selection").text


def test_a_number_of_no_file_is_not_found(client: TestClient) -> None:
    for address in ("/selection/99", "/selection/99/rows/1"):
        page = client.get(address, headers=HTML)
        assert page.status_code == 404 and "number 99" in text_of(page.text)


@pytest.mark.parametrize("ratio", [0.05, 0.5, 1.0])
def test_the_cut_is_in_the_page(client: TestClient, scored: Path, ratio: float) -> None:
    page = client.get(f"/selection/1?ratio={ratio}", headers=HTML)
    cut = ScoredFile.open(scored).cut(ratio)
    said = text_of(page.text)
    assert f"{cut['rows']} row" in said and f"at least {cut['lowest_taken']:.4f}" in said
    assert page.text.count("<svg") == 2 and "cut</text>" in page.text
    assert len(page.content) < 100_000


def test_a_ratio_out_of_range_is_a_sentence(client: TestClient, scored: Path) -> None:
    for ratio, says in (("0", "above 0"), ("1.5", "at most 1"), ("nan", "above 0"), ("x", "ratio")):
        page = client.get(f"/selection/1?ratio={ratio}", headers=HTML)
        assert page.status_code == 400 and says in text_of(page.text)


def test_ends_are_in_order_and_hostile_text_is_harmless(client: TestClient, scored: Path) -> None:
    page = client.get("/selection/1").text
    scores = [float(each) for each in re.findall(r"score (\d\.\d+)", page)]
    assert scores[:8] == sorted(scores[:8], reverse=True)
    assert scores[8:] == sorted(scores[8:])
    assert "<b>&" not in page
    hostile = client.get("/selection/1/rows/5").text
    assert "\u202e" not in hostile and "\x00" not in hostile
    assert "\u27e8U+202E\u27e9" in hostile and "\u27e8U+0000\u27e9" in hostile


def test_a_row_is_explained(client: TestClient, session: Session, scored: Path) -> None:
    explainer = Explainer(ScoredFile.open(scored), session.loaded)
    for number in (1, 3):
        found = explainer.explain(number)
        page = client.get(f"/selection/1/rows/{number}")
        said = text_of(page.text)
        assert f"{100 * found.score:.1f}% shared" in said
        assert f"{100 * found.only_row:.1f}% only in the row" in said
        listed = page.text.partition('id="shared-title"')[2].partition("</table>")[0]
        numbers = [int(each) for each in re.findall(r'href="/features/(\d+)"', listed)]
        assert numbers[:10] == [each.feature for each in found.features][: len(numbers)]


def test_rows_that_cannot_be_explained_are_shown_all_the_same(
    client: TestClient, session: Session, scored: Path
) -> None:
    _ = session.loaded
    target = scored.with_name("target.jsonl")
    then = target.read_text()
    target.write_text(then + '{"text": "more"}\n')
    page = client.get("/selection/1/rows/1", headers=HTML)
    assert page.status_code == 200 and "is not what the rows were scored" in text_of(page.text)
    target.unlink()
    page = client.get("/selection/1/rows/1", headers=HTML)
    assert "put it back, or beside the scores" in text_of(page.text)
    target.write_text(then)
    empty = client.get(f"/selection/1/rows/{len(TEXTS) + 1}", headers=HTML)
    assert empty.status_code == 200
    assert "has no score" in text_of(empty.text)
    beyond = client.get(f"/selection/1/rows/{len(TEXTS) + 2}", headers=HTML)
    assert beyond.status_code == 400 and "it has rows 1 to 28" in text_of(beyond.text)


def test_while_the_model_is_read_the_page_waits(
    client: TestClient, session: Session, scored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "model_status", "loading")
    page = client.get("/selection/1/rows/1").text
    assert 'http-equiv="refresh"' in page and "still being read" in page
    monkeypatch.undo()


def test_named_files_come_first_and_changed_ones_are_read_again(
    run: Path, scored: Path, tmp_path: Path
) -> None:
    plain = tmp_path / "plain.jsonl"

    def write(scores: list[float]) -> None:
        lines = [json.dumps({"text": "a b", "sparsteer_score": score}) for score in scores]
        plain.write_text("\n".join(lines) + "\n")

    write([0.5, 0.25])
    config = ServeConfig(run=str(run), scores=(str(plain),), device="cpu")
    session = Session(config, lambda sentence: None)
    files = ScoreFiles.of(session)
    assert ScoreFiles.of(session) is files
    assert [path.name for path in files.listed().values()] == ["plain.jsonl", "scored.jsonl"]
    assert files.open(1).scores_N.tolist() == [0.5, 0.25]
    assert files.open(1) is files.open(1)
    write([0.5, 0.25, 1.0])
    assert len(files.open(1)) == 3
    plain.unlink()
    assert list(files.listed()) == [2]


@pytest.mark.slow
def test_a_hundred_thousand_rows_are_a_small_page(
    run: Path, client: TestClient, session: Session, make_rows: Callable[[int], Path]
) -> None:
    path = make_rows(100_000)
    object.__setattr__(session.config, "scores", (str(path),))
    page = client.get("/selection/1", headers=HTML)
    assert page.status_code == 200 and "100,000" in text_of(page.text)
    assert len(page.content) < 100_000


@pytest.fixture
def make_rows(tmp_path: Path) -> Callable[[int], Path]:
    """Writes a file of so many scored rows."""

    def made(n_rows: int) -> Path:
        path = tmp_path / "many.jsonl"
        with path.open("w") as file:
            for number in range(n_rows):
                row = {
                    "text": f"row {number}",
                    "sparsteer_score": (number * 7919 % n_rows) / n_rows,
                    "sparsteer_status": "ok",
                    "sparsteer_tokens": 1 + number % 500,
                }
                file.write(json.dumps(row) + "\n")
        return path

    return made
