"""Fitted gates and caps: planted conditions, and what does not change them."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sparsteer.sae.common.errors import InputError
from sparsteer.steering.fitting.examples import Examples, unit
from sparsteer.steering.fitting.methods.cast import fit_cast
from sparsteer.steering.fitting.methods.dsas import fit_dsas
from sparsteer.steering.fitting.methods.ids import fit_ids
from sparsteer.steering.fitting.separation import best_f1_threshold, figures

from .conftest import pairs, randn, sets, settings


def two_sides(n: int = 60, width: int = 12, seed: int = 0) -> Examples:
    """Unit noise; the positive rows have 8 more along one direction."""
    c_D = unit(randn(width, seed=99))
    positive_ND = randn(n, width, seed=seed) + 8 * c_D
    return sets(positive_ND, randn(n, width, seed=seed + 1))


def scaled(examples: Examples, factor: float) -> Examples:
    return replace(examples, rows_ND=factor * examples.rows_ND)


def test_a_condition_is_found_with_its_threshold() -> None:
    found, held_out = fit_cast(two_sides(), settings("cast")), two_sides(seed=5)
    assert found.gate is not None and found.on_held_out is not None
    c_D = found.gate.tensors["c"]
    assert float(c_D @ unit(randn(12, seed=99))) > 0.98
    assert found.gate.settings["scope"] == "per_input"
    fires_N = found.gate.opening(held_out.rows_ND) > 0
    assert (fires_N == held_out.is_positive_N).double().mean() > 0.95
    assert found.on_held_out(held_out)["f1"] > 0.95
    cosines_N = torch.nn.functional.cosine_similarity(held_out.rows_ND, c_D[None])
    assert torch.equal(fires_N, cosines_N > found.gate.threshold)


def test_a_condition_of_pairs_is_that_of_their_differences() -> None:
    negative_PD, c_D = randn(9, 6), randn(6, seed=3)
    examples = pairs(negative_PD + 2 * c_D, negative_PD)
    gate = fit_cast(examples, settings("cast", pairs="p")).gate
    assert gate is not None
    torch.testing.assert_close(gate.tensors["c"], unit(c_D), rtol=0, atol=1e-12)


def test_the_cosine_forgets_the_scale_and_the_published_similarity_does_not() -> None:
    examples = two_sides()
    gates = [fit_cast(scaled(examples, factor), settings("cast")).gate for factor in (1.0, 0.01)]
    assert gates[0] is not None and gates[1] is not None
    thresholds = [gate.threshold for gate in gates if gate is not None]
    assert thresholds[0] == pytest.approx(thresholds[1], abs=1e-12)
    torch.testing.assert_close(gates[0].tensors["c"], gates[1].tensors["c"])

    def published(rows_ND: Tensor) -> Tensor:
        """cos(h, tanh(P h)) with P the projection on the condition direction."""
        c_D = gates[0].tensors["c"] if gates[0] is not None else rows_ND[0]
        bent_ND = ((rows_ND @ c_D)[:, None] * c_D).tanh()
        return torch.nn.functional.cosine_similarity(rows_ND, bent_ND)

    difference_N = published(examples.rows_ND) - published(0.01 * examples.rows_ND)
    assert difference_N.abs().max() > 0.05


def test_the_threshold_is_the_best_of_all() -> None:
    scores_N = randn(80)
    positive_N = scores_N + randn(80, seed=1) > 0.4
    threshold, found = best_f1_threshold(scores_N, positive_N)
    grid = [float(t) for t in torch.linspace(-4, 4, 401)]
    assert found["f1"] >= max(figures(scores_N > t, positive_N)["f1"] for t in grid)
    assert found == figures(scores_N > threshold, positive_N)
    everything, _ = best_f1_threshold(scores_N, torch.ones(80, dtype=torch.bool))
    assert everything < scores_N.min()


def test_a_soft_gate_opens_for_positive_rows_alone() -> None:
    found = fit_dsas(two_sides(), settings("dsas", penalty=0.01))
    held_out = two_sides(seed=5)
    assert found.gate is not None and found.scores is not None and found.on_held_out is not None
    open_N = found.gate.opening(held_out.rows_ND)
    assert open_N[held_out.is_positive_N].mean() > 0.95
    assert open_N[~held_out.is_positive_N].mean() < 0.05
    assert found.on_held_out(held_out)["accuracy"] > 0.95
    tensors = found.gate.tensors
    assert tensors["basis"].shape == (5, 12) and tensors["b"].shape == ()
    torch.testing.assert_close(
        tensors["basis"] @ tensors["basis"].T, torch.eye(5).double(), rtol=0, atol=1e-12
    )
    places_NK = (held_out.rows_ND - tensors["mean"]) @ tensors["basis"].T
    torch.testing.assert_close(open_N, (places_NK @ tensors["w"] + tensors["b"]).sigmoid())


def test_a_soft_gate_forgets_the_scale() -> None:
    examples = two_sides()
    one, other = (fit_dsas(scaled(examples, f), settings("dsas")).gate for f in (1.0, 30.0))
    assert one is not None and other is not None
    open_N = one.opening(examples.rows_ND)
    torch.testing.assert_close(open_N, other.opening(30 * examples.rows_ND), rtol=0, atol=1e-7)


def test_components_are_no_more_than_there_are() -> None:
    gate = fit_dsas(sets(randn(2, 9), randn(2, 9, seed=1)), settings("dsas", components=7)).gate
    assert gate is not None
    assert len(gate.tensors["basis"]) == 3


def test_a_cap_holds_a_planted_distribution() -> None:
    """Two coordinates have most of the variance, so there are two components."""
    spread_D = torch.tensor([5.0, 3.0, 0.1, 0.1, 0.1, 0.1]).double()
    rows = [randn(4000, 6, seed=seed) * spread_D + 2 for seed in (0, 1)]
    found = fit_ids(sets(rows[0], randn(3, 6)), settings("ids", variance=0.9))
    gate = found.gate
    assert gate is not None and found.on_held_out is not None and found.scores is None
    assert gate.tensors["basis"].shape == (2, 6)
    torch.testing.assert_close(
        gate.tensors["variances"], torch.tensor([25.0, 9.0]).double(), rtol=0.06, atol=0
    )
    # The 95th percentile of chi with two degrees of freedom.
    assert gate.settings["budget"] == pytest.approx(2.4477, rel=0.03)
    assert found.on_held_out(sets(rows[1], rows[1][:1]))["within_budget"] == pytest.approx(
        0.95, abs=0.015
    )
    assert gate.opening(gate.tensors["mean"][None]).item() == 1
    far_D = gate.tensors["mean"] + 20 * gate.tensors["basis"][0]
    assert gate.opening(far_D[None]).item() == 0
    # Across the components everything is within.
    across_D = randn(6, seed=3)
    across_D -= gate.tensors["basis"].T @ (gate.tensors["basis"] @ across_D)
    assert gate.opening((gate.tensors["mean"] + 1000 * across_D)[None]).item() == 1


def test_the_budget_forgets_scale_and_place() -> None:
    rows_ND = randn(200, 5)
    budgets = [
        fit_ids(sets(factor * rows_ND + factor, randn(2, 5)), settings("ids")).details["budget"]
        for factor in (1.0, 50.0)
    ]
    assert budgets[0] == pytest.approx(budgets[1], rel=1e-9)


def test_one_row_has_no_distribution() -> None:
    with pytest.raises(InputError, match="no two different activations"):
        fit_ids(sets(torch.ones(3, 4), randn(2, 4)), settings("ids"))
