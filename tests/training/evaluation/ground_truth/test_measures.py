"""Measures of recovery: planted dictionaries score 1 in any order, random ones as chance says."""

import dataclasses

import numpy as np
import pytest
import torch

from sparsteer.kernels.codes import Codes
from sparsteer.sae import JumpReLUConfig, SparseAutoencoder, TopKConfig
from sparsteer.sae.activations.jumprelu import set_thresholds
from sparsteer.training.evaluation.ground_truth.config import FeatureSettings
from sparsteer.training.evaluation.ground_truth.detection import Detection
from sparsteer.training.evaluation.ground_truth.generator import SyntheticFeatures
from sparsteer.training.evaluation.ground_truth.intervals import over_seeds
from sparsteer.training.evaluation.ground_truth.matching import (
    absolute_cosines,
    chance_cosine,
    mean_correlation_coefficient,
)
from sparsteer.training.evaluation.ground_truth.measures import measure_recovery

ORTHOGONAL = FeatureSettings(
    n_features=20,
    d_model=20,
    max_rate=0.4,
    min_rate=0.05,
    n_roots=2,
    branching=2,
    depth=1,
    correlation_rank=2,
    orthogonal_steps=0,
)


@pytest.fixture(scope="module")
def orthogonal() -> SyntheticFeatures:
    """Features whose strengths can be read off exactly: each is a coordinate."""
    return dataclasses.replace(SyntheticFeatures.make(ORTHOGONAL), directions=torch.eye(20))


@torch.no_grad()
def planted(features: SyntheticFeatures, chosen: list[int]) -> SparseAutoencoder:
    """Latents that are these features, each active above a small threshold."""
    config = JumpReLUConfig(features.settings.d_model, len(chosen), fixed_thresholds=True)
    sae = SparseAutoencoder(config)
    for weights in (sae.W_enc, sae.W_dec):
        weights.copy_(features.directions[chosen])
    sae.input_center.copy_(features.bias)
    set_thresholds(sae, torch.full((len(chosen),), 1e-3))
    return sae


def test_the_true_dictionary_scores_one_in_any_order(orthogonal: SyntheticFeatures) -> None:
    order = np.random.default_rng(0).permutation(20).tolist()
    for chosen in (list(range(20)), order):
        found = measure_recovery(planted(orthogonal, chosen), orthogonal, rows=5000)
        for name in ("f1", "precision", "recall", "mcc", "uniqueness", "explained_variance"):
            assert found[name] == pytest.approx(1), name
        assert found["l0"] == found["true_l0"] and found["dead_fraction"] == 0


def test_a_narrower_right_dictionary_scores_one_but_for_variance(
    orthogonal: SyntheticFeatures,
) -> None:
    found = measure_recovery(planted(orthogonal, [0, 3, 7, 11]), orthogonal, rows=5000)
    assert (found["f1"], found["uniqueness"]) == (1, 1)
    assert found["mcc"] == pytest.approx(1)
    assert found["explained_variance"] < 0.8
    assert found["l0"] < found["true_l0"]


def test_copies_of_a_feature_cost_uniqueness_and_mcc(orthogonal: SyntheticFeatures) -> None:
    found = measure_recovery(planted(orthogonal, [0, 0, 5, 5]), orthogonal, rows=2000)
    assert (found["f1"], found["uniqueness"]) == (1, 0.5)
    assert found["mcc"] == pytest.approx(0.5)


def test_latents_that_never_fire_count_as_nothing(orthogonal: SyntheticFeatures) -> None:
    sae = planted(orthogonal, [0, 3, 7, 11])
    set_thresholds(sae, torch.tensor([1e-3, 1e9, 1e9, 1e-3]))
    found = measure_recovery(sae, orthogonal, rows=2000)
    assert (found["f1"], found["precision"], found["recall"]) == (0.5, 0.5, 0.5)
    assert found["dead_fraction"] == 0.5


