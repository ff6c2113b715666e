"""The dictionary that lies in the package: whole, small enough, and as good as its card says."""

import math

import pytest

from sparsteer.sae import SparseAutoencoder
from sparsteer.sae.common.files import read_json, sha256_file
from sparsteer.sae.common.shipped import CARD, NAMES, RECORD, shipped_folder
from sparsteer.sae.fingerprint import sae_fingerprint
from sparsteer.steering.features import FeatureIndex

MOST_BYTES = 30e6


@pytest.mark.parametrize("name", NAMES)
def test_it_is_whole_and_small(name: str) -> None:
    folder = shipped_folder(name)
    record = read_json(folder / RECORD, "record")
    for file, known in record["files"].items():
        assert sha256_file(folder / file) == known["sha256"]
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) <= MOST_BYTES
    assert record["sae"] == sae_fingerprint(SparseAutoencoder.load(name))
    assert all(source["license"] for source in record["sources"])


@pytest.mark.parametrize("name", NAMES)
def test_its_index_shows_features(name: str) -> None:
    index = FeatureIndex.of_run(name)
    fired = index.statistics["fired"]
    assert index.n_latents == SparseAutoencoder.load(name).config.n_latents
    assert (fired > 0).mean() > 0.95
    feature = index.feature(int(fired.argsort()[len(fired) // 2]))
    assert feature.top and feature.top[0].texts[feature.top[0].peak]
    assert math.isclose(feature.top[0].activation, feature.max_activation, rel_tol=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_its_figures_are_those_that_its_card_shows(name: str) -> None:
    folder = shipped_folder(name)
    card = (folder / CARD).read_text()
    evaluations = read_json(folder / RECORD, "record")["evaluations"]
    for title, file in evaluations.items():
        found = read_json(folder / file, "evaluation")
        assert f"### {title}" in card
        if "fvu" in found:
            assert f"| {found['fvu']:.4f}" in card
            assert found["language_model"]["loss_recovered"] >= 0.97
