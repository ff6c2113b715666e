"""Encode and decode: values and every gradient against dense autograd, sparse and dense paths."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from sparsteer.kernels import policy, reference
from sparsteer.kernels.codes import Codes
from sparsteer.kernels.decode import decode
from sparsteer.kernels.encode import encode_batch_topk, encode_top_afa, encode_topk
from sparsteer.kernels.gather_dot import gathered_dots
from sparsteer.kernels.jumprelu import encode_jumprelu
from sparsteer.kernels.sparse_products import weight_gradient

AccurateAsEager = Callable[[Sequence[Tensor | None], Sequence[Tensor], Sequence[Tensor]], None]
Weights = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


@pytest.fixture(params=["sparse", "dense"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Force one side of the dispatch, so that both meet every shape."""
    # A threshold of 0 latents for each slot is never undercut, a huge one always.
    least = 1 << 40 if request.param == "dense" else 0
    for name in ("_DENSE_BELOW_LATENTS_PER_SLOT", "_DENSE_BELOW_LATENTS_PER_SLOT_IN_ONEDNN"):
        monkeypatch.setattr(policy, name, least)
    return request.param


def make_weights(n_rows: int, n_latents: int, width: int, dtype: torch.dtype) -> Weights:
    x, b_dec = torch.randn(n_rows, width), torch.randn(width)
    W_enc, b_enc = torch.randn(n_latents, width), torch.randn(n_latents)
    W_dec = torch.randn(n_latents, width)
    return tuple(t.to(dtype).requires_grad_() for t in (x, b_dec, W_enc, b_enc, W_dec))  # pyright: ignore[reportReturnType] - five by construction


def reconstruct(weights: Weights, encode: Callable[..., Codes]) -> Tensor:
    x, b_dec, W_enc, b_enc, W_dec = weights
    return decode(encode(x, b_dec, W_enc, b_enc), W_dec, b_dec)


def reconstruct_densely(weights: Weights, kept: Tensor) -> Tensor:
    x, b_dec, W_enc, b_enc, W_dec = weights
    pre = reference.pre_activations(x, b_dec, W_enc, b_enc)
    return (pre.relu() * kept) @ W_dec + b_dec


