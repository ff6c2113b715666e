"""Projection and row scaling keep decoder rows on the unit sphere."""

import pytest
import torch

from sparsteer.kernels import optimizer, reference
from sparsteer.kernels.numerics import row_norms
from sparsteer.kernels.optimizer import adam_step_, normalize_rows_, project_gradient_


@pytest.mark.parametrize("values_in_cache", [1, 70, 1 << 20], ids=["row", "uneven", "whole"])
@pytest.mark.parametrize("shape", [(37, 11), (1, 1), (50,)])
@pytest.mark.parametrize("unit_rows", [False, True])
def test_adam_equals_the_oracle_whatever_the_blocks(
    unit_rows: bool,
    shape: tuple[int, ...],
    values_in_cache: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(optimizer, "_VALUES_IN_CACHE", values_in_cache)
    weights = normalize_rows_(torch.randn(shape, dtype=torch.float64))
    first, second = torch.zeros_like(weights), torch.zeros_like(weights)
    want = weights.clone(), first.clone(), second.clone()
    for step in (1, 2, 3):
        gradient = torch.randn_like(weights)
        half = gradient / 2
        want = reference.adam_step(
            want[0], half, want[1], want[2], step, 0.01, (0.9, 0.99), 1e-8, unit_rows
        )
        adam_step_(
            weights, gradient, first, second, step=step, lr=0.01, betas=(0.9, 0.99),
            unit_rows=unit_rows, factor=torch.tensor(0.5, dtype=torch.float64),
        )  # fmt: skip
        for got, right in zip((weights, first, second), want, strict=True):
            torch.testing.assert_close(got, right)


def test_adam_refuses_step_zero_and_weights_it_cannot_change_in_place() -> None:
    rows = torch.randn(4, 6)
    with pytest.raises(ValueError, match="step is 0"):
        adam_step_(rows, rows.clone(), rows.clone(), rows.clone(), step=0, lr=0.1)
    with pytest.raises(ValueError, match="contiguous"):
        adam_step_(rows.T, rows.T, rows.T, rows.T, step=1, lr=0.1)


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
