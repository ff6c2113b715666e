"""The Triton products and the optimizer against dense oracles: values and every gradient."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from sparsteer.kernels import policy, reference
from sparsteer.kernels.autoencode import autoencoder_mse
from sparsteer.kernels.codes import Codes
from sparsteer.kernels.decode import decode, decode_mse
from sparsteer.kernels.encode import encode_batch_topk, encode_topk
from sparsteer.kernels.gather_dot import gathered_dots
from sparsteer.kernels.jumprelu import encode_jumprelu
from sparsteer.kernels.nested import nested_mse
from sparsteer.kernels.optimizer import (
    adam_step_,
    clipping_factor,
    gradient_norm,
    normalize_rows_,
)
from sparsteer.kernels.policy import backend_of, decode_mse_plan
from sparsteer.kernels.segment_sum import launch_segment_sums
from sparsteer.kernels.sparse_products import autoencoder_gradients, weight_gradient
from sparsteer.kernels.step_numbers import NumbersInMemory, step_numbers

AccurateAsEager = Callable[[Sequence[Tensor | None], Sequence[Tensor], Sequence[Tensor]], None]
SIZES = [(1, 1, 1, 1), (3, 50, 33, 7), (40, 9, 70, 4)]
"""Rows, latents, width, slots; none a multiple of a tile."""


@pytest.fixture(autouse=True)
def sparse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep small sizes on the sparse side of the dispatch, and split segments of over 8 slots."""
    monkeypatch.setattr(policy, "_DENSE_BELOW_LATENTS_PER_SLOT_ON_GPU", 0)
    monkeypatch.setenv("SPARSTEER_TILES", "backward:CHUNK=8;decode:ROWS=4")


@pytest.fixture(params=SIZES, ids=lambda size: "B{}-F{}-D{}-M{}".format(*size))
def size(request: pytest.FixtureRequest) -> tuple[int, int, int, int]:
    return request.param


@pytest.fixture(params=[torch.float32, torch.bfloat16])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


def random_codes(n_rows: int, n_latents: int, n_slots: int, device: str) -> Codes:
    """Distinct latents in each row, positive values, and some unused slots."""
    order = torch.rand(n_rows, n_latents).argsort(-1)[:, :n_slots]
    values = torch.rand(n_rows, n_slots) + 0.1
    values[torch.rand(n_rows, n_slots) < 0.2] = 0
    return Codes(order.masked_fill(values == 0, 0).to(device), values.to(device))


def test_products_equal_their_oracles(
    size: tuple[int, int, int, int],
    dtype: torch.dtype,
    device: str,
    accurate_as_eager: AccurateAsEager,
) -> None:
    n_rows, n_latents, width, n_slots = size
    codes = random_codes(n_rows, n_latents, n_slots, device)
    indices, values = codes.indices, codes.values.to(dtype)
    rows = torch.randn(n_rows, width, device=device).to(dtype)
    weights = torch.randn(n_latents, width, device=device).to(dtype)
    zero = torch.zeros(width, device=device, dtype=dtype)
    ours = [
        decode(Codes(indices, values), weights, zero),
        gathered_dots(indices, rows, weights),
    ]
    gradient = weight_gradient(indices, values, rows, n_latents)

    def oracle(dtype: torch.dtype) -> list[Tensor]:
        v, r, w = values.to(dtype), rows.to(dtype), weights.to(dtype)
        return [
            reference.decode(Codes(indices, v), w, zero.to(dtype)),
            reference.gathered_dots(indices, r, w),
        ]

    def gradient_oracle(dtype: torch.dtype) -> list[Tensor]:
        v, r = values.to(dtype), rows.to(dtype)
        return [reference.weight_gradient(indices, v, r, n_latents)]

    accurate_as_eager(ours, oracle(dtype), oracle(torch.float64))
    # As it was summed, whatever the dtype of the rows.
    accurate_as_eager([gradient], gradient_oracle(torch.float32), gradient_oracle(torch.float64))