def with_gradients(out: Tensor, weights: Weights, grad: Tensor) -> list[Tensor]:
    return [out.detach(), *torch.autograd.grad(out, weights, grad)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("activation", ["top1", "top5", "all", "top_afa", "batch_topk", "jumprelu"])
def test_values_and_gradients(
    shape: tuple[int, int, int],
    path: str,
    dtype: torch.dtype,
    activation: str,
    accurate_as_eager: AccurateAsEager,
) -> None:
    n_rows, n_latents, width = shape
    weights = make_weights(n_rows, n_latents, width, dtype)
    norms = torch.rand(n_latents, dtype=dtype) + 0.5

    def encode(x: Tensor, b_dec: Tensor, W_enc: Tensor, b_enc: Tensor) -> Codes:
        if activation == "top_afa":
            return encode_top_afa(x, b_dec, W_enc, b_enc, norms)
        if activation == "jumprelu":
            return encode_jumprelu(x, b_dec, W_enc, b_enc, norms)
        if activation == "batch_topk":
            return encode_batch_topk(x, b_dec, W_enc, b_enc, min(3, n_latents))
        k = {"top1": 1, "top5": min(5, n_latents), "all": n_latents}[activation]
        return encode_topk(x, b_dec, W_enc, b_enc, k)

    kept = encode(*weights[:4]).dense(n_latents).detach() > 0
    grad = torch.randn(n_rows, width, dtype=dtype)
    ours = with_gradients(reconstruct(weights, encode), weights, grad)
    eager = with_gradients(reconstruct_densely(weights, kept), weights, grad)
    doubled: Weights = tuple(w.detach().double().requires_grad_() for w in weights)  # pyright: ignore[reportAssignmentType] - five by construction
    exact = with_gradients(reconstruct_densely(doubled, kept), doubled, grad.double())
    accurate_as_eager(ours, eager, exact)


@pytest.mark.parametrize("activation", ["topk", "top_afa", "batch_topk", "jumprelu"])
def test_selection_is_the_oracles(shape: tuple[int, int, int], activation: str) -> None:
    n_rows, n_latents, width = shape
    x, b_dec, W_enc, b_enc, _ = make_weights(n_rows, n_latents, width, torch.float64)
    pre = reference.pre_activations(x, b_dec, W_enc, b_enc)
    if activation == "topk":
        k = max(1, n_latents // 3)
        ours, oracle = encode_topk(x, b_dec, W_enc, b_enc, k), reference.topk_select(pre, k)
    elif activation == "batch_topk":
        k = max(1, n_latents // 3)
        ours = encode_batch_topk(x, b_dec, W_enc, b_enc, k)
        oracle = reference.batch_topk_select(pre, k)
    elif activation == "jumprelu":
        threshold = torch.rand(n_latents, dtype=torch.float64)
        ours = encode_jumprelu(x, b_dec, W_enc, b_enc, threshold)
        torch.testing.assert_close(ours.dense(n_latents), reference.jumprelu(pre, threshold))
        return
    else:
        norms = torch.rand(n_latents, dtype=torch.float64) + 0.5
        target = (x - b_dec).square().sum(-1).sqrt()
        ours = encode_top_afa(x, b_dec, W_enc, b_enc, norms)
        oracle = reference.top_afa_select(pre, norms, target)
    torch.testing.assert_close(ours.dense(n_latents), oracle.dense(n_latents))


def test_unused_slots_get_no_gradient() -> None:
    """A row with fewer positives than k must not push its zeros."""
    x, b_dec, W_enc, b_enc, _ = make_weights(6, 30, 4, torch.float64)
    with torch.no_grad():
        b_enc -= 4
    codes = encode_topk(x, b_dec, W_enc, b_enc, 25)
    assert (codes.values == 0).any() and (codes.values > 0).any()
    loss = (codes.values - 1).square().sum()
    ours = torch.autograd.grad(loss, (W_enc, b_enc))
    pre = reference.pre_activations(x, b_dec, W_enc, b_enc)
    used = codes.dense(30).detach() > 0
    dense = torch.autograd.grad((pre[used] - 1).square().sum(), (W_enc, b_enc))
    for got, want in zip(ours, dense, strict=True):
        torch.testing.assert_close(got, want)


def test_rows_without_gradient_need_none(path: str) -> None:
    x, b_dec, W_enc, b_enc, W_dec = make_weights(6, 30, 4, torch.float64)
    out = decode(encode_topk(x.detach(), b_dec, W_enc, b_enc, 3), W_dec, b_dec)
    torch.autograd.backward(out.square().sum())
    assert x.grad is None and b_dec.grad is not None and W_dec.grad is not None


def test_decode_is_linear_in_values_and_blind_to_slot_order(path: str) -> None:
    indices = torch.stack([torch.randperm(40)[:6] for _ in range(11)])
    values, W_dec, zero = torch.rand(11, 6), torch.randn(40, 9), torch.zeros(9)
    once = decode(Codes(indices, values), W_dec, zero)
    torch.testing.assert_close(decode(Codes(indices, 3 * values), W_dec, zero), 3 * once)
    order = torch.randperm(6)
    shuffled = decode(Codes(indices[:, order], values[:, order]), W_dec, zero)
    torch.testing.assert_close(shuffled, once)


def test_unused_slots_change_nothing(path: str) -> None:
    """However wide the codes are padded: a row's count may be far below the largest of a batch."""
    indices, values = torch.randint(40, (11, 6)), torch.rand(11, 6).double()
    rows, weights = torch.randn(11, 9).double(), torch.randn(40, 9).double()
    padded = [torch.nn.functional.pad(tensor, (0, 50)) for tensor in (indices, values)]
    zero = torch.zeros(9, dtype=torch.float64)
    for narrow, wide in (
        (decode(Codes(indices, values), weights, zero), decode(Codes(*padded), weights, zero)),
        (
            gathered_dots(indices, rows, weights),
            gathered_dots(padded[0], rows, weights)[:, :6],
        ),
        (
            weight_gradient(indices, values, rows, 40),
            weight_gradient(padded[0], padded[1], rows, 40),
        ),
    ):
        torch.testing.assert_close(narrow, wide)


def test_leading_dimensions_are_kept() -> None:
    indices, values = torch.randint(0, 12, (2, 3, 4)), torch.rand(2, 3, 4)
    W_dec, b_dec = torch.randn(12, 5), torch.randn(5)
    out = decode(Codes(indices, values), W_dec, b_dec)
    assert out.shape == (2, 3, 5)
    torch.testing.assert_close(out[1], decode(Codes(indices[1], values[1]), W_dec, b_dec))


@pytest.mark.parametrize("activation", ["topk", "batch_topk", "jumprelu"])
def test_no_rows(path: str, activation: str) -> None:
    x, b_dec, W_enc, b_enc, W_dec = make_weights(0, 30, 4, torch.float32)
    if activation == "jumprelu":
        codes = encode_jumprelu(x, b_dec, W_enc, b_enc, torch.ones(30), 0.5)
    else:
        encode = {"topk": encode_topk, "batch_topk": encode_batch_topk}[activation]
        codes = encode(x, b_dec, W_enc, b_enc, 3)
    out = decode(codes, W_dec, b_dec)
    assert out.shape == (0, 4)
    torch.autograd.backward(out.sum())
    assert W_enc.grad is not None and (W_enc.grad == 0).all()


@pytest.mark.usefixtures("without_type_checks")
def test_widths_must_agree() -> None:
    x, b_dec, W_enc, b_enc, W_dec = make_weights(6, 30, 4, torch.float32)
    with pytest.raises(ValueError, match="x has width 3"):
        encode_topk(x[:, :3], b_dec, W_enc, b_enc, 3)
    with pytest.raises(ValueError, match="b_dec has width 3"):
        decode(encode_topk(x, b_dec, W_enc, b_enc, 3), W_dec, b_dec[:3])


def test_weight_gradient_is_deterministic() -> None:
    indices, rows = torch.randint(0, 50, (600, 9)), torch.randn(600, 16)
    coefficients = torch.randn(600, 9)
    first = weight_gradient(indices, coefficients, rows, 50)
    for _ in range(3):
        assert torch.equal(first, weight_gradient(indices, coefficients, rows, 50))


def test_products_equal_their_oracles(path: str) -> None:
    indices, rows = torch.randint(0, 50, (70, 9)), torch.randn(70, 16, dtype=torch.float64)
    coefficients = torch.randn(70, 9, dtype=torch.float64)
    weights = torch.randn(50, 16, dtype=torch.float64)
    torch.testing.assert_close(
        weight_gradient(indices, coefficients, rows, 50),
        reference.weight_gradient(indices, coefficients, rows, 50),
    )
    torch.testing.assert_close(
        gathered_dots(indices, rows, weights),
        reference.gathered_dots(indices, rows, weights),
    )
