"""The verb `synthetic eval`: a table for people, an object for programs, results that go on."""

import json
from pathlib import Path

import pytest

from sparsteer.training.evaluation.ground_truth.config import (
    SIZES,
    BenchmarkSize,
    FeatureSettings,
    SizeName,
)

from .conftest import Sparsteer

WORDS = ("synthetic", "eval", "--seeds", 2, "--samples", 192)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sizes in the twinkling of an eye; the published rows do not look at them."""
    few = FeatureSettings(n_features=20, d_model=10, n_roots=1, depth=1, correlation_rank=2)
    l0s: dict[SizeName, int] = {"small": 2, "16k": 25}
    for name, l0 in l0s.items():
        size = BenchmarkSize(
            features=few, n_latents=30, l0=l0, samples=640, lr=1e-3, rows=100, batch_size=64
        )
        monkeypatch.setitem(SIZES, name, size)


def test_results_are_printed_and_go_on(sparsteer: Sparsteer, tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    one = sparsteer(*WORDS[:2], *WORDS[4:], "--seeds", 1, "--out", out, "--json")
    assert one.status == 0
    values = sparsteer(*WORDS, "--out", out, "--json").values
    assert [seed["seed"] for seed in values["seeds"]] == [0, 1]
    assert values["seeds"][0] == one.values["seeds"][0]
    assert values == json.loads(out.read_text())
    assert (values["trainer"]["tokens"], values["sae"]["k"], values["rows"]) == (192, 2, 100)
    page = sparsteer(*WORDS, "--out", out).out
    assert page.startswith("topk: 30 latents, trained on 192 rows with 20 features in 10 dimensio")
    for name in ("F1", "MCC", "uniqueness", "explained variance", "L0", "dead"):
        assert any(line.startswith(name) for line in page.splitlines()), name
    assert "the 95% interval of the mean over 2 seeds" in page
    assert "nothing is published at this size" in page and f"written: {out}" in page


def test_published_rows_stand_beside(sparsteer: Sparsteer) -> None:
    words = (*WORDS[:2], "--seeds", 1, "--samples", 64, "--size", "16k")
    page = sparsteer(*words, "--activation", "batch_topk", "--prefixes", 0.125, 0.5).out
    assert page.startswith("batch_topk, prefixes 4, 15: 30 latents")
    (line,) = (line for line in page.splitlines() if line.startswith("Matryoshka"))
    assert "(this kind)" in line and "0.8793 ± 0.0021" in line
    assert "of one seed no interval is known" in page
    assert "what differs from the published setup:" in page


def test_wrong_settings_are_one_sentence(sparsteer: Sparsteer, tmp_path: Path) -> None:
    done = sparsteer(*WORDS, "--l0", 31)
    assert done.status == 2
    assert done.error.startswith("--l0 is 31, but at the size small there are only 30 latents")
    done = sparsteer(*WORDS, "--prefixes", 40)
    assert done.status == 2 and done.error.startswith("--prefixes are 40, which do not rise")
    out = tmp_path / "other.json"
    out.write_text("{}")
    done = sparsteer(*WORDS, "--out", out)
    assert done.status == 2 and done.error.startswith(f"--out is {out}, which has results of")
    assert sparsteer("synthetic").error == "synthetic needs one more word: synthetic eval"
