"""Projection and row scaling keep decoder rows on the unit sphere."""

import torch

from sparsteer.kernels import reference
from sparsteer.kernels.norms import row_norms
from sparsteer.kernels.optimizer import normalize_rows_, project_gradient_


def test_projection_equals_the_oracle_and_leaves_nothing_along_the_rows() -> None:
    weights = normalize_rows_(torch.randn(37, 11, dtype=torch.float64))
    gradient = torch.randn(37, 11, dtype=torch.float64)
    expected = reference.project_rows(gradient, weights)
    projected = project_gradient_(gradient, weights)
    assert projected is gradient
    torch.testing.assert_close(projected, expected)
    assert (projected * weights).sum(-1).abs().max() < 1e-12


def test_rows_get_norm_one_and_a_zero_row_stays() -> None:
    weights = torch.randn(9, 5) * torch.logspace(-18, 18, 9)[:, None]
    directions = weights.double() / row_norms(weights.double())[:, None]
    weights[4] = 0
    normalize_rows_(weights)
    assert (weights[4] == 0).all()
    others = [0, 1, 2, 3, 5, 6, 7, 8]
    torch.testing.assert_close(weights[others].double(), directions[others], rtol=1e-5, atol=1e-6)


def test_the_norm_of_a_zero_row_has_gradient_zero() -> None:
    rows = torch.randn(3, 4)
    rows[1] = 0
    rows.requires_grad_()
    torch.autograd.backward(row_norms(rows).sum())
    assert rows.grad is not None and rows.grad.isfinite().all() and (rows.grad[1] == 0).all()