def test_a_tile_narrower_than_the_rows_still_decodes_all_of_them(
    device: str, monkeypatch: pytest.MonkeyPatch, accurate_as_eager: AccurateAsEager
) -> None:
    monkeypatch.setenv("SPARSTEER_TILES", "decode:BLOCK_D=16,ROWS=4")
    codes = random_codes(5, 50, 6, device)
    x, W_dec, b_dec = (torch.randn(*n, device=device) for n in ((5, 37), (50, 37), (37,)))
    loss, x_hat = decode_mse(codes, W_dec, b_dec, x)

    def oracle(dtype: torch.dtype) -> list[Tensor]:
        same = Codes(codes.indices, codes.values.to(dtype))
        decoded = reference.decode(same, W_dec.to(dtype), b_dec.to(dtype))
        return [(decoded - x).square().mean(), decoded]

    accurate_as_eager([loss, x_hat], oracle(torch.float32), oracle(torch.float64))


@pytest.mark.parametrize("dense", [False, True])
def test_one_pass_gives_all_weight_gradients(
    size: tuple[int, int, int, int],
    dtype: torch.dtype,
    dense: bool,
    device: str,
    monkeypatch: pytest.MonkeyPatch,
    accurate_as_eager: AccurateAsEager,
) -> None:
    if dense:
        monkeypatch.setattr(policy, "_DENSE_BELOW_LATENTS_PER_SLOT_ON_GPU", 1 << 30)
    n_rows, n_latents, width, n_slots = size
    codes = random_codes(n_rows, n_latents, n_slots, device)
    values = codes.values.to(dtype)
    grad_values = (torch.randn(n_rows, n_slots, device=device) * (codes.values > 0)).to(dtype)
    grad_x_hat, centered = torch.randn(2, n_rows, width, device=device).to(dtype).unbind()
    arguments = (codes.indices, values, grad_values, grad_x_hat, centered, n_latents)
    ours = autoencoder_gradients(*arguments)

    def oracle(dtype: torch.dtype) -> list[Tensor]:
        v, g = values.to(dtype), grad_values.to(dtype)
        pairs = [(v, grad_x_hat), (g, centered), (g, torch.ones(n_rows, 1, device=device))]
        dW_dec, dW_enc, db_enc = (
            reference.weight_gradient(codes.indices, c, rows.to(dtype), n_latents)
            for c, rows in pairs
        )
        return [dW_dec, dW_enc, db_enc[:, 0]]

    # Whatever the dtype of what is summed, the sums are float32.

    accurate_as_eager(ours, oracle(torch.float32), oracle(torch.float64))
    again = autoencoder_gradients(*arguments)
    assert all(torch.equal(a, b) for a, b in zip(ours, again, strict=True))


def test_one_dense_latent_is_split_and_summed(device: str) -> None:
    """More slots than a program takes, all on one latent, among latents without any."""
    indices = torch.full((100, 1), 3, device=device)
    values, rows = torch.rand(100, 1, device=device), torch.randn(100, 6, device=device)
    found = launch_segment_sums(indices, values, rows, 7, (values, 2 * rows))
    torch.testing.assert_close(found.out[3], (values * rows).sum(0))
    torch.testing.assert_close(found.out2, 2 * found.out)
    torch.testing.assert_close(found.squares.sum(1), found.out.square().sum(1))
    torch.testing.assert_close(found.squares2.sum(1), found.out2.square().sum(1))
    assert (found.out[[0, 1, 2, 4, 5, 6]] == 0).all()


def test_nan_reaches_the_gradient(device: str) -> None:
    indices = torch.tensor([[2], [1]], device=device)
    values = torch.tensor([[torch.nan], [1.0]], device=device)
    out = weight_gradient(indices, values, torch.ones(2, 3, device=device), 4)
    assert out[2].isnan().all() and out[[0, 1, 3]].isfinite().all()


def test_decode_mse_and_its_gradients(
    size: tuple[int, int, int, int], device: str, accurate_as_eager: AccurateAsEager
) -> None:
    n_rows, n_latents, width, n_slots = size
    codes = random_codes(n_rows, n_latents, n_slots, device)
    tensors = [
        codes.values,
        torch.randn(n_latents, width, device=device),
        torch.randn(width, device=device),
    ]
    x = torch.randn(n_rows, width, device=device)

    def run(dtype: torch.dtype, ours: bool) -> list[Tensor]:
        values, W_dec, b_dec = (t.to(dtype).requires_grad_() for t in tensors)
        if ours:
            loss, x_hat = decode_mse(Codes(codes.indices, values), W_dec, b_dec, x)
            assert not x_hat.requires_grad
        else:
            x_hat = reference.decode(Codes(codes.indices, values), W_dec, b_dec)
            loss = (x_hat - x).square().mean()
        gradients = torch.autograd.grad(3 * loss, (values, W_dec, b_dec))
        # Unused slots get the gradient of latent 0, which encoders drop.
        used = gradients[0] * (codes.values > 0)
        return [loss.detach(), x_hat.detach(), used, *gradients[1:]]

    accurate_as_eager(
        run(torch.float32, True), run(torch.float32, False), run(torch.float64, False)
    )


