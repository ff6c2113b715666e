"""Sums over slots: in a fixed order, not rounded on the way, scaled by the loss's own gradient."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from sparsteer.kernels import reference
from sparsteer.kernels.codes import Codes
from sparsteer.kernels.decode import decode_mse
from sparsteer.kernels.jumprelu import jumprelu_select
from sparsteer.kernels.policy import backend_of, sparse_plan
from sparsteer.kernels.sparse_products import latent_sums, weight_gradient


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def random_slots(n_rows: int, n_slots: int, n_latents: int) -> Tensor:
    return torch.rand(n_rows, n_latents).topk(n_slots).indices


def test_sums_of_low_precision_do_not_stop_growing() -> None:
    indices = torch.arange(3).repeat(2000, 1)
    coefficients = torch.rand(2000, 3).bfloat16()
    exact = coefficients.double().sum(0)
    ours = latent_sums(indices, coefficients, 3)
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours.double(), exact, rtol=2**-8, atol=0)


@pytest.mark.parametrize(("n_latents", "n_slots", "dense"), [(60, 40, True), (600, 7, False)])
def test_a_low_precision_weight_gradient_is_as_accurate_as_eager(
    n_latents: int, n_slots: int, dense: bool
) -> None:
    indices = random_slots(3000, n_slots, n_latents)
    coefficients = torch.rand(3000, n_slots).bfloat16()
    assert (sparse_plan(n_latents, n_slots, backend_of(coefficients)).path == "dense") == dense
    rows = (1 + torch.rand(3000, 5)).bfloat16()
    exact = reference.weight_gradient(indices, coefficients.double(), rows.double(), n_latents)
    eager = reference.weight_gradient(indices, coefficients, rows, n_latents)
    ours = weight_gradient(indices, coefficients, rows, n_latents)
    assert (ours - exact).abs().max() <= 2 * (eager - exact).abs().max()


@pytest.mark.usefixtures("two_threads")
def test_the_gradient_of_thresholds_repeats_bit_for_bit() -> None:
    pre = torch.randn(900, 64)
    threshold = torch.full((64,), 0.1, requires_grad=True)

    def gradient() -> Tensor:
        codes = jumprelu_select(pre, threshold, bandwidth=20.0)
        assert codes.values.numel() > 40_000
        weights = torch.linspace(-1, 1, codes.values.numel()).view_as(codes.values)
        return torch.autograd.grad((codes.values * weights).sum(), threshold)[0]

    first = gradient()
    assert first.any()
    for _ in range(8):
        assert torch.equal(gradient(), first)


@pytest.mark.parametrize(("n_latents", "n_slots"), [(37, 30), (300, 4)])
def test_decode_mse_passes_on_the_gradient_of_its_loss(n_latents: int, n_slots: int) -> None:
    indices = random_slots(23, n_slots, n_latents)
    values = torch.rand(23, n_slots, dtype=torch.float64, requires_grad=True)
    W_dec = torch.randn(n_latents, 5, dtype=torch.float64, requires_grad=True)
    b_dec = torch.randn(5, dtype=torch.float64, requires_grad=True)
    x = torch.randn(23, 5, dtype=torch.float64)
    loss = decode_mse(Codes(indices, values), W_dec, b_dec, x).loss
    ours = torch.autograd.grad(3 * loss, (values, W_dec, b_dec))
    dense = (reference.decode(Codes(indices, values), W_dec, b_dec) - x).square().mean()
    for got, want in zip(ours, torch.autograd.grad(3 * dense, (values, W_dec, b_dec)), strict=True):
        torch.testing.assert_close(got, want)


def test_decode_mse_of_no_rows_is_zero() -> None:
    codes = Codes(torch.zeros(0, 3, dtype=torch.int64), torch.zeros(0, 3, requires_grad=True))
    W_dec = torch.randn(9, 4, requires_grad=True)
    loss = decode_mse(codes, W_dec, torch.randn(4), torch.zeros(0, 4)).loss
    assert loss == 0
    assert not torch.autograd.grad(loss, W_dec)[0].any()
