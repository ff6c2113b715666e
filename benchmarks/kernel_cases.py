"""What bench_kernels.py times: every operator, what it is compared with, and its floor.

The result of each call is compared with another way's first.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from kernel_inputs import Inputs
from torch import Tensor

from sparsteer.kernels import reference
from sparsteer.kernels.accelerators.onednn import Affine
from sparsteer.kernels.decode import decode, decode_mse
from sparsteer.kernels.encode import encode_topk, pre_activation_blocks
from sparsteer.kernels.optimizer import adam_step_
from sparsteer.kernels.policy import backend_of, encode_plan
from sparsteer.kernels.sparse_products import autoencoder_gradients
from sparsteer.kernels.top_afa import top_afa_select
from sparsteer.kernels.topk import topk_select

Call = Callable[[], object]
FASTER = "encoder's product"
"""The floor by the library that the encoder takes, weights brought into its layout each time."""
L0 = 64
"""Latents that top-AFA keeps of a row, about."""
COPIED = 1 << 27
"""Bytes that the copy of the floors reads, and writes."""
LIMITS = {"float32": 1e-4, "tf32": 2e-2, "bfloat16": 4e-2}
"""How far a result may be from another way's, relatively, both in this precision."""


class Case(NamedTuple):
    """One measurement: ours, what it is compared with, its floor."""

    ours: Call
    others: dict[str, Call]
    floor: str | int
    """Name of a floor, or bytes that must move."""
    error: Callable[[], float] = lambda: 0.0
    """Relative difference of our result from another way's."""


def require_right(cases: dict[str, Case], precision: str) -> str:
    """Compare each result with another way's; a note on how far they are.

    Raises SystemExit naming the first operator that is further off than rounding explains.
    """
    errors = {name: case.error() for name, case in cases.items()}
    for name, error in errors.items():
        if not error <= LIMITS[precision]:
            raise SystemExit(f"{name} is wrong: {error:.1e} off another way, relatively")
    worst = max(errors, key=lambda name: errors[name])
    return f"Results differ from those of other ways by {errors[worst]:.0e} at most ({worst})."


def relative(found: Tensor, wanted: Tensor) -> float:
    """Norm of the difference, by that of what is wanted; NaN stays."""
    off = (found.float() - wanted.float()).square().sum()
    return float((off / wanted.float().square().sum().clamp(min=1e-30)).sqrt())


def operators(inputs: Inputs, k: int) -> dict[str, Case]:
    """The operators on these inputs."""
    x, b_dec, W_enc, b_enc, W_dec = inputs
    (B, D), F = x.shape, len(W_enc)
    pre = reference.pre_activations(x, b_dec, W_enc, b_enc)
    codes = topk_select(pre, k)
    dense = codes.dense(F)
    size = x.element_size()
    encode = partial(encode_topk, x, b_dec, W_enc, b_enc, k)
    gradients = partial(autoencoder_gradients, codes.indices, codes.values, codes.values, x, x, F)

    def best(values: Tensor) -> Tensor:
        return values.sort(descending=True).values

    def eager_mse() -> Tensor:
        residual = dense @ W_dec + b_dec - x
        return (residual @ W_dec.T).gather(-1, codes.indices) + residual.square().mean()

    def mse_error() -> float:
        wanted = (dense @ W_dec + b_dec - x).float().square().mean()
        return relative(decode_mse(codes, W_dec, b_dec, x).loss, wanted)

    return {
        "encode_topk": Case(
            encode,
            {"eager": lambda: torch.nn.functional.linear(x - b_dec, W_enc, b_enc).topk(k)}
            | unscreened(x, b_dec, W_enc, b_enc, k),
            "product",
            lambda: relative(best(encode().values), pre.topk(k).values.relu()),
        ),
        "topk_select": Case(
            lambda: topk_select(pre, k),
            {"eager": lambda: pre.topk(k)},
            B * F * size,
            lambda: relative(best(topk_select(pre, k).values), pre.topk(k).values.relu()),
        ),
        "decode": Case(
            lambda: decode(codes, W_dec, b_dec),
            {"eager": lambda: dense @ W_dec + b_dec} | sparsify_decode(codes, W_dec),
            (B * k + B) * D * size,
            lambda: relative(decode(codes, W_dec, b_dec), dense @ W_dec + b_dec),
        ),
        "decode_mse": Case(
            lambda: decode_mse(codes, W_dec, b_dec, x),
            {"eager": eager_mse},
            (B * k + 4 * B) * D * size,
            mse_error,
        ),
        "autoencoder_gradients": Case(
            gradients,
            {"eager": lambda: (dense.T @ x, dense.T @ x, dense.sum(0))},
            2 * (B * k + F) * D * size,
            lambda: relative(gradients()[0], dense.T @ x),
        ),
        "adam_unit_rows": adam(W_dec.float()),
    }


