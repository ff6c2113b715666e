"""Probes: the split, what is chosen on the training side alone, and the fit beside an oracle."""

import math
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsteer.kernels.codes import Codes
from sparsteer.training.evaluation.probing.pooled import (
    PooledCodes,
    PooledText,
    join_texts,
    pool_codes,
)
from sparsteer.training.evaluation.probing.probes import (
    Score,
    dense_probe,
    fit_probe,
    held_out_texts,
    ranked_latents,
    shuffled,
)

N_TEXTS, N_LATENTS = 120, 23
TEXTS = [f"text {number}" for number in range(N_TEXTS)]
LABELS = torch.arange(N_TEXTS) % 2 == 1


@pytest.fixture
def dense() -> Tensor:
    """Pooled values of which a third are above 0; latent 4 is larger where the label is true, and
    latent 9 where it is not, by less."""
    values = torch.rand(N_TEXTS, N_LATENTS, dtype=torch.float64)
    values[:, 4] += 0.8 * LABELS
    values[:, 9] += 0.5 * ~LABELS
    return (values - 0.6).relu()


def sparse(dense_NF: Tensor) -> PooledCodes:
    texts = [PooledText(row_F.nonzero()[:, 0], row_F[row_F > 0]) for row_F in dense_NF]
    return join_texts(texts, dense_NF.shape[1])


def test_a_split_has_half_of_each_label_on_both_sides() -> None:
    held_out = held_out_texts(TEXTS, LABELS, seed=0)
    for label in (False, True):
        assert int((held_out & (LABELS == label)).sum()) == 18
    assert not torch.equal(held_out, held_out_texts(TEXTS, LABELS, seed=1))


def test_a_split_depends_on_texts_alone() -> None:
    order = torch.randperm(N_TEXTS)
    moved = held_out_texts([TEXTS[int(i)] for i in order], LABELS[order], seed=3)
    assert torch.equal(moved, held_out_texts(TEXTS, LABELS, seed=3)[order])


def test_latents_are_ranked_by_the_difference_of_training_means(dense: Tensor) -> None:
    codes, training = sparse(dense), ~held_out_texts(TEXTS, LABELS, seed=0)
    expected = dense[training & LABELS].mean(0) - dense[training & ~LABELS].mean(0)
    torch.testing.assert_close(codes.mean_differences(LABELS, training), expected)
    assert torch.equal(ranked_latents(codes, LABELS, ~training, 2), torch.tensor([4, 9]))
    assert len(ranked_latents(codes, LABELS, ~training, 50)) == N_LATENTS


def test_held_out_texts_choose_nothing(dense: Tensor) -> None:
    held_out = held_out_texts(TEXTS, LABELS, seed=0)
    changed = dense.clone()
    changed[held_out] = torch.rand_like(changed[held_out]) + 5 * LABELS[held_out, None]
    before, after = sparse(dense), sparse(changed)
    assert torch.equal(
        ranked_latents(before, LABELS, held_out, N_LATENTS),
        ranked_latents(after, LABELS, held_out, N_LATENTS),
    )
    assert torch.equal(before.firing(~held_out), after.firing(~held_out))


def test_chosen_columns_keep_their_order(dense: Tensor) -> None:
    latents = torch.tensor([9, 0, 4])
    assert torch.equal(sparse(dense).columns(latents), dense[:, latents])
    silent = dense.clone()
    silent[:, 0] = 0
    assert 0 not in sparse(silent).firing(torch.ones(N_TEXTS, dtype=torch.bool))


@pytest.mark.parametrize("last", [False, True])
def test_codes_are_pooled_over_the_tokens_of_each_text(last: bool) -> None:
    lengths = [1, 3, 2]
    indices = torch.tensor([[1, 0], [1, 2], [2, 0], [4, 2], [0, 0], [3, 1]])
    values = torch.tensor([[2.0, 0], [1, 3], [5, 1], [2, 4], [0, 0], [1, 0]])
    norms = torch.tensor([1.0, 2, 1, 1, 0.5], dtype=torch.float64)
    found = pool_codes(Codes(indices, values), lengths, norms, last=last)
    dense_CF = Codes(indices, values).dense(5).double() * norms
    for (latents, pooled), own in zip(found, torch.split(dense_CF, lengths), strict=True):
        expected = own[-1] if last else own.mean(0)
        assert torch.equal(latents, expected.nonzero()[:, 0])
        torch.testing.assert_close(pooled, expected[latents])