@pytest.mark.parametrize("further", [0.0, 0.7], ids=["alone", "with-another-loss"])
def test_autoencoder_mse_and_its_gradients(
    size: tuple[int, int, int, int],
    further: float,
    dtype: torch.dtype,
    device: str,
    accurate_as_eager: AccurateAsEager,
) -> None:
    """The codes' values and their gradient, which the pass over the weight gradients takes."""
    n_rows, n_latents, width, n_slots = size
    shapes = [(n_rows, width), (width,), (n_latents, width), (n_latents,), (n_latents, width)]
    tensors = [torch.randn(*shape, device=device).to(dtype) for shape in shapes]
    x, b_dec, W_enc, b_enc, _ = (tensor.double() for tensor in tensors)
    chosen = encode_topk(x, b_dec, W_enc, b_enc, n_slots)

    def run(dtype: torch.dtype, ours: bool) -> list[Tensor]:
        x, *weights = (tensor.to(dtype) for tensor in tensors)
        b_dec, W_enc, b_enc, W_dec = (tensor.requires_grad_() for tensor in weights)
        pre = reference.pre_activations(x, b_dec, W_enc, b_enc)
        values = pre.gather(-1, chosen.indices) * (chosen.values > 0)
        if ours:
            codes = Codes(chosen.indices, values.detach())
            loss, x_hat, (_, values, *_) = autoencoder_mse(codes, x, b_dec, W_enc, b_enc, W_dec)
        else:
            x_hat = reference.decode(Codes(chosen.indices, values), W_dec, b_dec)
            loss = (x_hat - x).square().mean()
        total = 3 * loss
        if further:
            total = total + further * (values.sum(-1) - 1).square().sum()
        gradients = torch.autograd.grad(total, (b_dec, W_enc, b_enc, W_dec))
        return [loss.detach().to(dtype), x_hat.detach(), *gradients]

    assert decode_mse_plan(n_latents, width, n_slots, backend_of(tensors[0])).path == "one_kernel"
    accurate_as_eager(run(dtype, True), run(dtype, False), run(torch.float64, False))
    assert all(torch.equal(a, b) for a, b in zip(run(dtype, True), run(dtype, True), strict=True))


def test_encode_and_decode_end_to_end(device: str, accurate_as_eager: AccurateAsEager) -> None:
    tensors = [torch.randn(*shape) for shape in [(6, 20), (20,), (60, 20), (60,), (60, 20)]]

    def run(dtype: torch.dtype, dense: bool) -> list[Tensor]:
        x, b_dec, W_enc, b_enc, W_dec = leaves = [
            tensor.to(device, dtype).requires_grad_() for tensor in tensors
        ]
        if dense:
            pre = reference.pre_activations(x, b_dec, W_enc, b_enc)
            kept = reference.topk_select(pre, 5).dense(60) > 0
            out = (pre.relu() * kept) @ W_dec + b_dec
        else:
            out = decode(encode_topk(x, b_dec, W_enc, b_enc, 5), W_dec, b_dec)
        return [out.detach(), *torch.autograd.grad(out.square().sum(), leaves)]

    accurate_as_eager(run(torch.float32, False), run(torch.float32, True), run(torch.float64, True))