def test_firing_is_counted_as_by_hand(orthogonal: SyntheticFeatures) -> None:
    """A topk of 2 latents loses recall; compared with dense matrices, over parts of uneven size."""
    sae = SparseAutoencoder(TopKConfig(20, 9, 2), seed=3)
    found = measure_recovery(sae, orthogonal, rows=4100, seed=5)
    generator = orthogonal.generator(5, "measuring")
    parts = [orthogonal.sample(n, generator) for n in (4096, 4)]
    x = torch.cat([part[0] for part in parts])
    is_active = torch.zeros(4100, 20, dtype=torch.bool)
    for first, (_, active) in zip((0, 4096), parts, strict=True):
        is_active[active.rows + first, active.columns] = True
    fires = sae.encode(x).dense(9) > 0
    nearest = (sae.W_dec @ orthogonal.directions.T).abs().argmax(1)
    wanted = is_active[:, nearest]
    both = (fires & wanted).sum(0).double()
    precision, recall = both / fires.sum(0).clamp(min=1), both / wanted.sum(0)
    f1 = 2 * precision * recall / (precision + recall).clamp(min=1e-300)
    assert found["precision"] == pytest.approx(float(precision.mean()))
    assert found["recall"] == pytest.approx(float(recall.mean()))
    assert found["f1"] == pytest.approx(float(f1.mean()))
    assert found["true_l0"] == pytest.approx(float(is_active.sum(1).double().mean()))


def test_a_latent_without_a_feature_detects_nothing() -> None:
    detection = Detection(torch.tensor([1, -1]), n_features=3)
    codes = Codes(torch.tensor([[0, 1], [1, 0]]), torch.tensor([[1.0, 1.0], [2.0, 0.0]]))
    # With -1 for a number, the second latent of row 1 would be feature 2 of row 0.
    detection.update(codes, torch.tensor([0, 0]), torch.tensor([1, 2]))
    assert detection.precision().numpy().tolist() == [1, 0]
    assert detection.recall().numpy().tolist() == [1, 0]
    assert detection.f1().numpy().tolist() == [1, 0]


def test_random_directions_match_as_chance_says() -> None:
    """Below the expected largest cosine, as latents compete, and not far below."""
    generator = torch.Generator().manual_seed(4)
    features = torch.randn(3000, 48, generator=generator)
    latents = torch.randn(100, 48, generator=generator)
    cosines = absolute_cosines(latents, features)
    chance = chance_cosine(48, 3000)
    error = float(cosines.amax(1).std()) / 10
    assert float(cosines.amax(1).mean()) == pytest.approx(chance, abs=4 * error)
    assert chance - 0.03 < mean_correlation_coefficient(cosines) < chance + 4 * error
    # One other direction of two dimensions: the mean of |cosine| over the circle.
    assert chance_cosine(2, 1) == pytest.approx(2 / np.pi, abs=1e-4)
    assert chance_cosine(1, 5) == 1


def test_random_latents_detect_as_chance_says() -> None:
    """Latents that fire independently of their features: F1 is 2 p q / (p + q) of the rates."""
    settings = dataclasses.replace(ORTHOGONAL, n_features=60, d_model=64, n_roots=0, bias_norm=0.0)
    features = SyntheticFeatures.make(settings)
    apart = torch.as_tensor(np.linalg.qr(np.random.default_rng(1).normal(size=(64, 64)))[0]).float()
    features = dataclasses.replace(features, directions=apart[:60])
    sae = SparseAutoencoder(TopKConfig(64, 40, 5), seed=7)
    with torch.no_grad():
        # They read directions in which no row has anything.
        sae.W_enc.copy_(
            torch.randn(40, 64, generator=torch.Generator().manual_seed(2))
            @ (apart[60:].T @ apart[60:])
        )
        sae.b_enc.fill_(1.0)
        sae.b_enc.add_(0.05 * torch.arange(40))
    found = measure_recovery(sae, features, rows=20_000)
    # The last five latents always fire, the others never.
    nearest = absolute_cosines(sae.W_dec, features.directions).argmax(1)[-5:]
    rates = features.expected_rates()[nearest]
    assert found["f1"] == pytest.approx(float((2 * rates / (1 + rates)).sum()) / 40, rel=0.02)
    assert found["precision"] == pytest.approx(float(rates.sum()) / 40, rel=0.02)
    assert found["recall"] == pytest.approx(5 / 40)


def test_intervals_are_students() -> None:
    found = over_seeds([1.0, 2.0, 4.0])
    mean, sd = 7 / 3, (((4 / 3) ** 2 + (1 / 3) ** 2 + (5 / 3) ** 2) / 2) ** 0.5
    assert found["mean"] == pytest.approx(mean) and found["sd"] == pytest.approx(sd)
    half = 4.302653 * sd / 3**0.5  # t of 2 degrees of freedom
    assert (found["low"], found["high"]) == pytest.approx((mean - half, mean + half))
    assert over_seeds([0.5]) == {"mean": 0.5, "sd": None, "low": None, "high": None}
