"""Directions that are pushed apart: the steps are Adam's on the stated sum."""

import pytest
import torch

from sparsteer.kernels.optimizer import adam_step_
from sparsteer.training.evaluation.ground_truth.directions import mean_largest_overlap, pushed_apart


def by_autograd(directions: torch.Tensor, steps: int, lr: float) -> torch.Tensor:
    rows = torch.nn.functional.normalize(directions, dim=-1).requires_grad_()
    moments = torch.zeros_like(rows), torch.zeros_like(rows)
    for step in range(1, steps + 1):
        products = rows @ rows.T
        others = products - torch.diag(products.diagonal())
        norms = (products.diagonal() - 1).square().sum()
        (gradient,) = torch.autograd.grad(others.square().sum() + len(rows) * norms, [rows])
        adam_step_(rows, gradient, *moments, step=step, lr=lr)
    return torch.nn.functional.normalize(rows.detach(), dim=-1)


@pytest.mark.parametrize("shape", [(7, 5), (33, 8), (3, 20)])
def test_the_steps_are_adams_on_the_sum_of_squared_products(shape: tuple[int, int]) -> None:
    directions = torch.randn(shape, generator=torch.Generator().manual_seed(1)).double()
    found = pushed_apart(directions, steps=12, lr=0.01)
    assert torch.allclose(found, by_autograd(directions, 12, 0.01), atol=1e-9)


def test_they_end_less_superposed() -> None:
    """As many as there are dimensions end nearly orthogonal."""
    directions = torch.randn(24, 24, generator=torch.Generator().manual_seed(2))
    before = mean_largest_overlap(torch.nn.functional.normalize(directions, dim=-1))
    after = mean_largest_overlap(pushed_apart(directions, steps=200, lr=0.01))
    assert before > 0.35 and after < 0.5 * before


def test_the_overlap_is_the_mean_of_the_largest_cosines() -> None:
    rows = torch.eye(3)
    rows[2] = torch.tensor([-0.6, 0.8, 0.0])
    assert mean_largest_overlap(rows) == pytest.approx((0.6 + 0.8 + 0.8) / 3)
    many = torch.nn.functional.normalize(
        torch.randn(1500, 6), dim=-1
    )  # more than are taken at once
    products = (many @ many.T).abs().fill_diagonal_(0)
    assert mean_largest_overlap(many) == pytest.approx(float(products.amax(1).mean()), rel=1e-6)
