"""Sparse products of the backward pass: weight gradients and gathered dot products.

With slots (b, m) that hold latent f = indices[b, m]:
    weight_gradient: out[f]    = sum over f's slots of coefficients[b, m] * rows[b]
    gathered_dots:   out[b, m] = rows[b] . weights[indices[b, m]]
No [B, F] tensor is built. Sorting the slots by latent turns the first into segment sums, each
latent's row written once and in a fixed order, so the result is deterministic. Above a share of
active latents dense products in blocks of rows are faster; `prefers_dense` decides. Where rows use
few of their slots, a CPU takes those alone: its cost follows the mean row, not the widest.

Triton: one pass over the sorted slots gives an encoder's weight and bias gradient, or those and the
decoder's too. A latent with more than CHUNK slots is split among programs that write partial sums,
which a second kernel adds in a fixed order, so that one dense latent does not hold up the pass.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .accelerators.onednn import Affine, add_product_, onednn_is_faster
from .dispatch import Pointer, Scalar, architecture, constexpr, jit, launch, tl, uses_triton
from .numerics import at_least_float32, ceil_div
from .tiles import tile

# On a CPU the sparse products touch M rows of D floats where dense ones do F columns of fused
# multiply-adds; dense wins where fewer than this many latents stand for each slot: between 4 and
# 6.5, depending on the width, by benchmarks/bench_sparse_products.py; 7 where oneDNN is faster.
_DENSE_BELOW_LATENTS_PER_SLOT = 5
_DENSE_BELOW_LATENTS_PER_SLOT_IN_ONEDNN = 7
# On a GPU gathers are bound by memory and dense products by tensor cores; computed from an H100's
# 800 TFLOP/s and 3 TB/s, with the rows in its L2 cache, not measured.
_DENSE_BELOW_LATENTS_PER_SLOT_ON_GPU = 145
_DENSE_ROWS_AT_ONCE = 512
_RAGGED_BELOW = 0.9  # share of used slots below which listing them costs less than it saves


@jit
def _segments_kernel(
    slots_ptr: Pointer,  # [N] slots sorted by latent
    offsets_ptr: Pointer,  # [F + 1] each latent's segment of them
    latents_ptr: Pointer,  # [I] latent of each item
    items_ptr: Pointer,  # [F + 1] first item of each latent
    splits_ptr: Pointer,  # [F + 1] first partial sum of each latent
    rows_ptr: Pointer,  # [B, D]
    coefficients_ptr: Pointer,  # [B, M]
    out_ptr: Pointer,  # [F, D] (out)
    partial_ptr: Pointer,  # [P, D] (out)
    sums_ptr: Pointer,  # [F] (out) sums of the coefficients
    partial_sums_ptr: Pointer,  # [P] (out)
    rows2_ptr: Pointer,  # [B, D], if PAIRED
    coefficients2_ptr: Pointer,  # [B, M], if PAIRED
    out2_ptr: Pointer,  # [F, D] (out), if PAIRED
    partial2_ptr: Pointer,  # [P, D] (out), if PAIRED
    F: Scalar,
    D: Scalar,
    M: Scalar,
    PAIRED: constexpr,
    BLOCK_D: constexpr,
    SLOTS: constexpr,
    CHUNK: constexpr,
) -> None:
    item = tl.program_id(0)
    if item < tl.load(items_ptr + F):
        latent = tl.load(latents_ptr + item).to(tl.int64)
        first_item = tl.load(items_ptr + latent)
        n_items = tl.load(items_ptr + latent + 1) - first_item
        part = item - first_item
        start = tl.load(offsets_ptr + latent) + part * CHUNK
        stop = tl.minimum(start + CHUNK, tl.load(offsets_ptr + latent + 1))
        columns = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
        in_row = columns < D
        total = tl.zeros([BLOCK_D], tl.float32)
        total2 = tl.zeros([BLOCK_D], tl.float32)
        coefficient_sum = tl.sum(total, 0)
        for position in range(start, stop, SLOTS):
            positions = position + tl.arange(0, SLOTS)
            inside = positions < stop
            slots = tl.load(slots_ptr + positions, mask=inside, other=0).to(tl.int64)
            offsets = (slots // M)[:, None] * D + columns[None, :]
            mask = inside[:, None] & in_row[None, :]
            weights = tl.load(coefficients_ptr + slots, mask=inside, other=0.0).to(tl.float32)
            rows = tl.load(rows_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
            total += tl.sum(rows * weights[:, None], 0)
            coefficient_sum += tl.sum(weights, 0)
            if PAIRED:
                weights = tl.load(coefficients2_ptr + slots, mask=inside, other=0.0).to(tl.float32)
                rows = tl.load(rows2_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
                total2 += tl.sum(rows * weights[:, None], 0)
        split = n_items > 1
        target = tl.where(split, tl.load(splits_ptr + latent) + part, latent).to(tl.int64)
        whole_row = columns < tl.where(split, 0, D)
        part_row = columns < tl.where(split, D, 0)
        at = target * D + columns
        tl.store(out_ptr + at, total.to(out_ptr.dtype.element_ty), mask=whole_row)
        tl.store(partial_ptr + at, total, mask=part_row)
        if PAIRED:
            tl.store(out2_ptr + at, total2.to(out2_ptr.dtype.element_ty), mask=whole_row)
            tl.store(partial2_ptr + at, total2, mask=part_row)
        if tl.program_id(1) == 0:
            if split:
                tl.store(partial_sums_ptr + target, coefficient_sum)
            else:
                tl.store(sums_ptr + target, coefficient_sum.to(sums_ptr.dtype.element_ty))


@jit
def _partial_sums_kernel(
    items_ptr: Pointer,  # [F + 1]
    splits_ptr: Pointer,  # [F + 1]
    out_ptr: Pointer,  # [F, D] (out) rows of split latents
    partial_ptr: Pointer,  # [P, D]
    sums_ptr: Pointer,  # [F] (out)
    partial_sums_ptr: Pointer,  # [P]
    out2_ptr: Pointer,  # [F, D] (out), if PAIRED
    partial2_ptr: Pointer,  # [P, D], if PAIRED
    D: Scalar,
    PAIRED: constexpr,
    BLOCK_D: constexpr,
) -> None:
    latent = tl.program_id(0).to(tl.int64)
    n_items = tl.load(items_ptr + latent + 1) - tl.load(items_ptr + latent)
    if n_items > 1:
        columns = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
        in_row = columns < D
        total = tl.zeros([BLOCK_D], tl.float32)
        total2 = tl.zeros([BLOCK_D], tl.float32)
        coefficient_sum = tl.sum(total, 0)
        first = tl.load(splits_ptr + latent).to(tl.int64)
        for part in range(0, n_items):
            at = (first + part) * D + columns
            total += tl.load(partial_ptr + at, mask=in_row, other=0.0)
            coefficient_sum += tl.load(partial_sums_ptr + first + part)
            if PAIRED:
                total2 += tl.load(partial2_ptr + at, mask=in_row, other=0.0)
        at = latent * D + columns
        tl.store(out_ptr + at, total.to(out_ptr.dtype.element_ty), mask=in_row)
        if PAIRED:
            tl.store(out2_ptr + at, total2.to(out2_ptr.dtype.element_ty), mask=in_row)
        if tl.program_id(1) == 0:
            tl.store(sums_ptr + latent, coefficient_sum.to(sums_ptr.dtype.element_ty))


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


class _Segments(NamedTuple):
    """Slots sorted by latent, cut into items of at most `chunk` slots of one latent."""

    slots: Int[Tensor, "N"]
    offsets: Int[Tensor, "F_plus_1"]
    latents: Int[Tensor, "I"]
    items: Int[Tensor, "F_plus_1"]
    splits: Int[Tensor, "F_plus_1"]
    n_partial: int


def _segments(indices: Tensor, used: Tensor, n_latents: int, chunk: int) -> _Segments:
    # Unused slots, all on latent 0, would make one long segment of nothing: they sort last.
    flat = torch.where(used, indices, n_latents).flatten()
    # A radix sort takes a pass for every byte of the key.
    keys, slots = flat.to(torch.int16 if n_latents < 2**15 else torch.int32).sort(stable=True)
    every = torch.arange(n_latents + 1, dtype=keys.dtype, device=keys.device)
    offsets = torch.searchsorted(keys, every, out_int32=True)
    n_items = offsets.diff().add_(chunk - 1).div_(chunk, rounding_mode="floor")
    splits = n_items.masked_fill(n_items == 1, 0)
    items = torch.nn.functional.pad(n_items.clamp_(min=1).cumsum(0, dtype=torch.int32), (1, 0))
    most_items = n_latents + len(flat) // chunk
    every_item = torch.arange(most_items, dtype=torch.int32, device=keys.device)
    return _Segments(
        slots.to(torch.int32),
        offsets,
        torch.searchsorted(items, every_item, right=True, out_int32=True) - 1,
        items,
        torch.nn.functional.pad(splits.cumsum(0, dtype=torch.int32), (1, 0)),
        max(1, 2 * (len(flat) // chunk)),
    )


def _launch_segment_sums(
    indices: Int[Tensor, "B M"],
    coefficients: Float[Tensor, "B M"],
    rows: Float[Tensor, "B D"],
    n_latents: int,
    second: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Weight gradient, sums of the coefficients, and the weight gradient of a second pair."""
    D = rows.shape[1]
    sizes = tile("backward", architecture(rows), D=D, F=n_latents, K=indices.shape[1])
    coefficients2, rows2 = second or (coefficients, rows)
    used = (coefficients != 0) | (coefficients2 != 0)
    segments = _segments(indices, used, n_latents, sizes["CHUNK"])
    out, sums = rows.new_empty(n_latents, D), coefficients.new_empty(n_latents)
    partial = rows.new_empty(segments.n_partial, D, dtype=torch.float32)
    partial_sums = partial.new_empty(segments.n_partial)
    out2, partial2 = out, partial
    if second is not None:
        out2, partial2 = torch.empty_like(out), torch.empty_like(partial)
    shared: dict[str, Any] = {
        "items_ptr": segments.items,
        "splits_ptr": segments.splits,
        "out_ptr": out,
        "partial_ptr": partial,
        "sums_ptr": sums,
        "partial_sums_ptr": partial_sums,
        "out2_ptr": out2,
        "partial2_ptr": partial2,
        "D": D,
        "PAIRED": second is not None,
        "BLOCK_D": sizes["BLOCK_D"],
        "num_warps": sizes["num_warps"],
    }
    n_blocks = ceil_div(D, sizes["BLOCK_D"])
    launch(
        _segments_kernel,
        (len(segments.latents), n_blocks),
        slots_ptr=segments.slots,
        offsets_ptr=segments.offsets,
        latents_ptr=segments.latents,
        rows_ptr=rows.contiguous(),
        coefficients_ptr=coefficients.contiguous(),
        rows2_ptr=rows2.contiguous(),
        coefficients2_ptr=coefficients2.contiguous(),
        F=n_latents,
        M=indices.shape[1],
        SLOTS=sizes["SLOTS"],
        CHUNK=sizes["CHUNK"],
        **shared,
    )
    launch(_partial_sums_kernel, (n_latents, n_blocks), **shared)
    return out, sums, None if second is None else out2


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