@pytest.mark.parametrize("activation", ["batch_topk", "jumprelu"])
@pytest.mark.slow_except("batch_topk")
def test_nested_dictionaries_end_to_end(
    activation: str, device: str, accurate_as_eager: AccurateAsEager
) -> None:
    tensors = [torch.randn(*shape) for shape in [(6, 20), (20,), (60, 20), (60,), (60, 20)]]
    threshold = torch.rand(60).to(device)
    prefixes = (7, 30, 60)

    def run(dtype: torch.dtype, dense: bool) -> list[Tensor]:
        x, b_dec, W_enc, b_enc, W_dec = leaves = [
            tensor.to(device, dtype).requires_grad_() for tensor in tensors
        ]
        target = x.detach()
        if dense:
            pre = reference.pre_activations(x, b_dec, W_enc, b_enc)
            if activation == "jumprelu":
                kept = reference.jumprelu(pre, threshold.to(dtype)) > 0
            else:
                kept = reference.batch_topk_select(pre, 5).dense(60) > 0
            acts = pre.relu() * kept
            errors = [acts[:, :p] @ W_dec[:p] + b_dec - target for p in prefixes]
            loss = torch.stack(errors).square().mean()
        elif activation == "jumprelu":
            codes = encode_jumprelu(x, b_dec, W_enc, b_enc, threshold, 0.2)
            loss, _ = nested_mse(codes, W_dec, b_dec, target, prefixes)
        else:
            codes = encode_batch_topk(x, b_dec, W_enc, b_enc, 5)
            loss, _ = nested_mse(codes, W_dec, b_dec, target, prefixes)
        return [loss.detach(), *torch.autograd.grad(loss, leaves)]

    accurate_as_eager(run(torch.float32, False), run(torch.float32, True), run(torch.float64, True))


@pytest.mark.parametrize("unit_rows", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (5, 33), (7, 130), (2500,)])
def test_adam_equals_the_oracle(unit_rows: bool, shape: tuple[int, ...], device: str) -> None:
    weights = normalize_rows_(torch.randn(*shape, device=device))
    first, second = torch.zeros(2, *shape, device=device).unbind()
    expected = weights.double(), first.double(), second.double()
    factor = torch.tensor(0.5, device=device)
    for step in (1, 2, 3):
        gradient = torch.randn(*shape, device=device)
        old, *moments = expected
        half = gradient.double() / 2
        expected = reference.adam_step(
            old, half, moments[0], moments[1], step, 0.01, (0.9, 0.99), 1e-8, unit_rows
        )
        adam_step_(
            weights, gradient, first, second, step=step, lr=0.01, betas=(0.9, 0.99),
            unit_rows=unit_rows, factor=factor,
        )  # fmt: skip
    for got, want in zip((weights, first, second), expected, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(5, 33), (2500,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adam_takes_the_numbers_of_a_step_from_memory_to_the_same_bits(
    shape: tuple[int, ...], dtype: torch.dtype, device: str
) -> None:
    betas = (0.9, 0.999)
    weights = normalize_rows_(torch.randn(*shape, device=device)).to(dtype)
    given = [weights, *torch.zeros(2, *shape, device=device).unbind()]
    read = [tensor.clone() for tensor in given]
    in_memory = NumbersInMemory(weights.device)
    for step, lr in [(1, 3e-4), (2, 1 / 3), (7, 1e-7), (100_000, 2e-4)]:
        gradient = torch.randn(*shape, device=device)
        in_memory.send(step_numbers(step, lr, betas))
        for (w, first, second), memory in [(given, None), (read, in_memory.on_device)]:
            at = (step, lr) if memory is None else (1, torch.nan)  # which are not looked at
            adam_step_(
                w, gradient.clone(), first, second, step=at[0], lr=at[1], betas=betas,
                unit_rows=len(shape) == 2, in_memory=memory,
            )  # fmt: skip
        assert all(torch.equal(a, b) for a, b in zip(given, read, strict=True))


@pytest.mark.parametrize("applies", [True, False])
@pytest.mark.parametrize("shape", [(5, 33), (2500,)])
def test_adam_writes_a_low_precision_copy(
    shape: tuple[int, ...], applies: bool, device: str
) -> None:
    weights, gradient = torch.randn(2, *shape, device=device).unbind()
    first, second = torch.zeros(2, *shape, device=device).unbind()
    before = weights.bfloat16()
    copy = before.clone()
    adam_step_(
        weights, gradient, first, second, step=1, lr=0.1, rounded=copy,
        applies=torch.tensor(applies, device=device),
    )  # fmt: skip
    assert torch.equal(copy, weights.bfloat16())
    assert torch.equal(copy, before) == (not applies)


def test_clipping_factor(device: str) -> None:
    gradients = [torch.full((2, 8), 3.0, device=device), torch.zeros(3, device=device)]
    assert clipping_factor(gradient_norm(gradients), 6.0).item() == 0.5
    assert clipping_factor(gradient_norm(gradients), 60.0).item() == 1.0
