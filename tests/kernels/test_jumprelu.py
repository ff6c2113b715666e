"""JumpReLU against the dense oracle: selection, and every gradient in float64."""

import math

import pytest
import torch
from torch import Tensor

from sparsteer.kernels import reference
from sparsteer.kernels.codes import Codes
from sparsteer.kernels.decode import decode
from sparsteer.kernels.jumprelu import encode_jumprelu, jumprelu_select

BANDWIDTH = 0.6


def loss_of(x_hat: Tensor, l0: Tensor) -> Tensor:
    return x_hat.square().sum() + (l0.mean() - 3).square()


def dense_gradients(
    x: Tensor, b_dec: Tensor, W_enc: Tensor, b_enc: Tensor, W_dec: Tensor, threshold: Tensor
) -> list[Tensor]:
    """Of loss_of the reconstruction, with respect to each argument in turn."""
    pre = reference.pre_activations(x, b_dec, W_enc, b_enc)
    acts = reference.jumprelu(pre, threshold.detach())
    steps = (pre > threshold).to(pre.dtype).detach().requires_grad_()
    loss = loss_of(acts @ W_dec + b_dec, steps.sum(-1))
    *smooth, grad_acts, grad_gate = torch.autograd.grad(
        loss, (x, b_dec, W_enc, b_enc, W_dec, acts, steps)
    )
    jumps = reference.jumprelu_threshold_gradient(
        pre.detach(), threshold.detach(), BANDWIDTH, grad_acts, grad_gate
    )
    return [*smooth, jumps]


def leaves(n_rows: int, n_latents: int, width: int) -> list[Tensor]:
    shapes = [(n_rows, width), (width,), (n_latents, width), (n_latents,), (n_latents, width)]
    tensors = [torch.randn(*shape, dtype=torch.float64) for shape in shapes]
    return [t.requires_grad_() for t in [*tensors, 0.2 + torch.rand(n_latents).double()]]


def test_encode_gives_every_gradient(shape: tuple[int, int, int]) -> None:
    tensors = leaves(*shape)
    x, b_dec, W_enc, b_enc, W_dec, threshold = tensors
    codes = encode_jumprelu(x, b_dec, W_enc, b_enc, threshold, BANDWIDTH)
    assert codes.l0_gate is not None
    loss = loss_of(decode(codes, W_dec, b_dec), codes.l0_gate.sum(-1))
    names = ("x", "b_dec", "W_enc", "b_enc", "W_dec", "threshold")
    ours, dense = torch.autograd.grad(loss, tensors), dense_gradients(*tensors)
    for name, got, want in zip(names, ours, dense, strict=True):
        torch.testing.assert_close(got, want, msg=lambda text, name=name: f"{name}: {text}")
    assert shape[0] < 5 or (dense[-1] != 0).any()


def test_select_gives_the_gradients_of_dense_pre_activations() -> None:
    pre = torch.randn(20, 30, dtype=torch.float64).requires_grad_()
    threshold = (0.1 + torch.rand(30).double()).requires_grad_()
    weight, gate_weight = torch.randn(20, 30).double(), torch.randn(20, 30).double()
    codes = jumprelu_select(pre, threshold, BANDWIDTH)
    assert codes.l0_gate is not None
    loss = (codes.values * weight.gather(-1, codes.indices)).sum()
    loss = loss + (codes.l0_gate * gate_weight.gather(-1, codes.indices)).sum()
    grad_pre, grad_threshold = torch.autograd.grad(loss, (pre, threshold))
    torch.testing.assert_close(grad_pre, weight * (pre > threshold))
    jumps = reference.jumprelu_threshold_gradient(
        pre.detach(), threshold.detach(), BANDWIDTH, weight, gate_weight
    )
    torch.testing.assert_close(grad_threshold, jumps)


def test_the_steps_gradient_estimates_how_l0_falls() -> None:
    """Over many normal pre-activations, d L0 / d threshold is minus the normal density."""
    pre = torch.randn(200_000, 2, dtype=torch.float64)
    threshold = torch.tensor([0.5, 1.5], dtype=torch.float64, requires_grad=True)
    codes = jumprelu_select(pre, threshold, 0.1)
    assert codes.l0_gate is not None
    (slope,) = torch.autograd.grad(codes.l0_gate.sum(-1).mean(), threshold)
    density = torch.exp(-threshold.detach().square() / 2) / math.sqrt(2 * math.pi)
    torch.testing.assert_close(slope, -density, rtol=0.05, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_equals_the_oracle(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    pre, threshold = torch.randn(*shape[:2]).to(dtype), torch.rand(shape[1])
    plain, training = jumprelu_select(pre, threshold), jumprelu_select(pre, threshold, 0.4)
    dense = reference.jumprelu(pre, threshold)
    assert plain.l0_gate is None and plain.values.dtype == dtype
    for codes in (plain, training):
        assert torch.equal(codes.dense(shape[1]), dense)
        assert codes.counts is not None and torch.equal(codes.counts, (dense > 0).sum(-1))
        used = torch.arange(codes.values.shape[1]) < codes.counts[:, None]
        assert torch.equal(codes.values > 0, used), "used slots come first"
    assert torch.equal(plain.indices.masked_fill(plain.values > 0, 0), 0 * plain.indices)


def test_a_slot_for_every_latent_near_its_threshold() -> None:
    pre, threshold = torch.randn(40, 60), 0.5 + torch.rand(60)
    codes = jumprelu_select(pre, threshold, 0.4)
    near = (pre - threshold).abs() < 0.2
    slots = torch.zeros(40, 60).scatter_(-1, codes.indices, 1.0) > 0
    assert (slots | ~near)[:, 1:].all() and (near & (pre <= threshold)).any()
    inactive = Codes(codes.indices, (codes.values == 0).float()).dense(60)[:, 1:]
    assert (inactive <= 1).all(), "a latent has one slot"


def test_blocks_of_rows_equal_the_whole() -> None:
    x, b_dec, W_enc, b_enc, _, threshold = leaves(1100, 30, 5)
    codes = encode_jumprelu(x, b_dec, W_enc, b_enc, threshold, 0.3)
    halves = [
        encode_jumprelu(rows, b_dec, W_enc, b_enc, threshold, 0.3) for rows in (x[:600], x[600:])
    ]
    torch.testing.assert_close(codes.dense(30), torch.cat([half.dense(30) for half in halves]))


def test_nan_stays_visible() -> None:
    pre = torch.randn(3, 10)
    pre[1, 4] = torch.nan
    values = jumprelu_select(pre, torch.ones(10), 0.5).values
    assert values[1].isnan().sum() == 1 and values[[0, 2]].isfinite().all()


def test_a_negative_bandwidth_is_named() -> None:
    with pytest.raises(ValueError, match=r"bandwidth is -0\.1"):
        jumprelu_select(torch.randn(2, 3), torch.ones(3), -0.1)
