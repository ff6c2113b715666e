"""Ground-truth recovery: scores of dictionaries that are right, permuted, partly right or wrong."""

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsteer.sae import InputError, SparseAutoencoder, TopKConfig
from sparsteer.training.evaluation.ground_truth.matching import best_assignment
from sparsteer.training.evaluation.known_features import KnownFeatures, recovery


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 10_000))
def test_the_assignment_is_the_best_of_all(rows: int, columns: int, seed: int) -> None:
    gain = np.random.default_rng(seed).integers(0, 6, (rows, columns)).astype(float)
    found = best_assignment(gain)
    chosen = found[found >= 0]
    assert len(found) == rows and len(set(chosen)) == len(chosen) == min(rows, columns)
    total = sum(gain[row, column] for row, column in enumerate(found) if column >= 0)
    small, large = (gain, columns) if rows <= columns else (gain.T, rows)
    best = max(
        sum(small[row, column] for row, column in enumerate(choice))
        for choice in permutations(range(large), len(small))
    )
    assert total == best


def orthogonal(n_features: int, width: int, active: float = 2.0) -> KnownFeatures:
    """Features whose codes are exact: each is a coordinate."""
    made = KnownFeatures.make(width, n_features, active=active)
    return KnownFeatures(torch.eye(width)[:n_features], made.rates)


def dictionary(rows: torch.Tensor, k: int) -> SparseAutoencoder:
    sae = SparseAutoencoder(TopKConfig(rows.shape[1], len(rows), k))
    with torch.no_grad():
        sae.W_enc.copy_(rows)
        sae.W_dec.copy_(rows)
    return sae


def test_the_right_dictionary_in_any_order_is_recovered_wholly() -> None:
    known = orthogonal(9, 12)
    order = torch.randperm(12)
    found = recovery(dictionary(torch.eye(12)[order], k=12), known, rows=5000)
    assert found == pytest.approx({"mcc": 1, "precision": 1, "recall": 1, "f1": 1})


def test_missing_features_count_as_nothing() -> None:
    known = orthogonal(8, 12)
    found = recovery(dictionary(torch.eye(12)[[1, 3, 5]], k=3), known, rows=5000)
    assert found == pytest.approx({"mcc": 3 / 8, "precision": 3 / 8, "recall": 3 / 8, "f1": 3 / 8})


def test_too_few_active_latents_lose_recall_alone() -> None:
    known = orthogonal(9, 12, active=2.2)
    found = recovery(dictionary(torch.eye(12), k=1), known, rows=20_000)
    assert found["mcc"] == pytest.approx(1)
    assert found["precision"] == 1
    x, strengths = known.sample(20_000, seed=1)
    kept = torch.zeros_like(strengths).scatter(1, strengths.argmax(1, keepdim=True), 1.0)
    kept *= strengths > 0
    recall = kept.sum(0) / (strengths > 0).sum(0)
    assert found["recall"] == pytest.approx(float(recall.mean()), abs=1e-6)
    assert len(x) == 20_000


def test_random_rows_recover_little() -> None:
    known = KnownFeatures.make(40, 60, active=4.0)
    found = recovery(SparseAutoencoder(TopKConfig(40, 60, 4), seed=5), known, rows=4000)
    assert found["mcc"] < 0.6
    assert found["f1"] < 0.4


def test_rows_are_the_sum_of_what_is_active() -> None:
    known = KnownFeatures.make(13, 30, active=3.0, seed=4)
    x, strengths = known.sample(40_000, seed=9)
    assert torch.allclose(x, strengths @ known.directions)
    assert float((strengths > 0).sum(1).double().mean()) == pytest.approx(3.0, abs=0.05)
    assert torch.allclose((strengths > 0).float().mean(0), known.rates, atol=0.015)
    assert torch.equal(x, known.sample(40_000, seed=9)[0])
    batches = known.batches(7, seed=2)
    first, second = next(batches), next(batches)
    assert first.shape == (7, 13) and not torch.equal(first, second)
    assert torch.equal(next(known.batches(7, seed=2)), first)
    assert not torch.equal(next(known.batches(7, seed=3)), first)


@pytest.mark.parametrize(("n_features", "active"), [(4, 3.0), (10, 0.0), (0, 1.0)])
def test_impossible_features_are_refused(n_features: int, active: float) -> None:
    with pytest.raises(InputError, match=r"active is|n_features is"):
        KnownFeatures.make(8, n_features, active=active)