def prefers_dense(n_latents: int, n_slots: int, on_gpu: bool = False) -> bool:
    """Whether dense products in blocks of rows beat sparse ones at this width and slot count."""
    if on_gpu:
        return n_latents < _DENSE_BELOW_LATENTS_PER_SLOT_ON_GPU * n_slots
    if onednn_is_faster():
        return n_latents < _DENSE_BELOW_LATENTS_PER_SLOT_IN_ONEDNN * n_slots
    return n_latents < _DENSE_BELOW_LATENTS_PER_SLOT * n_slots


class Entries(NamedTuple):
    """The used slots of a batch, row by row."""

    slots: Int[Tensor, "N"]
    """Where each is among the B * M."""
    offsets: Int[Tensor, "B"]
    """How many come before each row."""


def used_entries(used_BM: Bool[Tensor, "B M"]) -> Entries | None:
    """The used slots, on a CPU; None where they are nearly all, or elsewhere."""
    if used_BM.device.type != "cpu":
        return None  # listing them would wait for the device
    n_slots = used_BM.numel()
    if int(used_BM.count_nonzero()) >= _RAGGED_BELOW * n_slots:
        return None
    counts_B = used_BM.sum(1)
    return Entries(used_BM.flatten().nonzero()[:, 0], counts_B.cumsum(0) - counts_B)


