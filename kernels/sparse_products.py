"""Weight gradients of sparse codes: products with a [B, F] matrix that is never built whole.

With slots (b, m) that hold latent f = indices[b, m]:
    weight_gradient: out[f] = sum over f's slots of coefficients[b, m] * rows[b]
    latent_sums:     out[f] = sum over f's slots of coefficients[b, m]
`policy.sparse_plan` chooses between segment sums over the slots and, above a fraction of active
latents, dense products in blocks of rows. Where rows use few of their slots, a CPU takes those
alone: its cost follows the mean row, not the widest.

On a GPU the gradients of low-precision weights are given in float32, as their sums are taken
(`gradient_dtype`): an optimizer with float32 weights then reads what was summed, without rounding.
"""

from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .accelerators.onednn import add_product_
from .numerics import at_least_float32, row_blocks, wide_product
from .optimizer import SquareSums
from .policy import ROWS_OF_A_BLOCK, backend_of, dense_rows, sparse_plan
from .segment_sum import Dots, launch_segment_sums, segment_sums, sorted_slots
from .slots import dense_block, slots_per_row, used_slots


def gradient_dtype(rows: Tensor) -> torch.dtype:
    """The dtype of weight gradients from these rows: where Triton runs at least float32, else the
    rows' own."""
    return at_least_float32(rows.dtype) if backend_of(rows).triton else rows.dtype


def weight_gradient(
    indices: Int[Tensor, "B M"],
    coefficients: Float[Tensor, "B M"],
    rows: Float[Tensor, "B D"],
    n_latents: int,
) -> Float[Tensor, "F D"]:
    """Sum coefficients[b, m] * rows[b] into row indices[b, m] of a [F, D] gradient.

    Deterministic: each output row sums its slots in the order of b. Its dtype is `gradient_dtype`.
    """
    backend = backend_of(rows)
    used = used_slots(coefficients != 0, backend)
    plan = sparse_plan(n_latents, slots_per_row(used, *indices.shape), backend)
    if plan.path == "dense":
        return _dense_weight_gradient(indices, coefficients, rows, n_latents)
    if plan.path == "triton":
        return launch_segment_sums(indices, coefficients, rows, n_latents).out
    return segment_sums(sorted_slots(indices, n_latents, used), coefficients, rows)


def _dense_weight_gradient(
    indices: Int[Tensor, "B M"],
    coefficients: Float[Tensor, "B M"],
    rows: Float[Tensor, "B D"],
    n_latents: int,
) -> Float[Tensor, "F D"]:
    if backend_of(rows).triton:
        return _dense_on_gpu(indices, coefficients, rows, n_latents)[0]
    # The running sum of low-precision blocks is kept in float32: rounding it after each block
    # would lose small terms beside large ones.
    wide = at_least_float32(rows.dtype)
    out_FD = rows.new_zeros(n_latents, rows.shape[-1], dtype=wide)
    for block in row_blocks(len(rows), ROWS_OF_A_BLOCK):
        dense_Fb = rows.new_zeros(n_latents, len(rows[block]))
        dense_Fb.scatter_add_(0, indices[block].T, coefficients[block].T)
        add_product_(out_FD, dense_Fb.to(wide), rows[block].to(wide))
    return out_FD.to(rows.dtype)


def _dense_on_gpu(
    indices: Int[Tensor, "B M"],
    coefficients: Float[Tensor, "B M"],
    rows: Float[Tensor, "B D"],
    n_latents: int,
    with_sums: bool = False,
) -> tuple[Float[Tensor, "F D"], Float[Tensor, "F"] | None]:
    """The weight gradient and, if asked, each latent's sum of coefficients, in `gradient_dtype`."""
    wide = at_least_float32(rows.dtype)
    out_FD = sums_F = None
    for block in row_blocks(len(rows), dense_rows(n_latents, backend_of(rows))):
        dense_bF = dense_block(indices[block], coefficients[block], n_latents)
        product_FD = wide_product(dense_bF.T, rows[block])
        out_FD = product_FD if out_FD is None else out_FD.add_(product_FD)
        if with_sums:
            own_F = dense_bF.sum(0, dtype=wide)
            sums_F = own_F if sums_F is None else sums_F.add_(own_F)
    if out_FD is None:
        out_FD = rows.new_zeros(n_latents, rows.shape[-1], dtype=wide)
        sums_F = rows.new_zeros(n_latents, dtype=wide)
    return out_FD, sums_F


