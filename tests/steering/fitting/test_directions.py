"""The algebra of directions: planted ones, symmetries, and where they are not defined."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsteer.sae.common.errors import InputError
from sparsteer.steering.fitting.config import FitConfig
from sparsteer.steering.fitting.examples import Examples, unit
from sparsteer.steering.fitting.logistic_regression import fit_logistic
from sparsteer.steering.fitting.methods.caa import fit_caa
from sparsteer.steering.fitting.methods.covariance import fit_covariance
from sparsteer.steering.fitting.methods.logistic import fit_logistic_direction
from sparsteer.steering.fitting.methods.mean_difference import fit_mean_difference
from sparsteer.steering.fitting.methods.principal_component import fit_principal_component
from sparsteer.steering.fitting.methods.whitened_mean import fit_whitened_mean
from sparsteer.steering.fitting.separation import auroc
from sparsteer.steering.fitting.site_fit import SiteFit

from .conftest import length, pairs, randn, scored, sets, settings

OF_PAIRS = {
    "mean_difference": fit_mean_difference,
    "caa": fit_caa,
    "covariance": fit_covariance,
    "principal_component": fit_principal_component,
    "whitened_mean": fit_whitened_mean,
    "logistic": fit_logistic_direction,
}
CONFIG = settings()


def direction(fit: Callable[[Examples, FitConfig], SiteFit], examples: Examples) -> Tensor:
    found = fit(examples, CONFIG).direction_D
    assert found is not None
    return found


def planted(n: int = 30, width: int = 8) -> tuple[Tensor, Tensor]:
    """Positive and negative rows that differ along one direction by different amounts."""
    negative_PD, v_D = randn(n, width, seed=1), randn(width, seed=2)
    scales_P1 = 1 + randn(n, 1, seed=3).abs()
    return negative_PD + scales_P1 * v_D, negative_PD


@pytest.mark.parametrize("name", OF_PAIRS)
def test_permuting_pairs_changes_nothing(name: str) -> None:
    positive_PD, negative_PD = planted()
    order = torch.randperm(30, generator=torch.Generator().manual_seed(5))
    one = direction(OF_PAIRS[name], pairs(positive_PD, negative_PD))
    other = direction(OF_PAIRS[name], pairs(positive_PD[order], negative_PD[order]))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-8 if name == "logistic" else 1e-12)


@pytest.mark.parametrize("name", OF_PAIRS)
def test_swapping_the_sides_negates(name: str) -> None:
    positive_PD, negative_PD = planted()
    one = direction(OF_PAIRS[name], pairs(positive_PD, negative_PD))
    other = direction(OF_PAIRS[name], pairs(negative_PD, positive_PD))
    torch.testing.assert_close(one, -other, rtol=0, atol=1e-8 if name == "logistic" else 1e-12)


@pytest.mark.parametrize("name", OF_PAIRS)
def test_rescaled_and_shifted_activations_scale_the_direction(name: str) -> None:
    positive_PD, negative_PD = planted()
    one = direction(OF_PAIRS[name], pairs(positive_PD, negative_PD))
    shift_D = 7 * randn(8, seed=9)
    other = direction(OF_PAIRS[name], pairs(40 * positive_PD + shift_D, 40 * negative_PD + shift_D))
    torch.testing.assert_close(40 * one, other, rtol=1e-7, atol=0)


@pytest.mark.parametrize("name", [name for name in OF_PAIRS if name != "logistic"])
def test_rotated_activations_rotate_the_direction(name: str) -> None:
    positive_PD, negative_PD = planted()
    linalg: Any = torch.linalg  # untyped
    rotation_DD: Tensor = linalg.qr(randn(8, 8, seed=4))[0]
    one = direction(OF_PAIRS[name], pairs(positive_PD, negative_PD))
    other = direction(OF_PAIRS[name], pairs(positive_PD @ rotation_DD, negative_PD @ rotation_DD))
    torch.testing.assert_close(one @ rotation_DD, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", OF_PAIRS)
def test_equal_sides_have_no_direction(name: str) -> None:
    rows_PD = randn(10, 4)
    with pytest.raises(InputError, match="no direction between them"):
        direction(OF_PAIRS[name], pairs(rows_PD, rows_PD))


def test_a_contrast_of_rank_1_is_what_all_find() -> None:
    positive_PD, negative_PD = planted()
    v_D = randn(8, seed=2)
    for fit in (fit_mean_difference, fit_caa, fit_principal_component):
        found = direction(fit, pairs(positive_PD, negative_PD))
        torch.testing.assert_close(unit(found), unit(v_D), rtol=0, atol=1e-12)
    centered = fit_principal_component(
        pairs(positive_PD, negative_PD),
        settings("principal_component", pairs="p", center="pairs"),
    )
    assert centered.direction_D is not None
    torch.testing.assert_close(unit(centered.direction_D), unit(v_D), rtol=0, atol=1e-10)
    assert centered.details["explained_variance"] == pytest.approx(1.0)


def test_centering_loses_a_constant_contrast() -> None:
    """What published code does to the very signal; here it is refused, and not the default."""
    negative_PD, v_D = randn(12, 8), randn(8, seed=2)
    examples = pairs(negative_PD + v_D, negative_PD)
    torch.testing.assert_close(
        direction(fit_principal_component, examples), v_D, rtol=0, atol=1e-12
    )
    config = settings("principal_component", pairs="p", center="pairs")
    with pytest.raises(InputError, match="centered on their mean nothing is left"):
        fit_principal_component(examples, config)
    with pytest.raises(InputError, match="there is one pair"):
        fit_principal_component(pairs(randn(1, 4), randn(1, 4, seed=1)), config)


def test_a_component_without_sign_or_rank_is_refused() -> None:
    # The mean difference is along the first axis, the differences vary along the second.
    differences = torch.tensor([[1.0, 9.0, 0.0], [1.0, -9.0, 0.0]]).double()
    with pytest.raises(InputError, match="orthogonal to the mean difference"):
        direction(fit_principal_component, pairs(differences, torch.zeros_like(differences)))
    equal = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).double()
    with pytest.raises(InputError, match="equally large"):
        direction(fit_principal_component, pairs(equal, torch.zeros_like(equal)))


def test_of_many_rows_the_component_is_that_of_few() -> None:
    """More than twice as many rows as coordinates go another way."""
    positive_PD, negative_PD = planted(n=12)
    one = direction(fit_principal_component, pairs(positive_PD, negative_PD))
    five = [rows.repeat(5, 1) for rows in (positive_PD, negative_PD)]
    torch.testing.assert_close(direction(fit_principal_component, pairs(*five)), one)


def test_weights_of_rows_are_those_of_the_means() -> None:
    examples = sets(randn(3, 4), randn(2, 4, seed=1))
    weights_N = torch.tensor([1.0, 2.0, 5.0, 4.0, 1.0]).double()
    weighted = replace(examples, weights_N=weights_N)
    repeated = [
        rows.repeat_interleave(weights.long(), dim=0)
        for rows, weights in zip(examples.sides(), (weights_N[:3], weights_N[3:]), strict=True)
    ]
    torch.testing.assert_close(
        direction(fit_mean_difference, weighted), direction(fit_mean_difference, sets(*repeated))
    )


def test_two_scores_give_the_difference_of_means() -> None:
    examples = sets(randn(7, 5), randn(12, 5, seed=1))
    expected = direction(fit_mean_difference, examples)
    torch.testing.assert_close(direction(fit_covariance, examples), expected)
    half = scored(examples.rows_ND, 3 + 2 * examples.scores_N)
    torch.testing.assert_close(2 * direction(fit_covariance, half), expected)


def test_a_slope_is_recovered_whatever_is_added_to_the_scores() -> None:
    scores_N, v_D = randn(50), randn(6, seed=1)
    rows_ND = scores_N[:, None] * v_D + randn(6, seed=2)
    torch.testing.assert_close(direction(fit_covariance, scored(rows_ND, scores_N)), v_D)
    noisy_ND = rows_ND + randn(50, 6, seed=3)
    one, other = (direction(fit_covariance, scored(noisy_ND, scores_N + c)) for c in (0, 100))
    torch.testing.assert_close(one, other)


def test_the_published_length_of_east_is_a_factor() -> None:
    scores_N, rows_ND = randn(20).abs(), randn(20, 4, seed=1)
    found = fit_covariance(scored(rows_ND, scores_N), CONFIG)
    assert found.direction_D is not None
    published = scores_N @ (rows_ND - rows_ND.mean(0)) / scores_N.sum()
    torch.testing.assert_close(found.direction_D * found.details["east_factor"], published)


def test_centering_by_group_takes_off_what_a_group_shares() -> None:
    groups_N = torch.arange(40) % 4
    scores_N, v_D = randn(40), randn(6, seed=1)
    offsets_GD, offsets_G = 30 * randn(4, 6, seed=2), 5 * randn(4, seed=3)
    rows_ND = scores_N[:, None] * v_D + offsets_GD[groups_N]
    examples = scored(rows_ND, scores_N + offsets_G[groups_N], groups_N)
    config = settings("covariance", scored="s", center="group")
    found = fit_covariance(examples, config).direction_D
    assert found is not None
    torch.testing.assert_close(found, v_D)
    assert length(direction(fit_covariance, examples) - v_D) > 1
    constant = scored(rows_ND, offsets_G[groups_N], groups_N)
    with pytest.raises(InputError, match="the same within each group"):
        fit_covariance(constant, config)


def test_of_independent_scores_little_is_left() -> None:
    """As 1 / sqrt(N): a hundred times as many texts leave about a tenth."""
    norms = [
        length(direction(fit_covariance, scored(randn(n, 20, seed=n), randn(n, seed=n + 1))))
        for n in (200, 20_000)
    ]
    assert 5 < norms[0] / norms[1] < 20
    assert norms[1] < 2 * math.sqrt(20 / 20_000)


def test_whitening_finds_what_little_noise_hides() -> None:
    """Along the first axis the sides differ a little and vary less."""
    spread_D = torch.tensor([0.1, 1.0, 1.0, 10.0]).double()
    gap_D = torch.tensor([0.3, 0.0, 0.0, 3.0]).double()
    sides = [randn(400, 4, seed=seed) * spread_D for seed in (1, 2, 3, 4)]
    fitted = sets(sides[0] + gap_D, sides[1])
    held_out = sets(sides[2] + gap_D, sides[3])
    areas = {
        name: auroc(held_out.rows_ND @ direction(fit, fitted), held_out.is_positive_N)
        for name, fit in OF_PAIRS.items()
        if name in ("mean_difference", "whitened_mean", "logistic")
    }
    assert min(areas["whitened_mean"], areas["logistic"]) > areas["mean_difference"] + 0.2


def test_without_a_ridge_whitening_forgets_the_coordinates() -> None:
    """The projections on it are those in any other coordinates, up to their length."""
    positive_PD, negative_PD = planted(n=60)
    negative_PD = negative_PD + 0.2 * randn(60, 8, seed=7)
    mixing_DD = randn(8, 8, seed=5) + 3 * torch.eye(8).double()
    config = settings("whitened_mean", ridge=1e-13)
    one = fit_whitened_mean(sets(positive_PD, negative_PD), config).direction_D
    other = fit_whitened_mean(sets(positive_PD @ mixing_DD, negative_PD @ mixing_DD), config)
    assert one is not None and other.direction_D is not None
    back_D = mixing_DD @ other.direction_D
    torch.testing.assert_close(unit(back_D), unit(one), rtol=0, atol=1e-8)


def test_with_much_ridge_whitening_is_the_mean_difference() -> None:
    examples = sets(*planted())
    found = fit_whitened_mean(examples, settings("whitened_mean", ridge=1e9)).direction_D
    assert found is not None
    torch.testing.assert_close(found, direction(fit_mean_difference, examples), rtol=1e-6, atol=0)


@pytest.mark.parametrize("width", [5, 40])
def test_logistic_weights_are_where_the_loss_is_least(width: int) -> None:
    """Its gradient, in standardized coordinates and with both sides weighing alike, is 0."""
    rows_ND, positive_N = randn(24, width) * (1 + torch.arange(width)), torch.arange(24) < 8
    rows_ND = torch.cat([rows_ND, torch.full((24, 1), 3.0).double()], dim=1)  # and a constant
    weights_D, intercept = fit_logistic(rows_ND, positive_N, penalty=0.7)
    assert weights_D[-1] == 0
    scale_D = rows_ND.std(0)[:-1]
    standard_ND = (rows_ND[:, :-1] - rows_ND[:, :-1].mean(0)) / scale_D
    balance_N = torch.where(positive_N, 24 / 16, 24 / 32)
    error_N = balance_N * ((rows_ND @ weights_D + intercept).sigmoid() - positive_N.double())
    gradient_D = error_N @ standard_ND + 0.7 * weights_D[:-1] * scale_D
    assert gradient_D.abs().max() < 1e-7
    assert abs(float(error_N.sum())) < 1e-7


def test_null_sets_are_told_apart_at_chance() -> None:
    """On rows that were not fitted to; those that were are always told apart better."""
    rows = [randn(1500, 6, seed=seed) for seed in range(4)]
    held_out = sets(rows[2], rows[3])
    for fit in (fit_mean_difference, fit_whitened_mean, fit_logistic_direction):
        found = fit(sets(rows[0], rows[1]), CONFIG)
        assert found.scores is not None
        assert auroc(found.scores(held_out.rows_ND), held_out.is_positive_N) == pytest.approx(
            0.5, abs=0.035
        )
