"""The verbs `detox eval` and `steer eval`: what they print and write."""

import json
from pathlib import Path

import pytest

from sparsteer.cli.main import main

WORDS = ("cat", "dog", "hen", "owl", "fox", "pig", "cow", "ant")


def write(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


@pytest.mark.slow
def test_a_study_is_printed_and_written(
    tiny_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [{"question": f"Is a {w} red?", "choices": ["yes", "no"], "answer": 0} for w in WORDS]
    questions = tmp_path / "red.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in asked))
    words = [
        *("--model", str(tiny_model_folder), "--out", str(tmp_path / "out"), "--device", "cpu"),
        *("--positive", write(tmp_path / "rude.jsonl", [f"you {w}!" for w in WORDS])),
        *("--negative", write(tmp_path / "kind.jsonl", [f"a good {w}." for w in WORDS])),
        *("--prompts", write(tmp_path / "prompts.jsonl", ["He said", "They saw"])),
        *("--neutral", write(tmp_path / "plain.jsonl", [f"The {w} is old." for w in WORDS])),
        *("--questions", str(questions), "--scorer", "toxicity-ngrams", "--cost", "kl=0.3"),
        *("--methods", "mean_difference", "prompt", "--continuations", "2"),
        *("--max-new-tokens", "3", "--tuning-size", "2", "--most-evaluations", "2"),
    ]
    assert main(["steer", "eval", *words, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    (row,) = [row for row in values["rows"] if row["method"] == "mean_difference"]
    contract = {"method", "tier", "edit", "strength", "n", "toxicity", "perplexity", "kl"}
    contract |= {"neutral_perplexity", "repetition", "capability", "fire_rate"}
    assert contract <= set(row)
    assert set(row["toxicity"]["toxicity-ngrams"]) == {"emt", "probability", "mean", "ci"}
    page = Path(values["page"])
    before = page.read_text()
    assert "mean_difference" in before
    assert main(["detox", "eval", *words]) == 0  # the same study
    assert "mean_difference" in capsys.readouterr().out
    assert page.read_text() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["detox", "eval", "--out", "o"], "run is missing"),
        (["detox", "eval", "r", "--out", "o", "--cost", "dose=3"], "--cost is 'dose=3'"),
        (["detox", "eval", "r", "--out", "o", "--positive", "p"], "without --negative"),
        (["steer", "eval", "r", "--out", "o"], "--positive"),
        (["detox", "eval", "r"], "--out is missing"),
    ],
)
def test_what_is_missing_is_said(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert message in capsys.readouterr().err
