"""Sparse products of the backward pass: weight gradients and gathered dot products.

With slots (b, m) that hold latent f = indices[b, m]:
    weight_gradient: out[f]    = sum over f's slots of coefficients[b, m] * rows[b]
    gathered_dots:   out[b, m] = rows[b] . weights[indices[b, m]]
No [B, F] tensor is built. Sorting the slots by latent turns the first into segment sums, each
latent's row written once and in a fixed order, so the result is deterministic. Above a measured
share of active latents dense products in blocks of rows are faster; `prefers_dense` decides.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

# On a CPU the sparse products touch M rows of D floats where dense ones do F columns of fused
# multiply-adds; dense wins where fewer than this many latents stand for each slot. Measured by
# benchmarks/bench_sparse_products.py.
_DENSE_BELOW_LATENTS_PER_SLOT = 5
_DENSE_ROWS_AT_ONCE = 512


def prefers_dense(n_latents: int, n_slots: int) -> bool:
    """Whether dense products in blocks of rows beat sparse ones at this width and slot count."""
    return n_latents < _DENSE_BELOW_LATENTS_PER_SLOT * n_slots


def row_blocks(n_rows: int) -> Iterator[slice]:
    """Slices of rows small enough that a dense [rows, F] block of them is no burden."""
    for start in range(0, n_rows, _DENSE_ROWS_AT_ONCE):
        yield slice(start, min(start + _DENSE_ROWS_AT_ONCE, n_rows))


def dense_block(
    indices_BM: Int[Tensor, "B M"], values_BM: Float[Tensor, "B M"], n_latents: int
) -> Float[Tensor, "B F"]:
    """The slots of a block of rows as a dense [B, F] tensor."""
    dense_BF = values_BM.new_zeros(len(values_BM), n_latents)
    return dense_BF.scatter_add_(-1, indices_BM, values_BM)


def weight_gradient(
    indices: Int[Tensor, "B M"],
    coefficients: Float[Tensor, "B M"],
    rows: Float[Tensor, "B D"],
    n_latents: int,
) -> Float[Tensor, "F D"]:
    """Sum coefficients[b, m] * rows[b] into row indices[b, m] of a [F, D] gradient.

    Deterministic: each output row sums its slots in the order of b.
    """
    if prefers_dense(n_latents, indices.shape[-1]):
        out_FD = rows.new_zeros(n_latents, rows.shape[-1])
        for block in row_blocks(len(rows)):
            dense_BF = dense_block(indices[block], coefficients[block], n_latents)
            out_FD.addmm_(dense_BF.T, rows[block])
        return out_FD
    return _segment_sums(indices, coefficients, rows, n_latents)


def _segment_sums(
    indices: Int[Tensor, "B M"],
    coefficients: Float[Tensor, "B M"],
    rows: Float[Tensor, "B D"],
    n_latents: int,
) -> Float[Tensor, "F D"]:
    n_slots = indices.shape[-1]
    flat = indices.flatten()
    latents, slots = flat.sort(stable=True)
    every_latent = torch.arange(n_latents, device=flat.device)
    return torch.nn.functional.embedding_bag(
        slots.div(n_slots, rounding_mode="floor"),
        rows,
        offsets=torch.searchsorted(latents, every_latent),
        per_sample_weights=coefficients.flatten()[slots],
        mode="sum",
    )


def gathered_dots(
    indices: Int[Tensor, "B M"], rows: Float[Tensor, "B D"], weights: Float[Tensor, "F D"]
) -> Float[Tensor, "B M"]:
    """rows[b] . weights[indices[b, m]] for every slot."""
    n_rows, n_slots = indices.shape
    if prefers_dense(len(weights), n_slots):
        blocks = [
            (rows[block] @ weights.T).gather(-1, indices[block]) for block in row_blocks(n_rows)
        ]
        return torch.cat(blocks) if blocks else rows.new_zeros(n_rows, n_slots)
    bag_of_slot = torch.arange(n_rows, device=rows.device).repeat_interleave(n_slots)
    # The gradient of embedding_bag's sample weights is just this product; it is the one gathered
    # dot product in PyTorch that builds no [B, M, D] tensor.
    dots = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        rows.contiguous(),
        weights,
        indices.flatten(),
        torch.arange(0, n_rows * n_slots, n_slots, device=rows.device),
        bag_of_slot,
        0,
    )
    return dots.view(n_rows, n_slots)


def latent_sums(
    indices: Int[Tensor, "B M"], coefficients: Float[Tensor, "B M"], n_latents: int
) -> Float[Tensor, "F"]:
    """Sum the coefficients of each latent's slots."""
    out_F = coefficients.new_zeros(n_latents)
    return out_F.index_add_(0, indices.flatten(), coefficients.flatten())
