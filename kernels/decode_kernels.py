"""Triton kernels of the sparse decode: sums of decoder rows, and the reconstruction error's loss.

A program holds a row of the batch, or columns of it, and keeps several rows of W_dec in flight.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .dispatch import Block, Pointer, Scalar, architecture, constexpr, jit, launch, tl
from .numerics import at_least_float32, ceil_div, next_power_of_2
from .tiles import tile


@jit
def _decode_kernel(
    indices_ptr: Pointer,  # [B, M]
    values_ptr: Pointer,  # [B, M]
    weights_ptr: Pointer,  # [F, D]
    out_ptr: Pointer,  # [B, D] (out)
    D: Scalar,
    M: Scalar,
    BLOCK_D: constexpr,
    ROWS: constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    in_row = columns < D
    total = _weighted_sum(
        indices_ptr=indices_ptr + row * M,
        values_ptr=values_ptr + row * M,
        weights_ptr=weights_ptr,
        columns=columns,
        in_row=in_row,
        D=D,
        M=M,
        BLOCK_D=BLOCK_D,
        ROWS=ROWS,
    )
    tl.store(out_ptr + row * D + columns, total.to(out_ptr.dtype.element_ty), mask=in_row)


@jit
def _weighted_sum(
    indices_ptr: Pointer,  # [M] one row
    values_ptr: Pointer,  # [M] one row
    weights_ptr: Pointer,  # [F, D]
    columns: Block,  # [BLOCK_D]
    in_row: Block,  # [BLOCK_D]
    D: Scalar,
    M: Scalar,
    BLOCK_D: constexpr,
    ROWS: constexpr,
) -> Block:
    """[BLOCK_D] columns of the row's sum of values times rows of the weights, in float32."""
    total = tl.zeros([BLOCK_D], tl.float32)
    for slot in tl.range(0, M, ROWS, num_stages=3):
        slots = slot + tl.arange(0, ROWS)
        inside = slots < M
        latents = tl.load(indices_ptr + slots, mask=inside, other=0)
        values = tl.load(values_ptr + slots, mask=inside, other=0.0).to(tl.float32)
        weights = tl.load(
            weights_ptr + latents[:, None] * D + columns[None, :],
            mask=inside[:, None] & in_row[None, :],
            other=0.0,
        ).to(tl.float32)
        total += tl.sum(weights * values[:, None], 0)
    return total


@jit
def _decode_mse_kernel(
    indices_ptr: Pointer,  # [B, M]
    values_ptr: Pointer,  # [B, M]
    weights_ptr: Pointer,  # [F, D]
    bias_ptr: Pointer,  # [D]
    x_ptr: Pointer,  # [B, D]
    x_hat_ptr: Pointer,  # [B, D] (out)
    residual_ptr: Pointer,  # [B, D] (out) scale * (x_hat - x)
    grad_values_ptr: Pointer,  # [B, M] (out), if DOTS
    losses_ptr: Pointer,  # [B] (out) sum of (x_hat - x)^2, float32
    scale: Scalar,
    D: Scalar,
    M: Scalar,
    DOTS: constexpr,
    BLOCK_D: constexpr,
    ROWS: constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK_D)
    in_row = columns < D
    total = _weighted_sum(
        indices_ptr=indices_ptr + row * M,
        values_ptr=values_ptr + row * M,
        weights_ptr=weights_ptr,
        columns=columns,
        in_row=in_row,
        D=D,
        M=M,
        BLOCK_D=BLOCK_D,
        ROWS=ROWS,
    )
    total += tl.load(bias_ptr + columns, mask=in_row, other=0.0).to(tl.float32)
    x = tl.load(x_ptr + row * D + columns, mask=in_row, other=0.0).to(tl.float32)
    residual = tl.where(in_row, total - x, 0.0)
    tl.store(losses_ptr + row, tl.sum(residual * residual, 0))
    tl.store(x_hat_ptr + row * D + columns, total.to(x_hat_ptr.dtype.element_ty), mask=in_row)
    residual *= scale
    tl.store(
        residual_ptr + row * D + columns,
        residual.to(residual_ptr.dtype.element_ty),
        mask=in_row,
    )
    if DOTS:
        for step in tl.range(0, M, ROWS, num_stages=3):
            # Backwards: what was read last is likeliest in the cache.
            slots = (M - 1) // ROWS * ROWS - step + tl.arange(0, ROWS)
            inside = slots < M
            latents = tl.load(indices_ptr + row * M + slots, mask=inside, other=0)
            weights = tl.load(
                weights_ptr + latents[:, None] * D + columns[None, :],
                mask=inside[:, None] & in_row[None, :],
                other=0.0,
            ).to(tl.float32)
            dots = tl.sum(weights * residual[None, :], 1)
            tl.store(
                grad_values_ptr + row * M + slots,
                dots.to(grad_values_ptr.dtype.element_ty),
                mask=inside,
            )


def launch_decode(
    indices: Int[Tensor, "B M"], values: Float[Tensor, "B M"], weights: Float[Tensor, "F D"]
) -> Float[Tensor, "B D"]:
    """out[b] = sum over m of values[b, m] * weights[indices[b, m]]."""
    n_rows, M = indices.shape
    D = weights.shape[1]
    sizes = tile("decode", architecture(weights), D=D, F=len(weights), K=M)
    out = values.new_empty(n_rows, D)
    launch(
        _decode_kernel,
        (n_rows, ceil_div(D, sizes["BLOCK_D"])),
        indices_ptr=indices.contiguous(),
        values_ptr=values.contiguous(),
        weights_ptr=weights.contiguous(),
        out_ptr=out,
        D=D,
        M=M,
        **sizes,
    )
    return out


def launch_decode_mse(
    indices: Int[Tensor, "B M"],
    values: Float[Tensor, "B M"],
    weights: Float[Tensor, "F D"],
    bias: Float[Tensor, "D"],
    x: Float[Tensor, "B D"],
    for_values: bool,
) -> tuple[
    Float[Tensor, ""], Float[Tensor, "B D"], Float[Tensor, "B D"], Float[Tensor, "B M"] | None
]:
    """The loss mean((x_hat - x)^2), x_hat, the loss's gradient of x_hat, and `for_values` that of
    the values."""
    n_rows, M = indices.shape
    D = weights.shape[1]
    sizes = tile("decode", architecture(weights), D=D, F=len(weights), K=M)
    # One program holds a whole row, whatever tile is asked for.
    sizes["BLOCK_D"] = max(sizes["BLOCK_D"], next_power_of_2(D))
    x_hat, residual = torch.empty_like(x), torch.empty_like(x)
    grad_values = torch.empty_like(values) if for_values else None
    losses = x.new_empty(n_rows, dtype=torch.float32)
    launch(
        _decode_mse_kernel,
        (n_rows,),
        indices_ptr=indices.contiguous(),
        values_ptr=values.contiguous(),
        weights_ptr=weights.contiguous(),
        bias_ptr=bias.contiguous(),
        x_ptr=x.contiguous(),
        x_hat_ptr=x_hat,
        residual_ptr=residual,
        grad_values_ptr=values if grad_values is None else grad_values,
        losses_ptr=losses,
        scale=2.0 / max(1, x.numel()),
        D=D,
        M=M,
        DOTS=for_values,
        **sizes,
    )
    loss = losses.sum().div(max(1, x.numel())).to(at_least_float32(x.dtype))
    return loss, x_hat, residual, grad_values
