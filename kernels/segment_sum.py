"""Segment sums: of every latent, the rows that hold it, weighted by the slots' coefficients.

    out[f] = sum over f's slots (b, m) of coefficients[b, m] * rows[b]
Sorting the slots by latent makes a segment of each latent's slots, so that each output row is
written once and its sum has a fixed order: the result is deterministic.

PyTorch: an `embedding_bag` over the sorted slots. Triton sorts them itself (`segment_build.py`),
and one pass over them gives an encoder's weight and bias gradient, or those and the decoder's too.
The encoder's coefficients, which are dot products of the decoder's rows, may be taken in that pass.
A latent with more than CHUNK slots is split among programs that write partial sums, which a second
kernel adds in a fixed order, so that one dense latent does not hold up the pass.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .dispatch import Pointer, Scalar, architecture, constexpr, jit, launch, tl
from .numerics import ceil_div, next_power_of_2
from .segment_build import count_slots, sort_slots
from .slots import UsedSlots
from .tiles import tile


@jit
def _segments_kernel(
    numbers_ptr: Pointer,  # [N] row of each slot, sorted by latent
    coefficients_ptr: Pointer,  # [N] and its coefficient
    offsets_ptr: Pointer,  # [F + 1] each latent's segment of them
    latents_ptr: Pointer,  # [I] latent of each item
    items_ptr: Pointer,  # [F + 1] first item of each latent
    splits_ptr: Pointer,  # [F + 1] first partial sum of each latent
    rows_ptr: Pointer,  # [B, D]
    out_ptr: Pointer,  # [F, D] (out)
    partial_ptr: Pointer,  # [P, D] (out)
    sums_ptr: Pointer,  # [F] (out) sums of the coefficients
    partial_sums_ptr: Pointer,  # [P] (out)
    squares_ptr: Pointer,  # [F, blocks of columns] (out) sums of squares of what is written
    rows2_ptr: Pointer,  # [B, D], if PAIRED
    coefficients2_ptr: Pointer,  # [N], if PAIRED
    out2_ptr: Pointer,  # [F, D] (out), if PAIRED
    partial2_ptr: Pointer,  # [P, D] (out), if PAIRED
    squares2_ptr: Pointer,  # [F, blocks of columns] (out), if PAIRED
    weights_ptr: Pointer,  # [F, D], if DOTS
    scale_ptr: Pointer,  # [], if DOTS
    F: Scalar,
    D: Scalar,
    PAIRED: constexpr,
    DOTS: constexpr,
    FURTHER: constexpr,
    BLOCK_D: constexpr,
    SLOTS: constexpr,
    CHUNK: constexpr,
    STAGES: constexpr,
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
        own, scale = total, coefficient_sum
        if DOTS:
            own = tl.load(weights_ptr + latent * D + columns, mask=in_row, other=0.0)
            own = own.to(tl.float32)
            scale = tl.load(scale_ptr).to(tl.float32)
        for position in tl.range(start, stop, SLOTS, num_stages=STAGES):
            positions = position + tl.arange(0, SLOTS)
            inside = positions < stop
            numbers = tl.load(numbers_ptr + positions, mask=inside, other=0).to(tl.int64)
            offsets = numbers[:, None] * D + columns[None, :]
            mask = inside[:, None] & in_row[None, :]
            weights = tl.load(coefficients_ptr + positions, mask=inside, other=0.0).to(tl.float32)
            rows = tl.load(rows_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
            if PAIRED:
                weights2 = tl.load(coefficients2_ptr + positions, mask=inside, other=0.0)
                weights2 = weights2.to(tl.float32)
                rows2 = tl.load(rows2_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
                if DOTS:
                    dots = scale * tl.sum(rows2 * own[None, :], 1)
                    if FURTHER:
                        dots += weights
                    weights = tl.where(weights2 <= 0, 0.0, dots)
                    weights2 *= scale
                total2 += tl.sum(rows2 * weights2[:, None], 0)
            total += tl.sum(rows * weights[:, None], 0)
            coefficient_sum += tl.sum(weights, 0)
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
        if not split:
            block = latent * tl.num_programs(1) + tl.program_id(1)
            tl.store(squares_ptr + block, tl.sum(total * total, 0))
            if PAIRED:
                tl.store(squares2_ptr + block, tl.sum(total2 * total2, 0))
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
    squares_ptr: Pointer,  # [F, blocks of columns] (out)
    out2_ptr: Pointer,  # [F, D] (out), if PAIRED
    partial2_ptr: Pointer,  # [P, D], if PAIRED
    squares2_ptr: Pointer,  # [F, blocks of columns] (out), if PAIRED
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
        block = latent * tl.num_programs(1) + tl.program_id(1)
        tl.store(squares_ptr + block, tl.sum(total * total, 0))
        if PAIRED:
            tl.store(squares2_ptr + block, tl.sum(total2 * total2, 0))
        if tl.program_id(1) == 0:
            tl.store(sums_ptr + latent, coefficient_sum.to(sums_ptr.dtype.element_ty))


class SegmentSums(NamedTuple):
    """What `launch_segment_sums` returns; without a second pair the first stands for it."""

    out: Float[Tensor, "F D"]
    sums: Float[Tensor, "F"]
    """Of the coefficients."""
    out2: Float[Tensor, "F D"]
    squares: Float[Tensor, "F C"]
    """Parts of the sum of out's squares."""
    squares2: Float[Tensor, "F C"]
    """Parts of the sum of out2's."""