def adam(W_dec: Tensor) -> Case:
    """A step of Adam with unit rows, in float32 as in training of every precision; the weights move
    on from call to call."""
    first, second, gradient = (torch.randn_like(W_dec) for _ in range(3))
    second.abs_()

    def ours(weights: Tensor) -> Tensor:
        adam_step_(weights, gradient.clone(), first, second, step=10, lr=1e-3, unit_rows=True)
        return weights

    def eager() -> Tensor:
        sizes = (10, 1e-3, (0.9, 0.999), 1e-8, True)
        return reference.adam_step(W_dec, gradient, first, second, *sizes)[0]

    def error() -> float:
        wanted = eager()
        return relative(ours(W_dec.clone()), wanted)

    bytes_moved = W_dec.numel() * (3 * W_dec.element_size() + 16)
    return Case(lambda: ours(W_dec), {"eager": eager}, bytes_moved, error)


def unscreened(x: Tensor, b_dec: Tensor, W_enc: Tensor, b_enc: Tensor, k: int) -> dict[str, Call]:
    """The same codes by the product in float32, where `encode_topk` ranks in bfloat16."""
    B, D = x.shape
    if encode_plan(B, D, len(W_enc), k, backend_of(x)).path != "screened":
        return {}
    blocks = partial(pre_activation_blocks, x, b_dec, W_enc, b_enc)
    return {"float32 product": lambda: [topk_select(pre, k) for pre, _ in blocks()]}


def sparsify_decode(codes: Any, W_dec: Tensor) -> dict[str, Call]:
    """The decoder of eai-sparsify, where it is installed."""
    if find_spec("sparsify") is None:
        return {}
    theirs: Any = import_module("sparsify.utils").decoder_impl
    return {"sparsify": lambda: theirs(codes.indices, codes.values, W_dec.mT)}


def top_afa(B: int, F: int, positive: float, device: str, dtype: torch.dtype) -> Case:
    """Selection to a target that about L0 latents reach, with this fraction of positives."""
    cut = torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(1 - positive)).to(device)
    pre = (torch.randn(B, F, device=device) - cut).to(dtype)
    norms = (0.9 + 0.2 * torch.rand(F, device=device)).to(dtype)
    wanted = (L0 / 2 + L0 * torch.rand(B, device=device)).long().clamp(max=int(positive * F * 0.8))
    largest = (pre.relu() * norms).float().topk(int(wanted.max()), dim=-1).values
    target = largest.square().cumsum(-1).sqrt().gather(-1, wanted[:, None] - 1)[:, 0].to(dtype)

    def reached() -> Tensor:
        """[B, F] the norm of so many latents, the largest first."""
        scaled = (pre.relu() * norms).sort(dim=-1, descending=True).values
        return scaled.float().square().cumsum(-1).sqrt()

    def by_sort() -> Tensor:
        return (reached() - target[:, None]).abs().argmin(-1)

    def error() -> float:
        """Of the norms of the latents that are kept, which are what the choice is by."""
        codes = top_afa_select(pre, norms, target)
        kept = (codes.values * norms[codes.indices]).float().square().sum(-1).sqrt()
        return relative(kept, reached().gather(-1, by_sort()[:, None])[:, 0])

    others: dict[str, Call] = {
        "torch.topk": lambda: pre.topk(L0, sorted=False),
        "our topk": lambda: topk_select(pre, L0),
        "sort": by_sort,
    }
    size = pre.element_size()
    return Case(lambda: top_afa_select(pre, norms, target), others, B * F * size, error)


def floors(inputs: Inputs) -> dict[str, Call]:
    """The products and a copy."""
    x, _, W_enc, b_enc, _ = inputs
    B = len(x)
    out = torch.empty(B, len(W_enc), device=x.device, dtype=x.dtype)
    block = torch.empty(COPIED, dtype=torch.uint8, device=x.device)
    copy = torch.empty_like(block)

    def encoder_product() -> None:
        for _ in pre_activation_blocks(x, torch.zeros_like(x[0]), W_enc, b_enc):
            pass

    def affine_product() -> None:
        affine = Affine(W_enc, b_enc, B)
        size = affine.plan.rows_at_once
        for start in range(0, B, size):
            affine(x[start : start + size])

    return {
        "product": lambda: torch.mm(x, W_enc.T, out=out),
        # A GPU takes as many rows at once as fill it.
        FASTER: encoder_product if x.is_cuda else affine_product,
        "copy": lambda: copy.copy_(block),
    }
