"""The verbs `score` and `select`, from one command line to the next, and their wrong input."""

import json
from pathlib import Path
from typing import Any

import pytest

from .conftest import Sparsteer


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Sums among words, a target of sums, and a place for the scores."""
    pool: list[dict[str, Any]] = [
        {"instruction": f"{a} + {a + 4} =", "output": str(2 * a + 4), "id": a} for a in range(9)
    ]
    pool += [{"instruction": f"abc {'hij ' * n}", "output": "fed", "id": -n} for n in range(9)]
    pool.append({"instruction": None, "id": 99})
    target = [{"text": "11 + 5 =\n\n16"}, {"text": "7 + 2 =\n\n9"}]
    for name, rows in (("pool", pool), ("target", target)):
        (tmp_path / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return {name: tmp_path / f"{name}.jsonl" for name in ("pool", "target", "scored", "best")}


def test_score_and_select(sparsteer: Sparsteer, files: dict[str, Path], run_folder: Path) -> None:
    pool, target, scored, best = files.values()
    words = ("score", pool, "--target", target, "--run", run_folder, "--out", scored)
    done = sparsteer(*words, "--json")
    assert done.status == 0
    values = done.values
    assert values["statuses"] == {"empty": 1, "ok": 18} and values["rows"] == 19
    assert values["text"]["fields"] == ["instruction", "output"]
    assert 0 < values["score"]["median"] < values["score"]["max"] <= 1
    assert "text of" in done.err and "scoring: 19 of 19 rows" in done.err
    done = sparsteer("select", scored, "--ratio", "0.25", "--out", best, "--json")
    assert done.status == 0
    assert (done.values["selected"], done.values["scored"], done.values["rows"]) == (5, 18, 19)
    lines = scored.read_text().splitlines()
    scores = {line: json.loads(line)["sparsteer_score"] or 0 for line in lines}
    top = sorted(lines, key=lambda line: -scores[line])[:5]
    assert best.read_text().splitlines() == [line for line in lines if line in top]
    # A person reads the same.
    words_of_3 = ("select", scored, "--count", 3, "--out", best)
    refused = sparsteer(*words_of_3)
    assert refused.status == 2 and "exists with other content" in refused.error
    shown = sparsteer(*words_of_3, "--force")
    assert shown.out == sparsteer(*words_of_3).out
    assert shown.status == 0 and "selected       3  of 19 rows" in shown.out
    assert f"{done.values['mean_tokens']['scored']:.1f} of a scored one" in shown.out
    again = sparsteer(*words)
    assert "when they were scored, and nothing was done now" in again.out
    assert "18  of 19 rows; empty 1" in again.out and "overlap" not in again.out
    assert f"{values['spearman_tokens']:+.2f}  rank correlation" in again.out
    assert f"next: sparsteer select {scored} --ratio" in again.out


def test_a_ratio_of_more_rows_than_are_scored_is_said(
    sparsteer: Sparsteer, files: dict[str, Path]
) -> None:
    files["scored"].write_text('{"s": 0.5}\n{"s": null}\n{"s": 0.25}\n')
    words = ("select", files["scored"], "--column", "s", "--out", files["best"], "--ratio")
    said = "selected       2  of 3 rows; the ratio asks for 3, but no more have a score"
    assert said in sparsteer(*words, 1).out
    values = sparsteer(*words, 1, "--json").values
    assert (values["asked"], values["selected"], values["scored"]) == (3, 2, 2)
    assert "the ratio asks for" not in sparsteer(*words, 0.6, "--force").out


@pytest.mark.parametrize(
    "words, sentence",
    [
        ("select {scored} --out {best} --ratio 2", "--ratio is 2.0, but must be above 0"),
        ("select {scored} --out {best}", "give either --ratio or --count"),
        ("select {scored} --out {best} --count 1000", "--count is 1000, but only 1 rows have a"),
        ("select {scored} --out {best} --ratio 1 --count 1", "give either --ratio or --count"),
        ("select {pool} --out {best} --ratio 1", "no column 'sparsteer_score'; its columns are "),
        ("select {pool} --out {best} --ratio 1 --column idd", "columns are id, instruction, outp"),
        ("score {pool} --out {scored}.jsonl --run x", "--target is missing"),
        (
            "score {pool} --out {scored}.jsonl --run x --target {best}",
            "--target {best} is not there",
        ),
        ("score {pool} --out {scored}.jsonl --run x --target {pool}", "x does not exist"),
        (
            "score {pool} --out {scored}.jsonl --run x --target {target} --field instr",
            "no column 'instr'; its columns are instruction, output, id",
        ),
    ],
)
def test_wrong_input_is_one_sentence(
    sparsteer: Sparsteer, files: dict[str, Path], words: str, sentence: str
) -> None:
    files["scored"].write_text('{"sparsteer_score": 0.5}\n')
    done = sparsteer(*words.format(**files).split())
    assert done.status == 2
    assert sentence.format(**files) in done.error


def test_a_limit_beyond_the_models_context_names_its_flag(
    sparsteer: Sparsteer, files: dict[str, Path], run_folder: Path
) -> None:
    words = ("--target", files["target"], "--run", run_folder, "--out", files["scored"])
    done = sparsteer("score", files["pool"], *words, "--max-length", 99_999)
    assert done.status == 2
    assert done.error.startswith("--max-length is 99999; it must lie between 1 and the 511 tokens")


def test_a_target_within_the_rows_is_said(
    sparsteer: Sparsteer, files: dict[str, Path], run_folder: Path
) -> None:
    pool, _, scored, _ = files.values()
    words = ("--run", run_folder, "--out", scored)
    done = sparsteer("score", pool, "--target", pool, *words)
    assert done.status == 0
    assert "overlap      18  rows are examples of the target themselves" in done.out
