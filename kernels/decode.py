"""Sparse decode: x_hat = codes @ W_dec + b_dec, reading only the active rows of W_dec.

`decode_mse` goes on to the loss mean((x_hat - x)^2) with r = 2 (x_hat - x) / (B D), its gradient:
    dvalues[b, m] = W_dec[indices[b, m]] . r[b],  dW_dec[f] = sum of values * r[b],  db_dec = sum r.
The Triton kernel takes the dot products of dvalues while rows of W_dec are in the cache from the
reconstruction, the last ones first; `compare` may leave them to the pass over the weight gradients.
"""

from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .accelerators.onednn import Affine
from .codes import Codes
from .decode_kernels import launch_decode, launch_decode_mse
from .gather_dot import gathered_dots
from .numerics import at_least_float32, row_blocks
from .policy import backend_of, decode_mse_plan, pre_activation_rows, sparse_plan
from .slots import UsedSlots, dense_block, slots_per_row, used_slots
from .sparse_products import gradient_dtype, weight_gradient


def decode(
    codes: Codes, W_dec: Float[Tensor, "F D"], b_dec: Float[Tensor, "D"]
) -> Float[Tensor, "*B D"]:
    """Sum each row's active decoder rows, weighted by its values, and add b_dec.

    Args:
        codes: indices and values [..., M]; unused slots add nothing.
        W_dec: [F, D] decoder rows.
        b_dec: [D] decoder bias.

    Returns:
        [..., D] reconstructions, differentiable with respect to the values, W_dec and b_dec; no
        [B, F] tensor is built, forward or backward.

    Raises:
        ValueError: the biases' or the weights' widths differ.
    """
    if b_dec.shape[0] != W_dec.shape[1]:
        raise ValueError(f"b_dec has width {b_dec.shape[0]}, but W_dec has {W_dec.shape[1]}")
    leading, n_slots = codes.indices.shape[:-1], codes.indices.shape[-1]
    slots = codes.indices.reshape(-1, n_slots), codes.values.reshape(-1, n_slots)
    return _decode_op(*slots, W_dec).view(*leading, W_dec.shape[1]) + b_dec


class Reconstruction(NamedTuple):
    """What `decode_mse` returns."""

    loss: Float[Tensor, ""]
    """Mean over rows and dimensions of (x_hat - x)^2."""
    x_hat: Float[Tensor, "B D"]
    """Detached: only the loss carries a gradient."""


def decode_mse(
    codes: Codes,
    W_dec: Float[Tensor, "F D"],
    b_dec: Float[Tensor, "D"],
    x: Float[Tensor, "B D"],
) -> Reconstruction:
    """Decode and compare with the rows in one pass.

    Args:
        codes, W_dec, b_dec: as for `decode`, for rows [B].
        x: [B, D] the rows to compare with, without a gradient of their own.

    Returns:
        The mean squared error, differentiable with respect to the values, W_dec and b_dec, and the
        reconstructions, detached.

    Raises:
        ValueError: the widths differ, x wants a gradient, or W_dec is float16 and gradients are
            enabled.
    """
    require_comparable(W_dec, b_dec, x)
    out = _DecodeMSE.apply(codes.indices, codes.values, W_dec, b_dec, x)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - autograd.Function is untyped
    return Reconstruction(*cast(tuple[Tensor, Tensor], out))


def require_comparable(W_dec: Tensor, b_dec: Tensor, x: Tensor) -> None:
    """Raise ValueError if the widths differ, x wants a gradient, or gradients would vanish."""
    if not b_dec.shape[0] == W_dec.shape[1] == x.shape[1]:
        raise ValueError(
            f"x has width {x.shape[1]} and b_dec {b_dec.shape[0]}, but W_dec has {W_dec.shape[1]}"
        )
    if x.requires_grad:
        raise ValueError("x wants a gradient, which this loss does not give; detach it")
    if W_dec.dtype == torch.float16 and torch.is_grad_enabled():
        raise ValueError(
            "W_dec is float16, whose range gradients of a mean over all elements leave; "
            "convert the autoencoder to float32 or bfloat16"
        )