def encoder_gradients(
    indices: Int[Tensor, "B M"],
    grad_pre: Float[Tensor, "B M"],
    rows: Float[Tensor, "B D"],
    n_latents: int,
) -> tuple[Float[Tensor, "F D"], Float[Tensor, "F"]]:
    """The encoder's weight and bias gradient in `gradient_dtype`, in one pass on a GPU."""
    if sparse_plan(n_latents, indices.shape[-1], backend_of(rows)).path == "triton":
        found = launch_segment_sums(indices, grad_pre, rows, n_latents)
        return found.out, found.sums
    if backend_of(rows).triton:
        weight, bias = _dense_on_gpu(indices, grad_pre, rows, n_latents, with_sums=True)
        return weight, cast(Tensor, bias)
    weight = weight_gradient(indices, grad_pre, rows, n_latents)
    return weight, latent_sums(indices, grad_pre, n_latents)


def autoencoder_gradients(
    indices: Int[Tensor, "B M"],
    values: Float[Tensor, "B M"],
    grad_values: Float[Tensor, "B M"],
    grad_x_hat: Float[Tensor, "B D"],
    centered: Float[Tensor, "B D"],
    n_latents: int,
) -> tuple[Float[Tensor, "F D"], Float[Tensor, "F D"], Float[Tensor, "F"]]:
    """dW_dec, dW_enc and db_enc, in one pass over the slots on a GPU; a CPU sorts them once.

    Their dtype is `gradient_dtype`.

    Args:
        indices, values: [B, M] the codes.
        grad_values: [B, M] the gradient of the values, 0 in unused slots.
        grad_x_hat: [B, D] the gradient of the reconstruction.
        centered: [B, D] x - b_dec, what the encoder multiplies.
    """
    backend = backend_of(centered)
    used = used_slots((values != 0) | (grad_values != 0), backend)
    plan = sparse_plan(n_latents, slots_per_row(used, *indices.shape), backend)
    if plan.path == "dense":
        dW_dec = weight_gradient(indices, values, grad_x_hat, n_latents)
        if backend.triton:
            found = _dense_on_gpu(indices, grad_values, centered, n_latents, with_sums=True)
            return dW_dec, found[0], cast(Tensor, found[1])
        dW_enc = weight_gradient(indices, grad_values, centered, n_latents)
        return dW_dec, dW_enc, latent_sums(indices, grad_values, n_latents)
    if plan.path == "triton":
        second = values, grad_x_hat
        found = launch_segment_sums(indices, grad_values, centered, n_latents, second)
        return found.out2, found.out, found.sums
    slots = sorted_slots(indices, n_latents, used)
    dW_dec = segment_sums(slots, values, grad_x_hat)
    dW_enc = segment_sums(slots, grad_values, centered)
    return dW_dec, dW_enc, latent_sums(indices, grad_values, n_latents)


def gradients_with_dots(
    indices: Int[Tensor, "B M"],
    values: Float[Tensor, "B M"],
    further: Float[Tensor, "B M"] | None,
    grad_loss: Float[Tensor, ""],
    residual: Float[Tensor, "B D"],
    centered: Float[Tensor, "B D"],
    W_dec: Float[Tensor, "F D"],
    squares: SquareSums | None = None,
) -> tuple[Float[Tensor, "F D"], Float[Tensor, "F D"], Float[Tensor, "F"]]:
    """As `autoencoder_gradients`, with the values' gradient taken in the same pass, which reads a
    row of W_dec once: only on Triton, where `policy.decode_mse_plan` says one_kernel.

    Args:
        indices, values: [B, M] the codes.
        further: [B, M] the values' gradient from other losses; None of none.
        grad_loss: the gradient of this loss, which scales all others of it.
        residual: [B, D] this loss's gradient of the reconstruction.
        centered: [B, D] x - b_dec, what the encoder multiplies.
        W_dec: [F, D] the decoder.
        squares: gets the sums of squares of both matrices.
    """
    dots = Dots(W_dec, grad_loss, further)
    found = launch_segment_sums(indices, dots, centered, len(W_dec), (values, residual))
    if squares is not None:
        squares.note("W_enc", found.out, found.squares)
        squares.note("W_dec", found.out2, found.squares2)
    return found.out2, found.out, found.sums


def latent_sums(
    indices: Int[Tensor, "B M"], coefficients: Float[Tensor, "B M"], n_latents: int
) -> Float[Tensor, "F"]:
    """Sum the coefficients of each latent's slots, in a fixed order and at least in float32; the
    result's dtype is `gradient_dtype`."""
    wide = coefficients.flatten().to(at_least_float32(coefficients.dtype))
    out_F = wide.new_zeros(n_latents)
    if wide.is_cuda:  # this one sorts; index_add_ adds there in whatever order threads come
        out_F.index_put_((indices.flatten(),), wide, accumulate=True)
    else:  # and here this one is serial, and index_put_ is not
        out_F.index_add_(0, indices.flatten(), wide)
    return out_F.to(gradient_dtype(coefficients))
