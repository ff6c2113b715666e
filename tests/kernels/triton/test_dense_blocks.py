"""Dense products of codes as a GPU takes them, in one block of rows or several, against float64."""

import pytest
import torch
from torch import Tensor

from sparsteer.kernels import policy
from sparsteer.kernels.decode import weighted_rows
from sparsteer.kernels.gather_dot import gathered_dots
from sparsteer.kernels.sparse_products import (
    autoencoder_gradients,
    encoder_gradients,
    weight_gradient,
)
from sparsteer.sae.losses import difference, own_variance

B, M, D, F = 13, 6, 9, 20


@pytest.fixture(params=["one block", "blocks of five rows"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param != "one block":
        monkeypatch.setattr(policy, "ROWS_OF_A_BLOCK", 5)
        monkeypatch.setattr(policy, "_PRE_ACTIVATIONS_AT_ONCE_ON_GPU", 1)


def codes(device: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Indices, values and other coefficients; some slots of each row are unused."""
    indices = torch.stack([torch.randperm(F)[:M] for _ in range(B)]).to(device)
    values, others = torch.randn(2, B, M, device=device).to(dtype)
    unused = torch.rand(B, M, device=device) < 0.3
    return tuple(tensor.masked_fill(unused, 0) for tensor in (indices, values, others))


def dense(indices: Tensor, values: Tensor) -> Tensor:
    empty = values.new_zeros(B, F, dtype=torch.float64)
    return empty.scatter_add_(1, indices, values.double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.usefixtures("blocks")
def test_products_are_those_of_dense_matrices(dtype: torch.dtype, device: str) -> None:
    indices, values, others = codes(device, dtype)
    rows, further = torch.randn(2, B, D, device=device).to(dtype)
    weights = torch.randn(F, D, device=device).to(dtype)
    values_BF, others_BF = dense(indices, values), dense(indices, others)

    def close(ours: Tensor, exact: Tensor, tolerance: float) -> None:
        limit = tolerance * float(exact.abs().max())
        torch.testing.assert_close(ours.double(), exact, rtol=0, atol=limit)

    rounding = 1e-6 if dtype == torch.float32 else 1e-2
    close(weighted_rows(indices, values, weights), values_BF @ weights.double(), rounding)
    dots = (rows.double() @ weights.double().T).gather(1, indices)
    close(gathered_dots(indices, rows, weights), dots, rounding)

    # Weight gradients are summed and given in float32, whatever the operands.
    of_values, of_others = values_BF.T @ further.double(), others_BF.T @ rows.double()
    own = weight_gradient(indices, values, further, F)
    weight, bias = encoder_gradients(indices, others, rows, F)
    found = autoencoder_gradients(indices, values, others, further, rows, F)
    for ours, exact in [
        (own, of_values),
        (weight, of_others),
        (bias, others_BF.sum(0)),
        *zip(found, (of_values, of_others, others_BF.sum(0)), strict=True),
    ]:
        assert ours.dtype == torch.float32
        close(ours, exact, 2e-6)


def test_the_variance_of_a_batch_comes_from_its_parts(device: str) -> None:
    rows = 3 + torch.randn(24, D, device=device)
    halves = rows[:12], rows[12:]
    columns = torch.stack([half.mean(0) for half in halves]).mean(0)

    def mean(_: Tensor) -> Tensor:
        return columns

    exact = rows.double().var(0, correction=0).mean()
    torch.testing.assert_close(own_variance(rows).double(), exact, rtol=1e-6, atol=0)
    parts = [own_variance(half, mean).double() for half in halves]
    torch.testing.assert_close(torch.stack(parts).mean(), exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_difference_is_rounded_as_its_terms_are(dtype: torch.dtype, device: str) -> None:
    target, x_hat = torch.randn(2, B, D, device=device).to(dtype)
    missed = difference(target, x_hat.requires_grad_())
    assert missed.dtype == torch.promote_types(dtype, torch.float32) and not missed.requires_grad
    assert torch.equal(missed, (target - x_hat.detach()).to(missed.dtype))