def weighted_rows(
    indices: Int[Tensor, "B M"], values: Float[Tensor, "B M"], weights: Float[Tensor, "F D"]
) -> Float[Tensor, "B D"]:
    """out[b] = sum over m of values[b, m] * weights[indices[b, m]], without a gradient."""
    backend = backend_of(weights)
    used = used_slots(values != 0, backend)
    plan = sparse_plan(len(weights), slots_per_row(used, *indices.shape), backend)
    if plan.path == "dense":
        out_BD = values.new_empty(len(values), weights.shape[-1])
        product = Affine(weights.T, None, len(values))
        rows_at_once = pre_activation_rows(len(weights), product.plan, backend)
        for block in row_blocks(len(values), rows_at_once):
            out_BD[block] = product(dense_block(indices[block], values[block], len(weights)))
        return out_BD
    if plan.path == "triton":
        return launch_decode(indices, values, weights)
    if used is None:
        return torch.nn.functional.embedding_bag(
            indices, weights, per_sample_weights=values, mode="sum"
        )
    return torch.nn.functional.embedding_bag(
        indices.flatten()[used.slots],
        weights,
        offsets=used.offsets,
        per_sample_weights=values.flatten()[used.slots],
        mode="sum",
    )


@torch.library.custom_op("sparsteer::decode", mutates_args=())
def _decode_op(indices: Tensor, values: Tensor, W_dec: Tensor) -> Tensor:
    return weighted_rows(indices, values, W_dec)


@_decode_op.register_fake  # pyright: ignore[reportUnknownMemberType] - untyped
def _(indices: Tensor, values: Tensor, W_dec: Tensor) -> Tensor:
    return values.new_empty(indices.shape[0], W_dec.shape[1])


@torch.library.custom_op("sparsteer::decode_backward", mutates_args=())
def _decode_backward_op(
    grad: Tensor, indices: Tensor, values: Tensor, W_dec: Tensor, for_values: bool, for_W: bool
) -> list[Tensor]:
    """The gradients asked for, of the values first."""
    gradients: list[Tensor] = []
    if for_values:
        gradients.append(gathered_dots(indices, grad, W_dec))
    if for_W:
        gradients.append(weight_gradient(indices, values, grad, len(W_dec)))
    return gradients


@_decode_backward_op.register_fake  # pyright: ignore[reportUnknownMemberType] - untyped
def _(
    grad: Tensor, indices: Tensor, values: Tensor, W_dec: Tensor, for_values: bool, for_W: bool
) -> list[Tensor]:
    gradients = [grad.new_empty(values.shape)] * for_values
    return gradients + [grad.new_empty(W_dec.shape, dtype=gradient_dtype(grad))] * for_W


def _decode_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _decode_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    _, for_values, for_W = ctx.needs_input_grad
    gradients = _decode_backward_op(grad, *ctx.saved_tensors, for_values, for_W)
    return None, gradients.pop(0) if for_values else None, gradients.pop() if for_W else None


_decode_op.register_autograd(_decode_backward, setup_context=_decode_context)  # pyright: ignore[reportUnknownMemberType] - untyped


class Comparison(NamedTuple):
    """What `compare` returns."""

    loss: Float[Tensor, ""]
    """The mean squared error."""
    x_hat: Float[Tensor, "B D"]
    """The reconstructions."""
    residual: Float[Tensor, "B D"]
    """The loss's gradient of these."""
    grad_values: Float[Tensor, "B M"] | None
    """The loss's gradient of the values; None where it was left out."""


