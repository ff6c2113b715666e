"""The verb demo, whole, on the tiny model."""

from pathlib import Path

import pytest

from .conftest import Sparsteer


@pytest.fixture
def words(tiny_model_folder: Path, corpus: Path, tmp_path: Path) -> list[str]:
    """A demo small enough for a test."""
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
    }
    return [str(word) for pair in flags.items() for word in pair]


def test_the_whole_chain_and_again(sparsteer: Sparsteer, words: list[str], tmp_path: Path) -> None:
    done = sparsteer("demo", *words, "--json")
    assert done.status == 0
    values = done.values
    assert (values["tokens"], values["site"]) == (3000, "blocks.1.hook_resid_post")
    assert values["seconds"].keys() >= {"cache", "train_topk", "train_top_afa"}
    for measures in (values["saes"]["topk"], values["saes"]["top_afa"]):
        assert {*measures} == {"fvu", "l0", "dead_share", "loss_recovered", "tokens_per_second"}
        assert 0 < measures["fvu"]
    report = Path(values["report"])
    assert report == tmp_path / "demo" / "demo-report.html"
    assert "<html" in report.read_text()
    again = sparsteer("demo", *words)
    assert again.status == 0
    assert str(report) in again.out
    assert f"{values['saes']['topk']['fvu']:.4f}" in again.out
    assert "reused" in again.err


@pytest.mark.parametrize(
    ("flag", "value", "sentence"),
    [
        ("--dataset", "no.jsonl", "there is no file no.jsonl"),
        ("--training-tokens", "7", "less than one batch"),
        ("--contexts", "0", "--contexts is 0"),
        ("--toknes", "3", "perhaps you meant --tokens"),
    ],
)
def test_wrong_input(
    sparsteer: Sparsteer, words: list[str], flag: str, value: str, sentence: str
) -> None:
    done = sparsteer("demo", *words, flag, value)
    assert done.status == 2
    assert sentence in done.error
