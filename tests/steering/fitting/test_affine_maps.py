"""Maps of single coordinates: what was planted is found, and the algebra holds."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sparsteer.kernels.numerics import row_norms
from sparsteer.steering.fitting.affine_maps import (
    AffineMap,
    aura_map,
    aurocs,
    gaussian_map,
    linear_map,
    matched_ranks,
    mean_map,
    transport_cost,
    with_support,
)
from sparsteer.steering.fitting.proximal import soft_threshold, sparse_group_step

N, D = 17, 8


def drawn(n: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(n, D, generator=draw, dtype=torch.float64)


@pytest.fixture
def planted() -> tuple[Tensor, Tensor]:
    """w > 0 and b of a map."""
    return drawn(1, 5)[0].exp(), drawn(1, 6)[0]


def test_a_planted_map_is_found_whatever_the_order(planted: tuple[Tensor, Tensor]) -> None:
    w_D, b_D = planted
    source_ND = drawn(N)
    target_ND = (w_D * source_ND + b_D)[torch.randperm(N)]
    found = linear_map(source_ND, target_ND)
    torch.testing.assert_close(found.w_D, w_D, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.b_D, b_D, rtol=1e-10, atol=1e-10)
    assert transport_cost(found(source_ND), target_ND).max() < 1e-20


def test_normal_samples_give_the_ratio_of_deviations() -> None:
    draw = torch.Generator().manual_seed(1)
    source_ND = torch.randn(40_000, 2, generator=draw, dtype=torch.float64)
    target_ND = 3 * torch.randn(40_000, 2, generator=draw, dtype=torch.float64) + 1
    for fit in (linear_map, gaussian_map):
        found = fit(source_ND, target_ND)
        torch.testing.assert_close(found.w_D, torch.full_like(found.w_D, 3), rtol=0.02, atol=0)
        torch.testing.assert_close(found.b_D, torch.ones_like(found.b_D), rtol=0, atol=0.05)


def test_other_maps_do_what_they_say(planted: tuple[Tensor, Tensor]) -> None:
    w_D, b_D = planted
    source_ND = drawn(N)
    shift = mean_map(source_ND, source_ND + b_D)
    assert torch.equal(shift.w_D, torch.ones(D, dtype=torch.float64))
    torch.testing.assert_close(shift.b_D, b_D)
    scaled = gaussian_map(source_ND, w_D * source_ND + b_D)
    torch.testing.assert_close(scaled.w_D, w_D)
    torch.testing.assert_close(scaled.b_D, b_D)
    still_ND = source_ND.clone()
    still_ND[:, 0] = 4.0
    found = gaussian_map(source_ND, still_ND)
    assert (found.w_D[0], found.b_D[0]) == (1, 0)  # it varies in one set only


def test_aura_damps_what_detects_the_source() -> None:
    source_ND, target_ND = drawn(N), drawn(N, 1)
    source_ND[:, 0] = target_ND[:, 0].max() + 1  # detects it always
    source_ND[:, 1] = target_ND[:, 1].min() - 1  # never
    found = aura_map(source_ND, target_ND)
    assert found.w_D[0] == 0
    assert found.w_D[1] == 1
    assert not found.b_D.any()
    third = float(aurocs(source_ND, target_ND)[2])
    above_NM = source_ND[:, 2][:, None] > target_ND[:, 2]
    assert third == pytest.approx(float(above_NM.double().mean()))
    assert found.w_D[2] == pytest.approx(1 - 2 * max(0, third - 0.5))


def test_ties_count_half() -> None:
    one_ND = torch.tensor([[1.0], [2.0]])
    assert float(aurocs(one_ND, one_ND)) == 0.5


def test_the_closed_form_is_least_squares_over_sorted_samples() -> None:
    source_ND, target_ND = drawn(N), drawn(N, 1)
    found = linear_map(source_ND, target_ND)
    w_D, b_D = found.w_D.clone().requires_grad_(), found.b_D.clone().requires_grad_()
    cost = transport_cost(w_D * source_ND + b_D, target_ND).sum()
    for gradient in torch.autograd.grad(cost, (w_D, b_D)):
        assert gradient.abs().max() < 1e-12


def test_the_gradient_of_the_cost_is_that_of_its_formula() -> None:
    source_ND, target_ND = drawn(N), drawn(N, 1)
    w_D = drawn(1, 2)[0].exp().requires_grad_()
    b_D = drawn(1, 3)[0].requires_grad_()
    cost = transport_cost(w_D * source_ND + b_D, target_ND).sum()
    by_w_D, by_b_D = torch.autograd.grad(cost, (w_D, b_D))
    z_ND, y_ND = source_ND.sort(dim=0).values, target_ND.sort(dim=0).values
    missed_ND = w_D * z_ND + b_D - y_ND
    torch.testing.assert_close(by_w_D, (2 / N) * (missed_ND * z_ND).sum(0))
    torch.testing.assert_close(by_b_D, (2 / N) * missed_ND.sum(0))


@pytest.mark.parametrize(("n", "m"), [(3, 3), (3, 7), (7, 3), (1, 5), (6, 4)])
def test_ranks_face_each_other_as_if_both_sets_were_repeated(n: int, m: int) -> None:
    common = math.lcm(n, m)
    source_ND, target_ND = drawn(n), drawn(m, 1)
    repeated = [
        rows.repeat_interleave(common // len(rows), dim=0) for rows in (source_ND, target_ND)
    ]
    torch.testing.assert_close(
        transport_cost(source_ND, target_ND), transport_cost(repeated[0], repeated[1])
    )
    found, expected = linear_map(source_ND, target_ND), linear_map(repeated[0], repeated[1])
    torch.testing.assert_close(found.w_D, expected.w_D)
    torch.testing.assert_close(found.b_D, expected.b_D)
    ranks_K, others_K, mass_K = matched_ranks(n, m)
    assert float(mass_K.sum()) == pytest.approx(1)
    assert len(ranks_K) <= n + m - 1
    assert bool((ranks_K.diff() >= 0).all()) and bool((others_K.diff() >= 0).all())


def test_permuting_a_set_changes_nothing() -> None:
    source_ND, target_ND = drawn(N), drawn(N + 4, 1)
    before = linear_map(source_ND, target_ND)
    after = linear_map(source_ND[torch.randperm(N)], target_ND[torch.randperm(N + 4)])
    torch.testing.assert_close(before.w_D, after.w_D, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(before.b_D, after.b_D, rtol=1e-12, atol=1e-12)


def test_swapping_the_sets_inverts_the_map_only_of_collinear_samples() -> None:
    source_ND, target_ND = drawn(N), drawn(N, 1)
    there, back = linear_map(source_ND, target_ND), linear_map(target_ND, source_ND)
    x_ND, y_ND = source_ND.sort(dim=0).values, target_ND.sort(dim=0).values
    x_ND, y_ND = x_ND - x_ND.mean(0), y_ND - y_ND.mean(0)
    squared_D = (x_ND * y_ND).sum(0).square() / (x_ND.square().sum(0) * y_ND.square().sum(0))
    torch.testing.assert_close(there.w_D * back.w_D, squared_D)
    assert squared_D.max() < 1
    target_ND = 2.5 * source_ND - 3
    there, back = linear_map(source_ND, target_ND), linear_map(target_ND, source_ND)
    torch.testing.assert_close(back.w_D, 1 / there.w_D)
    torch.testing.assert_close(back.b_D, -there.b_D / there.w_D)


@pytest.mark.parametrize("fit", [linear_map, gaussian_map, mean_map])
def test_scaling_the_activations_scales_shifts_alone(
    fit: Callable[[Tensor, Tensor], AffineMap],
) -> None:
    source_ND, target_ND = drawn(N), drawn(N, 1)
    one, ten = fit(source_ND, target_ND), fit(10 * source_ND, 10 * target_ND)
    torch.testing.assert_close(ten.w_D, one.w_D)
    torch.testing.assert_close(ten.b_D, 10 * one.b_D)


def test_a_constant_coordinate_is_shifted() -> None:
    source_ND, target_ND = drawn(N), drawn(N, 1)
    source_ND[:, 0] = 0.1
    found = linear_map(source_ND.float(), target_ND.float())
    assert found.w_D[0] == 1
    assert float(found.b_D[0]) == pytest.approx(float(target_ND[:, 0].mean()) - 0.1, abs=1e-6)


def test_a_map_with_support_leaves_what_lies_outside() -> None:
    source_ND = drawn(101)
    fitted = AffineMap(torch.full((D,), 2.0).double(), torch.ones(D).double())
    whole, inner = with_support(fitted, source_ND, 0.0), with_support(fitted, source_ND, 0.1)
    assert torch.equal(whole(source_ND), 2 * source_ND + 1)
    moved_ND = inner.reaches(source_ND)
    assert moved_ND.double().mean() == pytest.approx(81 / 101)
    assert torch.equal(inner(source_ND), torch.where(moved_ND, 2 * source_ND + 1, source_ND))
    identity = AffineMap(torch.ones(D), torch.zeros(D))
    assert not identity.reaches(source_ND).any()
    assert torch.equal(identity(source_ND), source_ND)


@pytest.mark.parametrize(("l1", "group"), [(0.7, 0.0), (0.0, 0.4), (0.7, 0.4), (0.1, 0.05)])
def test_a_proximal_step_is_the_minimum_that_it_says(l1: float, group: float) -> None:
    u_D = torch.tensor([1.3, -0.4, 0.05], dtype=torch.float64)
    step = 0.5
    found_D = sparse_group_step(u_D, step=step, l1=l1, group=group)

    def objective(z: Tensor) -> Tensor:
        near = (z - u_D).square().sum(-1) / 2
        return near + step * (l1 * z.abs().sum(-1) + group * 3**0.5 * row_norms(z))

    best = float(objective(found_D))
    # A grid that narrows around the best point so far.
    center_D, radius = torch.zeros(3, dtype=torch.float64), 2.0
    for _ in range(12):
        axis = torch.linspace(-radius, radius, 21, dtype=torch.float64)
        points = center_D + torch.cartesian_prod(axis, axis, axis)
        center_D = points[objective(points).argmin()]
        radius /= 3
    torch.testing.assert_close(found_D, center_D, rtol=0, atol=1e-4)
    assert best <= float(objective(center_D)) + 1e-12


def test_penalties_without_end_leave_nothing() -> None:
    u_D = drawn(1)[0]
    for l1, group in ((math.inf, 0.0), (0.0, math.inf), (1e9, 0.0), (0.0, 1e9)):
        assert not sparse_group_step(u_D, step=1e-3, l1=l1, group=group).any()
    assert torch.equal(sparse_group_step(u_D, step=1.0, l1=0.0, group=0.0), u_D)
    assert torch.equal(soft_threshold(torch.tensor([2.0, -0.5]), 1.0), torch.tensor([1.0, 0.0]))