def compare(
    indices: Int[Tensor, "B M"],
    values: Float[Tensor, "B M"],
    W_dec: Float[Tensor, "F D"],
    b_dec: Float[Tensor, "D"],
    x: Float[Tensor, "B D"],
    used: UsedSlots | None = None,
    for_values: bool = True,
) -> Comparison:
    """The mean squared error of the codes' reconstructions, and its gradients.

    With `used` the gradients of other slots' values are of no interest. Without `for_values` the
    values' gradient may be left out, for `gradients_with_dots` to take.
    """
    n_latents, width = W_dec.shape
    n_slots = slots_per_row(used, *indices.shape)
    plan = decode_mse_plan(n_latents, width, n_slots, backend_of(W_dec))
    if plan.path == "one_kernel":
        return Comparison(*launch_decode_mse(indices, values, W_dec, b_dec, x, for_values))
    if plan.path == "compiled" and values.dtype == x.dtype == W_dec.dtype:
        return _compare_on_cpu(indices, values, W_dec, b_dec, x, every_slot=used is None)
    x_hat_BD = weighted_rows(indices, values, W_dec) + b_dec
    wide = at_least_float32(x.dtype)  # what the loss is summed in and given as
    loss = x.new_zeros((), dtype=wide)
    if len(x):
        loss = torch.nn.functional.mse_loss(x_hat_BD.to(wide), x.to(wide))
    residual_BD = (x_hat_BD - x).mul_(2 / max(1, x.numel()))
    grad_values_BM = gathered_dots(indices, residual_BD, W_dec, used)
    return Comparison(loss, x_hat_BD, residual_BD, grad_values_BM)


def _compare_on_cpu(
    indices_BM: Tensor,
    values_BM: Tensor,
    W_dec_FD: Tensor,
    b_dec_D: Tensor,
    x_BD: Tensor,
    *,
    every_slot: bool,
) -> Comparison:
    from .compiled import over_rows
    from .gathered_rows import compare_rows

    if indices_BM.numel() and not (0 <= indices_BM.min() and indices_BM.max() < len(W_dec_FD)):
        raise IndexError(f"the codes name a latent that is none of W_dec's {len(W_dec_FD)}")
    given = (indices_BM, values_BM, W_dec_FD, b_dec_D, x_BD)
    arrays = [tensor.detach().contiguous().numpy() for tensor in given]
    x_hat_BD, residual_BD = torch.empty(2, *x_BD.shape, dtype=x_BD.dtype)
    dots_BM = torch.empty(values_BM.shape, dtype=x_BD.dtype)
    squares_B = torch.empty(len(x_BD), dtype=torch.float64)
    outputs = [tensor.numpy() for tensor in (x_hat_BD, residual_BD, dots_BM, squares_B)]
    scale = 2 / max(1, x_BD.numel())
    over_rows(compare_rows, len(x_BD), *arrays, scale, every_slot, *outputs)
    loss = (squares_B.sum() / max(1, x_BD.numel())).to(x_BD.dtype)
    return Comparison(loss, x_hat_BD, residual_BD, dots_BM)


class _DecodeMSE(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        indices_BM: Tensor,
        values_BM: Tensor,
        W_dec_FD: Tensor,
        b_dec_D: Tensor,
        x_BD: Tensor,
    ) -> tuple[Tensor, Tensor]:
        loss, x_hat_BD, residual_BD, grad_values_BM = compare(
            indices_BM, values_BM, W_dec_FD, b_dec_D, x_BD
        )
        ctx.save_for_backward(indices_BM, values_BM, residual_BD, grad_values_BM)
        ctx.n_latents = len(W_dec_FD)
        ctx.mark_non_differentiable(x_hat_BD)
        return loss, x_hat_BD

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator drops names
        ctx: Any, grad_loss: Tensor, _: Tensor
    ) -> tuple[Tensor | None, ...]:
        indices_BM, values_BM, residual_BD, grad_values_BM = ctx.saved_tensors
        grad_values = grad_W_FD = grad_b_D = None
        if ctx.needs_input_grad[1]:
            grad_values = grad_loss * grad_values_BM
        if ctx.needs_input_grad[2]:
            # grad_loss waits on the device: the small factor scales the values, not the result.
            grad_W_FD = weight_gradient(
                indices_BM, grad_loss * values_BM, residual_BD, ctx.n_latents
            )
        if ctx.needs_input_grad[3]:
            grad_b_D = grad_loss * residual_BD.sum(0)
        return None, grad_values, grad_W_FD, grad_b_D, None
