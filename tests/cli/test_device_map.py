"""--device-map: verbs give the same with a language model that lies partly on disk."""

import json
from pathlib import Path

import pytest

from .conftest import CACHE_WORDS, SITES, Sparsteer

PLACES = {
    **{"model.embed_tokens": "disk", "model.rotary_emb": "cpu", "model.norm": "cpu"},
    **{
        "lm_head": "cpu",
        "model.layers.0": "cpu",
        "model.layers.1": "disk",
        "model.layers.2": "cpu",
    },
}
SPREAD = ("--device-map", json.dumps(PLACES))


@pytest.mark.slow
def test_caches_are_alike(
    sparsteer: Sparsteer, tiny_model_folder: Path, corpus: Path, tmp_path: Path
) -> None:
    words = ("cache", "--model", tiny_model_folder, "--dataset", corpus, "--tokens", "600")
    words = (*words, "--site", *SITES, *CACHE_WORDS)
    for name, more in (("whole", ()), ("spread", SPREAD)):
        assert sparsteer(*words, "--out", tmp_path / name, *more).status == 0
    shards = [(tmp_path / name / "shard-00000.safetensors") for name in ("whole", "spread")]
    assert shards[0].read_bytes() == shards[1].read_bytes()
    # Where the model lies decides nothing, so that either goes on with the other's.
    assert "is complete" in sparsteer(*words, "--out", tmp_path / "whole", *SPREAD).err


@pytest.mark.slow
def test_figures_and_texts_are_alike(sparsteer: Sparsteer, run_folder: Path, cache: Path) -> None:
    sae = run_folder / "sae"
    words = ("eval", sae, "--cache", cache, "--contexts", 2, "--rows", 50, "--json")
    whole, spread = sparsteer(*words).values, sparsteer(*words, *SPREAD).values
    for name in ("loss", "loss_with_sae", "kl_with_sae"):  # with another kind of attention
        expected = pytest.approx(whole["language_model"][name], rel=1e-4)
        assert spread["language_model"][name] == expected, name
    words = ("generate", sae, "--feature", 3, "--max-activation", 4, "--prompt", "a cab")
    words = (*words, "--max-new-tokens", 5, "--json")
    whole, spread = sparsteer(*words).values, sparsteer(*words, *SPREAD).values
    assert whole["results"] == spread["results"]


def test_it_is_in_place_of_a_device(sparsteer: Sparsteer, run_folder: Path, cache: Path) -> None:
    words = ("eval", run_folder / "sae", "--cache", cache, "--contexts", 0)
    refused = sparsteer(*words, "--device", "cpu", "--device-map", "auto")
    assert refused.status == 2
    assert "--device is cpu, but device_map says where" in refused.error
