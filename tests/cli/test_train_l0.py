"""`train --l0`: an L0 that is given, or found by pilots before training."""

from pathlib import Path
from typing import Any

import pytest

from .conftest import SITES, TRAIN_WORDS, Sparsteer


def words_for(cache: Path, out: Path, *more: Any) -> list[Any]:
    """As other tests train, without k."""
    usual = list(TRAIN_WORDS)
    if "--k" in usual:
        at = usual.index("--k")
        del usual[at : at + 2]
    return ["train", "--cache", cache, "--out", out, "--site", SITES[1], *usual, *more]


def test_a_number_is_k(sparsteer: Sparsteer, cache: Path, tmp_path: Path) -> None:
    done = sparsteer(*words_for(cache, tmp_path / "run", "--l0", 5), "--json")
    assert done.status == 0, done.err
    assert done.values["k"] == 5 and "chosen_l0" not in done.values
    assert not (tmp_path / "run-l0").exists()


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["ppl:30%", "cosine"])
def test_it_is_found_and_found_again(
    sparsteer: Sparsteer, cache: Path, tmp_path: Path, rule: str
) -> None:
    words = words_for(cache, tmp_path / "run", "--l0", rule)
    done = sparsteer(*words, "--json")
    assert done.status == 0, done.err
    chosen = done.values["chosen_l0"]
    assert chosen["rule"] == rule and done.values["k"] == chosen["l0"] >= 1
    pilots = sorted(path.name for path in (tmp_path / "run-l0").iterdir() if path.is_dir())
    n_latents = done.values["n_latents"]
    most = n_latents // 4
    if rule == "cosine":
        assert set(pilots) == {f"k{min(l0, most)}" for l0 in (8, 16, 32, 64, 128, 256)}
        measured = chosen["measured"]
        assert measured[str(chosen["l0"])] == min(measured.values())
    else:
        assert pilots == [f"k{min(256, most)}"]
        (choice,) = (c for c in chosen["measured"]["choices"] if c["of"] == "sae")
        assert chosen["l0"] == max(1, round(choice["l0"])) <= most
        assert choice["loss"] <= chosen["measured"]["loss_with_sae"] + 0.3
    weights = (tmp_path / "run" / "sae" / "sae.safetensors").read_bytes()
    again = sparsteer(*words, "--json")
    assert again.status == 0 and again.values["chosen_l0"] == chosen
    assert "is complete; nothing to train" in again.err
    assert (tmp_path / "run" / "sae" / "sae.safetensors").read_bytes() == weights
    damaged = tmp_path / "run-l0" / "l0.json"
    damaged.write_bytes(damaged.read_bytes()[:-20])
    refused = sparsteer(*words)
    assert refused.status == 2 and "l0.json" in refused.error


def test_wrong_input(sparsteer: Sparsteer, cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for more, why in (
        (("--l0", "ppl"), "--l0 is 'ppl'"),
        (("--l0", "4", "--grid", "seed=0,1"), "--l0 is 4, but a grid is given"),
        (("--l0", "cosine", "--dry-run"), "a dry run trains nothing"),
        (("--l0", "4", "--k", "4"), "--l0 is 4, and k is 4"),
    ):
        done = sparsteer(*words_for(cache, out, *more))
        assert done.status == 2 and why in done.error, done.err
    assert not out.exists()
