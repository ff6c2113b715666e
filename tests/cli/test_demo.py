"""The verb demo, whole, on the tiny model."""

import json
from pathlib import Path

import pytest

from .conftest import Sparsteer


@pytest.fixture
def words(
    tiny_model_folder: Path,
    corpus: Path,
    tmp_path: Path,
    made_up_texts: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> list[str]:
    """A demo small enough for a test."""
    monkeypatch.setenv("SPARSTEER_CACHE", str(made_up_texts))
    flags = {
        "--model": tiny_model_folder,
        "--dataset": corpus,
        "--out": tmp_path / "demo",
        "--tokens": 3000,
        "--training-tokens": 2000,
        "--batch-size": 100,
        "--n-latents": 48,
        "--k": 4,
        "--contexts": 2,
        "--prompts": 5,
        "--new-tokens": 4,
    }
    return [str(word) for pair in flags.items() for word in pair]


@pytest.mark.slow
def test_the_whole_chain_and_again(sparsteer: Sparsteer, words: list[str], tmp_path: Path) -> None:
    done = sparsteer("demo", *words, "--json")
    assert done.status == 0
    values = done.values
    assert (values["tokens"], values["site"]) == (3000, "blocks.1.hook_resid_post")
    assert values["seconds"].keys() >= {"cache", "train_topk", "train_top_afa"}
    for measures in (values["saes"]["topk"], values["saes"]["top_afa"]):
        assert {*measures} == {"fvu", "l0", "dead_fraction", "loss_recovered", "tokens_per_second"}
        assert 0 < measures["fvu"]
    assert len(values["features_found"]) == 4
    conditions = ["base", "constant", "per_input", "per_token", "random_feature"]
    for name in ("toxicity", "toxic_fraction"):
        assert list(values[name]) == conditions
        assert all(0 <= value <= 1 for value in values[name].values())
    chosen = values["selection"]
    assert (chosen["pool"], chosen["selected"]) == (28 - 5, 2)
    assert chosen["precision_of_random"] == pytest.approx((14 - 5) / (28 - 5))
    assert 0 <= chosen["precision_of_target_source"] <= 1
    report = Path(values["report"])
    assert report == tmp_path / "demo" / "demo-report.html"
    assert "<html" in report.read_text()
    again = sparsteer("demo", *words)
    assert again.status == 0
    assert str(report) in again.out
    assert f"{values['saes']['topk']['fvu']:.4f}" in again.out
    assert f"{values['toxicity']['constant']:.3f}" in again.out
    assert "reused" in again.err


@pytest.mark.slow
def test_the_picks_of_the_demo_steer(
    sparsteer: Sparsteer, words: list[str], tmp_path: Path
) -> None:
    assert sparsteer("demo", *words, "--picks", "2", "--strength", "-3").status == 0
    demo = tmp_path / "demo"
    picks = demo / "picks.json"
    done = sparsteer(
        *(
            "generate",
            demo / "runs" / "topk",
            "--picks",
            picks,
            "--prompt",
            "abc de",
            "--max-new-tokens",
            "3",
            "--json",
        )
    )
    assert done.status == 0
    features = done.values["intervention"]["features"]
    assert [feature["strength"] for feature in features] == [-3, -3]


@pytest.mark.parametrize(
    ("flag", "value", "sentence"),
    [
        ("--dataset", "no.jsonl", "no.jsonl is not there"),
        ("--training-tokens", "7", "less than one batch"),
        ("--contexts", "0", "--contexts is 0"),
        ("--prompts", "0", "--prompts is 0"),
        ("--strength", "nan", "--strength is nan"),
        ("--subject", "sport", "a group that no row of"),
        ("--subject", "sport", "give one of stem, code"),
        ("--subject", "Stem", "did you mean stem?"),
        ("--new-tokens", "100000", "--new-tokens is 100000, more than"),
        ("--instructions", "no.jsonl", "--instructions no.jsonl is not there"),
        ("--toknes", "3", "perhaps you meant --tokens"),
    ],
)
def test_wrong_input(
    sparsteer: Sparsteer, words: list[str], flag: str, value: str, sentence: str
) -> None:
    done = sparsteer("demo", *words, flag, value)
    assert done.status == 2
    assert sentence in done.error


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"instruction": "do", "output": "done"}, "has no column `group`"),
        (
            {"group": "stem", "body": "x"},
            "has the columns group, body, none of them known as text; rename one to",
        ),
        ({"group": "stem", "text": "x"}, "only 3 rows of that group and 5 are the examples"),
    ],
)
def test_instruction_rows_are_looked_at_before_anything_is_trained(
    sparsteer: Sparsteer, words: list[str], tmp_path: Path, row: dict[str, str], sentence: str
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(3 * (json.dumps(row) + "\n"))
    done = sparsteer("demo", *words, "--instructions", file)
    assert done.status == 2
    assert sentence in done.error
    assert not (tmp_path / "demo" / "runs").exists()