class Dots(NamedTuple):
    """What takes coefficients in place of given ones: where the second ones are positive
    scale * (second row . weights[latent]), plus `further`, and 0 elsewhere."""

    weights: Float[Tensor, "F D"]
    scale: Float[Tensor, ""]
    further: Float[Tensor, "B M"] | None


def launch_segment_sums(
    indices: Int[Tensor, "B M"],
    coefficients: Float[Tensor, "B M"] | Dots,
    rows: Float[Tensor, "B D"],
    n_latents: int,
    second: tuple[Tensor, Tensor] | None = None,
) -> SegmentSums:
    """Segment sums in Triton, the sums of the coefficients, and the segment sums of a second pair.

    All are float32, as they were summed.

    Args:
        indices, coefficients, rows, n_latents: as for `segment_sums` and `sorted_slots`. `Dots`
            need a second pair, whose coefficients their scale multiplies, too; a slot is used where
            these are not 0.
        second: further coefficients [B, M] and rows [B, D] of the same slots.

    Raises:
        ValueError: there are 2^31 slots or more, which the kernels cannot number.
    """
    if indices.numel() >= 2**31:
        raise ValueError(
            f"a batch of {len(indices)} rows with {indices.shape[1]} slots each has 2^31 slots or "
            "more; make it smaller"
        )
    D = rows.shape[1]
    sizes = tile("backward", architecture(rows), D=D, F=n_latents, K=indices.shape[1])
    dots = coefficients if isinstance(coefficients, Dots) else None
    if isinstance(coefficients, Dots):
        assert second is not None
        # One program holds a whole row, whatever tile is asked for.
        sizes["BLOCK_D"] = max(sizes["BLOCK_D"], next_power_of_2(D))
        coefficients = second[0] if coefficients.further is None else coefficients.further
    coefficients2, rows2 = second or (coefficients, rows)
    slots = (indices.contiguous(), coefficients.contiguous(), coefficients2.contiguous())
    deciding = slots[2] if dots else slots[1]
    counts, arrivals = count_slots(slots[0], deciding, slots[2], n_latents)
    segments = sort_slots(*slots, counts, arrivals, sizes["CHUNK"])
    out = rows.new_empty(n_latents, D, dtype=torch.float32)
    sums = out.new_empty(n_latents)
    partial = out.new_empty(segments.n_partial, D)
    partial_sums = partial.new_empty(segments.n_partial)
    n_blocks = ceil_div(D, sizes["BLOCK_D"])
    squares = out.new_empty(n_latents, n_blocks)
    out2, partial2, squares2 = out, partial, squares
    if second is not None:
        out2, partial2, squares2 = map(torch.empty_like, (out, partial, squares))
    shared: dict[str, Any] = {
        "items_ptr": segments.items,
        "splits_ptr": segments.splits,
        "out_ptr": out,
        "partial_ptr": partial,
        "sums_ptr": sums,
        "partial_sums_ptr": partial_sums,
        "squares_ptr": squares,
        "out2_ptr": out2,
        "partial2_ptr": partial2,
        "squares2_ptr": squares2,
        "D": D,
        "PAIRED": second is not None,
        "BLOCK_D": sizes["BLOCK_D"],
        "num_warps": sizes["num_warps"],
    }
    launch(
        _segments_kernel,
        (len(segments.latents), n_blocks),
        numbers_ptr=segments.rows,
        coefficients_ptr=segments.coefficients,
        offsets_ptr=segments.offsets,
        latents_ptr=segments.latents,
        rows_ptr=rows.contiguous(),
        rows2_ptr=rows2.contiguous(),
        coefficients2_ptr=segments.coefficients2,
        weights_ptr=rows if dots is None else dots.weights.contiguous(),
        scale_ptr=rows if dots is None else dots.scale,
        F=n_latents,
        DOTS=dots is not None,
        FURTHER=dots is not None and dots.further is not None,
        SLOTS=sizes["SLOTS"],
        CHUNK=sizes["CHUNK"],
        STAGES=sizes["STAGES"],
        **shared,
    )
    launch(_partial_sums_kernel, (n_latents, n_blocks), **shared)
    return SegmentSums(out, sums, out2, squares, squares2)


class SortedSlots(NamedTuple):
    """Slots sorted by latent, the row of each, and where each latent's begin."""

    slots: Int[Tensor, "N"]
    rows: Int[Tensor, "N"]
    offsets: Int[Tensor, "F"]


def sorted_slots(
    indices: Int[Tensor, "B M"], n_latents: int, used: UsedSlots | None
) -> SortedSlots:
    """The slots, or the used ones alone, sorted by latent; of equal latents the first row first."""
    if used is None:
        latents, slots = indices.flatten().sort(stable=True)
    else:
        latents, order = indices.flatten()[used.slots].sort(stable=True)
        slots = used.slots[order]
    every_latent = torch.arange(n_latents, device=indices.device)
    offsets = torch.searchsorted(latents, every_latent)
    return SortedSlots(slots, slots.div(indices.shape[-1], rounding_mode="floor"), offsets)


def segment_sums(
    slots: SortedSlots, coefficients: Float[Tensor, "B M"], rows: Float[Tensor, "B D"]
) -> Float[Tensor, "F D"]:
    """out[f] = sum over latent f's slots of coefficients[b, m] * rows[b], in PyTorch."""
    return torch.nn.functional.embedding_bag(
        slots.rows,
        rows,
        offsets=slots.offsets,
        per_sample_weights=coefficients.flatten()[slots.slots],
        mode="sum",
    )
