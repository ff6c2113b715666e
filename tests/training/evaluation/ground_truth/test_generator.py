"""Rows of known features: rates, trees, correlations and strengths are those of the settings."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from sparsteer.kernels.codes import COOEntries
from sparsteer.kernels.numerics import row_norms
from sparsteer.sae import InputError
from sparsteer.training.evaluation.ground_truth.config import SIZES, FeatureSettings
from sparsteer.training.evaluation.ground_truth.generator import Purpose, SyntheticFeatures
from sparsteer.training.evaluation.ground_truth.rates import (
    drawn_rates,
    levels,
    rates_left,
    wanted_rates,
)

FEW = FeatureSettings(
    n_features=41,
    d_model=13,
    max_rate=0.45,
    min_rate=0.05,
    n_roots=2,
    branching=3,
    depth=2,
    correlation_rank=0,
    orthogonal_steps=0,
)
N_ROWS = 60_000


def sampled(
    features: SyntheticFeatures, n_rows: int = N_ROWS, seed: int = 0
) -> tuple[torch.Tensor, COOEntries, torch.Tensor]:
    """Rows, the entries, and these as a dense matrix."""
    x, active = features.sample(n_rows, features.generator(seed, "measuring"))
    dense = torch.zeros(n_rows, features.settings.n_features)
    dense[active.rows, active.columns] = active.values
    return x, active, dense


def assert_rates(found: torch.Tensor, expected: torch.Tensor, n_rows: int) -> None:
    """Within five standard errors."""
    error = (expected * (1 - expected) / n_rows).sqrt()
    assert ((found.double() - expected).abs() <= 5 * error).all()


def test_rates_are_those_expected() -> None:
    features = SyntheticFeatures.make(FEW)
    _, _, dense = sampled(features)
    assert_rates((dense > 0).double().mean(0), features.expected_rates(), N_ROWS)


def test_free_features_have_the_wanted_rates() -> None:
    wanted = wanted_rates(FEW)
    assert (float(wanted[0]), float(wanted[-1])) == pytest.approx((0.45, 0.05))
    falling = torch.arange(1, 42).double().rsqrt()
    ratio = (wanted[5] - wanted[-1]) / (wanted[0] - wanted[-1])
    expected = (falling[5] - falling[-1]) / (falling[0] - falling[-1])
    assert float(ratio) == pytest.approx(float(expected), rel=1e-5)
    left = rates_left(FEW, drawn_rates(FEW, wanted))
    free = slice(FEW.n_in_trees, None)
    assert torch.equal(left[free], wanted[free].double())
    assert torch.equal(left[:2], wanted[:2].double())


def test_a_child_of_equal_siblings_wins_a_fair_share() -> None:
    """Of three that are always drawn each wins a third."""
    one = dataclasses.replace(FEW, n_features=4, n_roots=1, depth=1)
    left = rates_left(one, torch.tensor([0.6, 1.0, 1.0, 1.0]))
    assert left.numpy().tolist() == pytest.approx([0.6, 0.2, 0.2, 0.2])
    two = rates_left(one, torch.tensor([1.0, 1.0, 1.0, 0.0]))
    assert two.numpy().tolist() == pytest.approx([1.0, 0.5, 0.5, 0.0])


def test_children_are_active_only_where_their_parent_is_and_one_at_a_time() -> None:
    _, _, dense = sampled(SyntheticFeatures.make(FEW), 5000)
    is_active = dense > 0
    seen = 0
    for parents, children in levels(FEW):
        of_parent = is_active[:, children].reshape(len(dense), -1, FEW.branching).sum(-1)
        assert int(of_parent.max()) == 1
        assert not of_parent[~is_active[:, parents]].any()
        seen += children.stop - children.start
    assert seen == FEW.n_in_trees - FEW.n_roots == 24


def test_the_trees_are_laid_out_level_by_level() -> None:
    assert list(levels(FEW)) == [(slice(0, 2), slice(2, 8)), (slice(2, 8), slice(8, 26))]
    assert SIZES["16k"].features.level_ends == (128, 640, 2688, 10_880)
    assert list(levels(dataclasses.replace(FEW, n_roots=0))) == []


def test_strengths_follow_the_rank_and_the_parent() -> None:
    still = SyntheticFeatures.make(dataclasses.replace(FEW, strength_spread=0.0))
    _, active, _ = sampled(still, 3000)
    assert torch.allclose(active.values, still.mean_strengths[active.columns])
    assert (float(still.mean_strengths[0]), float(still.mean_strengths[-1])) == (5.0, 4.0)

    lively = dataclasses.replace(still, spreads=torch.full((41,), 1.5))
    _, _, dense = sampled(lively, 40_000)
    parents, children = next(iter(levels(FEW)))
    parent = dense[:, parents].repeat_interleave(FEW.branching, 1)
    child = dense[:, children]
    both = child > 0
    share = child / (parent / lively.mean_strengths[parents].repeat_interleave(FEW.branching))
    for i in range(child.shape[1]):
        own = share[both[:, i], i].double()
        mean = float(lively.mean_strengths[children][i])
        assert float(own.mean()) == pytest.approx(mean, abs=5 * 1.5 / len(own) ** 0.5 + 0.02)


def test_features_are_active_together_as_their_factors_say() -> None:
    settings = FeatureSettings(
        n_features=7,
        d_model=5,
        max_rate=0.4,
        min_rate=0.1,
        n_roots=0,
        correlation_rank=1,
        strength_spread=0.0,
        orthogonal_steps=0,
    )
    weights = torch.tensor([0.9, 0.8, -0.9, 0.5, 0.0, -0.6, 0.95])
    features = dataclasses.replace(SyntheticFeatures.make(settings), factors=weights[:, None])
    _, _, dense = sampled(features)
    found = (dense > 0).double().T @ (dense > 0).double() / N_ROWS
    # Given the factor, features are independent: integrate over it.
    nodes, density = np.polynomial.hermite_e.hermegauss(120)
    hidden, density = torch.as_tensor(nodes), torch.as_tensor(density / density.sum())
    thresholds = math.sqrt(2) * torch.erfinv(1 - 2 * features.drawn_rates.double())
    shared = weights.double()[:, None] * hidden
    own = (1 - weights.double().square()).sqrt()[:, None]
    given = torch.erfc((thresholds[:, None] - shared) / own / math.sqrt(2)) / 2
    together = (given * density) @ given.T
    off = ~torch.eye(7, dtype=torch.bool)
    assert_rates(found[off], together[off], N_ROWS)
    assert_rates(found.diagonal(), features.drawn_rates.double(), N_ROWS)
    assert float(together[0, 1]) > 1.5 * float(features.drawn_rates[0] * features.drawn_rates[1])


def test_correlations_do_not_spoil_the_rates_of_free_features() -> None:
    features = SyntheticFeatures.make(
        dataclasses.replace(FEW, correlation_rank=3, correlation_scale=2.0)
    )
    assert float(features.factors.square().sum(-1).max()) == pytest.approx(0.99)
    _, _, dense = sampled(features)
    free = slice(FEW.n_in_trees, None)
    found = (dense[:, free] > 0).double().mean(0)
    assert_rates(found, features.expected_rates()[free], N_ROWS)


def test_a_row_is_the_sum_of_what_is_active_and_the_bias() -> None:
    features = SyntheticFeatures.make(FEW)
    x, active, dense = sampled(features, 500)
    assert torch.allclose(x, dense @ features.directions + features.bias, atol=1e-4)
    assert float(row_norms(features.bias)) == pytest.approx(0.5, rel=1e-5)
    assert torch.allclose(row_norms(features.directions), torch.ones(41))
    assert (active.rows.diff() >= 0).all() and float(active.values.min()) > 0


def test_rows_without_anything_active_are_the_bias() -> None:
    rare = dataclasses.replace(FEW, max_rate=2e-3, min_rate=1e-3)
    features = SyntheticFeatures.make(rare)
    x, active, _ = sampled(features, 50)
    empty = torch.ones(50, dtype=torch.bool)
    empty[active.rows] = False
    assert empty.any()
    assert torch.equal(x[empty], features.bias.expand(int(empty.sum()), -1))


def test_seeds_reproduce_and_differ() -> None:
    features, same = SyntheticFeatures.make(FEW), SyntheticFeatures.make(FEW)
    assert torch.equal(features.directions, same.directions)
    assert torch.equal(features.spreads, same.spreads)
    other = SyntheticFeatures.make(dataclasses.replace(FEW, seed=1))
    assert not torch.equal(features.directions, other.directions)

    def rows(seed: int, purpose: Purpose = "training") -> torch.Tensor:
        generator = features.generator(seed, purpose)
        return torch.cat([features.sample(9, generator)[0] for _ in range(2)])

    assert torch.equal(rows(3), rows(3))
    assert not torch.equal(rows(3)[:9], rows(3)[9:])
    for other_rows in (rows(4), rows(3, "measuring"), rows(3 + 2**32)):
        assert not torch.equal(rows(3), other_rows)


def test_the_published_size_has_the_published_l0() -> None:
    """About 34 features are active on a row, 25 of the first 4,096 (SAELens' docs)."""
    size = SIZES["16k"]
    left = rates_left(size.features, drawn_rates(size.features, wanted_rates(size.features)))
    assert float(left.sum()) == pytest.approx(34, abs=0.6)
    assert float(left[: size.n_latents].sum()) == pytest.approx(25, abs=0.5)


def test_the_small_size_is_as_crowded_as_the_published_one() -> None:
    active: list[float] = []
    for size in SIZES.values():
        settings = size.features
        assert size.n_latents * 4 == settings.n_features
        assert settings.n_in_trees / settings.n_features == pytest.approx(0.664, abs=1e-3)
        left = rates_left(settings, drawn_rates(settings, wanted_rates(settings)))
        assert float(left[: size.n_latents].sum()) == pytest.approx(size.l0, abs=0.5)
        active.append(float(left.sum()) / settings.d_model)
    assert active[0] == pytest.approx(active[1], rel=0.07)


def test_too_many_trees_are_refused() -> None:
    with pytest.raises(InputError, match=r"n_roots is 128, whose trees .* have 10880 features"):
        FeatureSettings(n_features=10_000)
    with pytest.raises(InputError, match="min_rate is"):
        FeatureSettings(min_rate=0.5)