def slots_per_row(entries: Entries | None, n_rows: int, width: int) -> int:
    """Slots of a row: the width, or where they were listed the mean, rounded up."""
    return width if entries is None else ceil_div(len(entries.slots), max(1, n_rows))


def row_blocks(n_rows: int, at_least: int = 0, size: int | None = None) -> Iterator[slice]:
    """Slices of `size` rows, or of so few that a dense [rows, F] block of them is no burden."""
    size = size or max(_DENSE_ROWS_AT_ONCE, at_least)
    for start in range(0, n_rows, size):
        yield slice(start, min(start + size, n_rows))


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
    on_gpu = uses_triton(rows)
    entries = used_entries(coefficients != 0)
    if prefers_dense(n_latents, slots_per_row(entries, *indices.shape), on_gpu):
        # The running sum of low-precision blocks is kept in float32: rounding it after each block
        # would lose small terms beside large ones.
        wide = at_least_float32(rows.dtype)
        out_FD = rows.new_zeros(n_latents, rows.shape[-1], dtype=wide)
        for block in row_blocks(len(rows)):
            dense_Fb = rows.new_zeros(n_latents, len(rows[block]))
            dense_Fb.scatter_add_(0, indices[block].T, coefficients[block].T)
            add_product_(out_FD, dense_Fb.to(wide), rows[block].to(wide))
        return out_FD.to(rows.dtype)
    if on_gpu:
        return _launch_segment_sums(indices, coefficients, rows, n_latents)[0]
    return _segment_sums(_sorted_slots(indices, n_latents, entries), coefficients, rows)


