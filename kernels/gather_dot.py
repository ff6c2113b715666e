"""Gathered dot products: of every slot, its row with the weights of its latent.

    out[b, m] = rows[b] . weights[indices[b, m]]
It is the gradient of a decoder's values, and with candidates for indices the encoder's product of
these latents alone.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .accelerators.onednn import Affine
from .dispatch import Pointer, Scalar, architecture, constexpr, jit, launch, tl
from .numerics import row_blocks
from .policy import backend_of, pre_activation_rows, sparse_plan
from .slots import UsedSlots, slots_per_row
from .tiles import tile


@jit
def _gathered_dots_kernel(
    indices_ptr: Pointer,  # [B, M]
    rows_ptr: Pointer,  # [B, D]
    weights_ptr: Pointer,  # [F, D]
    out_ptr: Pointer,  # [B, M] (out)
    D: Scalar,
    M: Scalar,
    BLOCK_D: constexpr,
    ROWS: constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    for slot in range(0, M, ROWS):
        slots = slot + tl.arange(0, ROWS)
        inside = slots < M
        latents = tl.load(indices_ptr + row * M + slots, mask=inside, other=0)
        total = tl.zeros([ROWS], tl.float32)
        for start in range(0, D, BLOCK_D):
            columns = start + tl.arange(0, BLOCK_D)
            in_row = columns < D
            x = tl.load(rows_ptr + row * D + columns, mask=in_row, other=0.0).to(tl.float32)
            weights = tl.load(
                weights_ptr + latents[:, None] * D + columns[None, :],
                mask=inside[:, None] & in_row[None, :],
                other=0.0,
            ).to(tl.float32)
            total += tl.sum(weights * x[None, :], 1)
        tl.store(out_ptr + row * M + slots, total.to(out_ptr.dtype.element_ty), mask=inside)


def _launch_gathered_dots(
    indices: Int[Tensor, "B M"], rows: Float[Tensor, "B D"], weights: Float[Tensor, "F D"]
) -> Float[Tensor, "B M"]:
    n_rows, M = indices.shape
    D = rows.shape[1]
    sizes = tile("decode", architecture(rows), D=D, F=len(weights), K=M)
    out = rows.new_empty(n_rows, M)
    launch(
        _gathered_dots_kernel,
        (n_rows,),
        indices_ptr=indices.contiguous(),
        rows_ptr=rows.contiguous(),
        weights_ptr=weights.contiguous(),
        out_ptr=out,
        D=D,
        M=M,
        BLOCK_D=sizes["BLOCK_D"],
        ROWS=sizes["ROWS"],
        num_warps=sizes["num_warps"],
    )
    return out


def gathered_dots(
    indices: Int[Tensor, "B M"],
    rows: Float[Tensor, "B D"],
    weights: Float[Tensor, "F D"],
    used: UsedSlots | None = None,
) -> Float[Tensor, "B M"]:
    """rows[b] . weights[indices[b, m]] for every slot.

    With `used` the products of other slots are of no interest: they may be 0.
    """
    n_rows, n_slots = indices.shape
    per_row = slots_per_row(used, n_rows, n_slots)
    backend = backend_of(rows)
    plan = sparse_plan(len(weights), per_row, backend)
    if plan.path == "dense":
        product = Affine(weights, None, n_rows)
        rows_at_once = pre_activation_rows(len(weights), product.plan, backend)
        blocks = [
            product(rows[block]).gather(-1, indices[block])
            for block in row_blocks(n_rows, rows_at_once)
        ]
        if len(blocks) == 1:
            return blocks[0]
        return torch.cat(blocks) if blocks else rows.new_zeros(n_rows, n_slots)
    if plan.path == "triton":
        return _launch_gathered_dots(indices, rows, weights)
    latents = indices.flatten()
    if used is None:
        bags = torch.arange(n_rows, device=rows.device)
        bag_of_slot = bags.repeat_interleave(n_slots)
        return _dots(latents, bag_of_slot, bags * n_slots, rows, weights).view(n_rows, n_slots)
    bag_of_slot = used.slots.div(n_slots, rounding_mode="floor")
    out = rows.new_zeros(n_rows * n_slots)
    out[used.slots] = _dots(latents[used.slots], bag_of_slot, used.offsets, rows, weights)
    return out.view(n_rows, n_slots)


def _dots(
    latents: Int[Tensor, "N"],
    bag_of_slot: Int[Tensor, "N"],
    offsets: Int[Tensor, "B"],
    rows: Float[Tensor, "B D"],
    weights: Float[Tensor, "F D"],
) -> Float[Tensor, "N"]:
    # The gradient of embedding_bag's sample weights is just this product; it is the one gathered
    # dot product in PyTorch that builds no [B, M, D] tensor.
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(
        rows.contiguous(), weights, latents, offsets, bag_of_slot, 0
    )
