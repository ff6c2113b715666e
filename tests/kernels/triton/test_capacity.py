"""Codes whose width is taken for granted: rows that fit are as ever, and others are marked."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sparsteer.kernels import encode, jumprelu_kernels, policy
from sparsteer.kernels.capacity import SlotCapacity
from sparsteer.kernels.codes import Codes
from sparsteer.kernels.encode import encode_batch_topk, encode_top_afa
from sparsteer.kernels.jumprelu import encode_jumprelu

from .no_waiting import no_waiting

B, D, F = 12, 8, 70
Encoder = Callable[[list[Tensor], SlotCapacity | None], Codes]


def batch_topk(weights: list[Tensor], capacity: SlotCapacity | None) -> Codes:
    x, center, W_enc, b_enc, _ = weights
    return encode_batch_topk(x, center, W_enc, b_enc, 5, None, capacity)


def jumprelu(weights: list[Tensor], capacity: SlotCapacity | None) -> Codes:
    x, center, W_enc, b_enc, threshold = weights
    return encode_jumprelu(x, center, W_enc, b_enc, threshold, 0.4, capacity)


def top_afa(weights: list[Tensor], capacity: SlotCapacity | None) -> Codes:
    x, center, W_enc, b_enc, norms = weights
    return encode_top_afa(x, center, W_enc, b_enc, norms, capacity=capacity)


ENCODERS = {"batch_topk": (batch_topk, 1), "jumprelu": (jumprelu, 2), "top_afa": (top_afa, 1)}


@pytest.fixture(params=ENCODERS.values(), ids=[*ENCODERS])
def encoder(request: pytest.FixtureRequest) -> tuple[Encoder, int]:
    return request.param


def five_rows(n_latents: int, product: policy.ProductPlan, backend: policy.Backend) -> int:
    return 5


@pytest.fixture(params=["one block", "blocks of rows"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "blocks of rows":
        monkeypatch.setattr(encode, "pre_activation_rows", five_rows)
    return request.param


def weights_on(device: str, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Rows, center, encoder and its bias, and what is positive of every latent."""
    x = torch.randn(B, D)
    x[7] *= 2  # keeps more latents than others
    positive = 0.2 + 0.1 * torch.rand(F)
    tensors = [x, torch.zeros(D), torch.randn(F, D) / D**0.5, 0.1 * torch.randn(F), positive]
    return [tensor.to(device, dtype) for tensor in tensors]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_that_fit_are_as_ever_and_nothing_waits(
    encoder: tuple[Encoder, int], blocks: str, dtype: torch.dtype, device: str
) -> None:
    encode, n_parts = encoder
    weights = weights_on(device, dtype)
    exact = encode(weights, None)
    asked = SlotCapacity((64,) * n_parts, asks=True)
    wide = encode(weights, asked)
    assert asked.needed and max(asked.needed) <= 64
    with no_waiting(device):
        presumed = encode(weights, SlotCapacity((64,) * n_parts, asks=False))
    assert presumed.values.shape == (B, 64 * n_parts)
    for tensor, same in zip(presumed, wide, strict=True):
        assert tensor is same is None or (
            tensor is not None and same is not None and torch.equal(tensor, same)
        )
    assert presumed.counts is not None and exact.counts is not None
    assert torch.equal(presumed.counts, exact.counts)
    assert torch.equal(presumed.dense(F), exact.dense(F))
    if n_parts == 1:
        width = exact.values.shape[1]
        assert torch.equal(presumed.values[:, :width], exact.values)
        assert torch.equal(presumed.indices[:, :width], exact.indices)
        assert not presumed.values[:, width:].any() and not presumed.indices[:, width:].any()


def test_a_row_that_does_not_fit_is_nan(
    encoder: tuple[Encoder, int], blocks: str, device: str
) -> None:
    encode, n_parts = encoder
    weights = weights_on(device)
    exact = encode(weights, None)
    assert exact.counts is not None
    fullest = int(exact.counts.max())
    assert fullest > 5
    codes = encode(weights, SlotCapacity((fullest - 1, 64)[:n_parts], asks=False))
    marked = codes.values.isnan().any(1)
    assert marked[exact.counts == fullest].all()
    if encode is not batch_topk:  # whose rows depend on each other
        assert torch.equal(marked, exact.counts == fullest) and not marked.all()
        assert torch.equal(codes.dense(F)[~marked], exact.dense(F)[~marked])


def test_latents_below_their_threshold_must_fit_too(device: str) -> None:
    pre, threshold = torch.full((3, 40), 0.9, device=device), torch.ones(40, device=device)
    pre[0, ::2], pre[2] = 0, 2
    capacity = SlotCapacity((40, 20), asks=False)
    slots = jumprelu_kernels.launch_jumprelu(pre, threshold, 0.8 * threshold, capacity)
    marked = slots.codes.values.isnan().any(1)
    assert not marked[0] and marked[1] and not marked[2]
    assert torch.equal(slots.codes.values[0, 40:], pre[0, 1::2])


def test_what_was_asked_is_wide_enough(
    encoder: tuple[Encoder, int], blocks: str, device: str
) -> None:
    encode, n_parts = encoder
    weights = weights_on(device)
    exact = encode(weights, None)
    asked = SlotCapacity((1,) * n_parts, asks=True)
    codes = encode(weights, asked)
    assert torch.equal(codes.dense(F), exact.dense(F))
    assert len(asked.needed) == n_parts
    granted = encode(weights, SlotCapacity(asked.needed, asks=False))
    assert not granted.values.isnan().any()
    assert torch.equal(granted.dense(F), exact.dense(F))


def test_top_afa_of_long_rows_marks_them_too(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "_LONGEST_TOP_AFA_IN_REGISTERS", 0)
    weights = weights_on(device)
    exact = top_afa(weights, None)
    assert exact.counts is not None
    fullest = int(exact.counts.max())
    codes = top_afa(weights, SlotCapacity((fullest - 1,), asks=False))
    marked = exact.counts == fullest
    assert codes.values[marked].isnan().all()
    assert torch.equal(codes.dense(F)[~marked], exact.dense(F)[~marked])