def encoder_gradients(
    indices: Int[Tensor, "B M"],
    grad_pre: Float[Tensor, "B M"],
    rows: Float[Tensor, "B D"],
    n_latents: int,
) -> tuple[Float[Tensor, "F D"], Float[Tensor, "F"]]:
    """The encoder's weight gradient and bias gradient, in one pass on a GPU."""
    if uses_triton(rows) and not prefers_dense(n_latents, indices.shape[-1], True):
        weight, bias, _ = _launch_segment_sums(indices, grad_pre, rows, n_latents)
        return weight, bias
    weight = weight_gradient(indices, grad_pre, rows, n_latents)
    return weight, latent_sums(indices, grad_pre, n_latents)


def autoencoder_gradients(
    indices: Int[Tensor, "B M"],
    values: Float[Tensor, "B M"],
    grad_values: Float[Tensor, "B M"],
    grad_x_hat: Float[Tensor, "B D"],
    centred: Float[Tensor, "B D"],
    n_latents: int,
) -> tuple[Float[Tensor, "F D"], Float[Tensor, "F D"], Float[Tensor, "F"]]:
    """dW_dec, dW_enc and db_enc, in one pass over the slots on a GPU; a CPU sorts them once.

    Args:
        indices, values: [B, M] the codes.
        grad_values: [B, M] the gradient of the values, 0 in unused slots.
        grad_x_hat: [B, D] the gradient of the reconstruction.
        centred: [B, D] x - b_dec, what the encoder multiplies.
    """
    on_gpu = uses_triton(centred)
    entries = used_entries((values != 0) | (grad_values != 0))
    if prefers_dense(n_latents, slots_per_row(entries, *indices.shape), on_gpu):
        dW_enc = weight_gradient(indices, grad_values, centred, n_latents)
        dW_dec = weight_gradient(indices, values, grad_x_hat, n_latents)
        return dW_dec, dW_enc, latent_sums(indices, grad_values, n_latents)
    if on_gpu:
        second = values, grad_x_hat
        dW_enc, db_enc, dW_dec = _launch_segment_sums(
            indices, grad_values, centred, n_latents, second
        )
        assert dW_dec is not None  # there is one for the second pair
        return dW_dec, dW_enc, db_enc
    slots = _sorted_slots(indices, n_latents, entries)
    dW_dec = _segment_sums(slots, values, grad_x_hat)
    dW_enc = _segment_sums(slots, grad_values, centred)
    return dW_dec, dW_enc, latent_sums(indices, grad_values, n_latents)