@pytest.mark.parametrize("n_columns", [1, 5, 40])
def test_a_probe_is_that_of_scikit_learn(n_columns: int) -> None:
    linear: Any = pytest.importorskip("sklearn.linear_model")
    metrics = import_module("sklearn.metrics")
    held_out = held_out_texts(TEXTS, LABELS, seed=2)
    columns = 3 + torch.randn(N_TEXTS, n_columns, dtype=torch.float64) * torch.logspace(
        -5, 3, n_columns, dtype=torch.float64
    )
    columns[:, 0] += 2e-5 * LABELS
    training = columns[~held_out]
    scaled = ((columns - training.mean(0)) / training.std(0, correction=0)).numpy()
    n_training, labels = len(training), LABELS.numpy()
    oracle = linear.LogisticRegression(C=1 / (0.1 * n_training), tol=1e-10, max_iter=10_000)
    oracle.fit(scaled[~held_out], labels[~held_out])
    score = fit_probe(columns, LABELS, held_out, penalty=0.1)
    assert score.accuracy == oracle.score(scaled[held_out], labels[held_out])
    logits = oracle.decision_function(scaled[held_out])
    assert math.isclose(score.auc, metrics.roc_auc_score(labels[held_out], logits), abs_tol=1e-9)


def test_units_of_columns_do_not_matter_and_constant_ones_take_no_part(dense: Tensor) -> None:
    held_out = held_out_texts(TEXTS, LABELS, seed=0)
    score = fit_probe(dense[:, [4, 9]], LABELS, held_out)
    assert score.accuracy > 0.8 and score.auc > 0.85
    units = torch.tensor([1e-6, 1e5], dtype=torch.float64)
    assert fit_probe(dense[:, [4, 9]] * units, LABELS, held_out) == score
    constant = torch.cat([dense[:, [4, 9]], torch.full((N_TEXTS, 2), 7.0)], dim=1)
    assert fit_probe(constant, LABELS, held_out) == score
    nothing = Score(0.5, 0.5)
    assert fit_probe(constant[:, 2:], LABELS, held_out) == nothing
    assert fit_probe(constant[:, :0], LABELS, held_out) == nothing


def test_shuffled_labels_tell_nothing_of_the_true_ones() -> None:
    held_out = held_out_texts(TEXTS, LABELS, seed=0)
    mixed = shuffled(LABELS, held_out, seed=0)
    assert torch.equal(mixed[held_out], LABELS[held_out])
    for label in (False, True):
        of_label = ~held_out & (LABELS == label)
        assert int(mixed[of_label].sum()) == int(of_label.sum()) // 2
    assert torch.equal(mixed, shuffled(LABELS, held_out, seed=0))
    assert not torch.equal(mixed, shuffled(LABELS, held_out, seed=1))


def test_a_dense_probe_finds_what_no_coordinate_shows() -> None:
    acts = torch.randn(N_TEXTS, 12, dtype=torch.float64)
    direction = torch.ones(12, dtype=torch.float64) / 12**0.5
    acts += (3.0 * LABELS - 1.5 - acts @ direction)[:, None] * direction
    acts *= torch.logspace(0, 2, 12, dtype=torch.float64)
    held_out = held_out_texts(TEXTS, LABELS, seed=0)
    dense = dense_probe(acts, TEXTS, LABELS, held_out, seed=0)
    assert dense.accuracy > 0.95
    best = max(fit_probe(acts[:, [i]], LABELS, held_out).accuracy for i in range(12))
    assert best < dense.accuracy