class _SortedSlots(NamedTuple):
    """Slots sorted by latent, the row of each, and where each latent's begin."""

    slots: Int[Tensor, "N"]
    rows: Int[Tensor, "N"]
    offsets: Int[Tensor, "F"]


def _sorted_slots(
    indices: Int[Tensor, "B M"], n_latents: int, entries: Entries | None
) -> _SortedSlots:
    if entries is None:
        latents, slots = indices.flatten().sort(stable=True)
    else:
        latents, order = indices.flatten()[entries.slots].sort(stable=True)
        slots = entries.slots[order]
    every_latent = torch.arange(n_latents, device=indices.device)
    offsets = torch.searchsorted(latents, every_latent)
    return _SortedSlots(slots, slots.div(indices.shape[-1], rounding_mode="floor"), offsets)


def _segment_sums(
    slots: _SortedSlots, coefficients: Float[Tensor, "B M"], rows: Float[Tensor, "B D"]
) -> Float[Tensor, "F D"]:
    return torch.nn.functional.embedding_bag(
        slots.rows,
        rows,
        offsets=slots.offsets,
        per_sample_weights=coefficients.flatten()[slots.slots],
        mode="sum",
    )


def gathered_dots(
    indices: Int[Tensor, "B M"],
    rows: Float[Tensor, "B D"],
    weights: Float[Tensor, "F D"],
    entries: Entries | None = None,
) -> Float[Tensor, "B M"]:
    """rows[b] . weights[indices[b, m]] for every slot; with `entries` perhaps only for those, and 0
    for the others."""
    n_rows, n_slots = indices.shape
    on_gpu = uses_triton(rows)
    if prefers_dense(len(weights), slots_per_row(entries, n_rows, n_slots), on_gpu):
        product = Affine(weights, None, n_rows)
        blocks = [
            product(rows[block]).gather(-1, indices[block])
            for block in row_blocks(n_rows, size=product.rows_at_once)
        ]
        return torch.cat(blocks) if blocks else rows.new_zeros(n_rows, n_slots)
    if on_gpu:
        return _launch_gathered_dots(indices, rows, weights)
    latents = indices.flatten()
    if entries is None:
        bags = torch.arange(n_rows, device=rows.device)
        bag_of_slot = bags.repeat_interleave(n_slots)
        return _dots(latents, bag_of_slot, bags * n_slots, rows, weights).view(n_rows, n_slots)
    bag_of_slot = entries.slots.div(n_slots, rounding_mode="floor")
    out = rows.new_zeros(n_rows * n_slots)
    out[entries.slots] = _dots(latents[entries.slots], bag_of_slot, entries.offsets, rows, weights)
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


def latent_sums(
    indices: Int[Tensor, "B M"], coefficients: Float[Tensor, "B M"], n_latents: int
) -> Float[Tensor, "F"]:
    """Sum the coefficients of each latent's slots, in a fixed order and at least in float32."""
    wide = coefficients.flatten().to(at_least_float32(coefficients.dtype))
    out_F = wide.new_zeros(n_latents)
    if wide.is_cuda:  # this one sorts; index_add_ adds there in whatever order threads come
        out_F.index_put_((indices.flatten(),), wide, accumulate=True)
    else:  # and here this one is serial, and index_put_ is not
        out_F.index_add_(0, indices.flatten(), wide)
    return out_F.to(coefficients.dtype)
