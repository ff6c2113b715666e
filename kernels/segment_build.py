"""Slots sorted by latent on a GPU, in four small kernels: a segment for every latent.

`count` numbers each latent's slots as they come, `scan` sums the counts to where every segment
begins, `place` puts the slots there, and `order` ranks those of a segment, for they came in any
order. The result is that of a stable sort, whatever the order: it repeats bit for bit. Only
integers are added atomically.

A segment is cut into items of at most `chunk` slots, which one program sums. Where a segment has
several, each of them bisects the slots' numbers for the two between which its own lie, and ranks
those alone: n slots take some 2 n log2(n) comparisons for each item, not n for each slot.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .dispatch import Block, Pointer, Scalar, constexpr, jit, launch, tl
from .numerics import ceil_div

_SLOTS_AT_ONCE = 1024
_LATENTS_AT_ONCE = 2048
_RANKED_AT_ONCE = 32
_SEARCHED_AT_ONCE = 1024


class Segments(NamedTuple):
    """Used slots sorted by latent and row, cut into items of at most `chunk` slots of a latent."""

    rows: Int[Tensor, "N"]
    """The row of each slot, those of latent 0 first; beyond `offsets[F]` there are none."""
    coefficients: Float[Tensor, "N"]
    """The coefficient of each slot."""
    coefficients2: Float[Tensor, "N"]
    """Its second one."""
    offsets: Int[Tensor, "F_plus_1"]
    """Where each latent's slots begin."""
    latents: Int[Tensor, "I"]
    """The latent of each item; there are `items[F]`."""
    items: Int[Tensor, "F_plus_1"]
    """The first item of each latent, which has at least one."""
    splits: Int[Tensor, "F_plus_1"]
    """The first partial sum of each latent; only latents with several items have any."""
    n_partial: int
    """An upper bound of the number of partial sums."""


@jit
def _count_kernel(
    indices_ptr: Pointer,  # [N]
    coefficients_ptr: Pointer,  # [N]
    coefficients2_ptr: Pointer,  # [N]
    counts_ptr: Pointer,  # [F] (in and out) zeros first, then used slots of each latent
    arrivals_ptr: Pointer,  # [N] (out) number of each slot among its latent's, -1 if unused
    N: Scalar,
    BLOCK: constexpr,
) -> None:
    slots = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = slots < N
    latents = tl.load(indices_ptr + slots, mask=inside, other=0)
    used = tl.load(coefficients_ptr + slots, mask=inside, other=0.0).to(tl.float32) != 0
    used |= tl.load(coefficients2_ptr + slots, mask=inside, other=0.0).to(tl.float32) != 0
    arrivals = tl.atomic_add(counts_ptr + latents, 1, mask=used, sem="relaxed")
    tl.store(arrivals_ptr + slots, tl.where(used, arrivals, -1), mask=inside)


@jit
def _items_of(counts: Block, CHUNK: constexpr) -> Block:
    """How many items slots so many make: one even of none, so that each latent is written."""
    return tl.maximum((counts + CHUNK - 1) // CHUNK, 1)


@jit
def _scan_kernel(
    counts_ptr: Pointer,  # [F]
    offsets_ptr: Pointer,  # [F + 1] (out)
    items_ptr: Pointer,  # [F + 1] (out)
    splits_ptr: Pointer,  # [F + 1] (out)
    latents_ptr: Pointer,  # [I] (out)
    F: Scalar,
    CHUNK: constexpr,
    BLOCK: constexpr,
) -> None:
    # Every program sums all that comes before its block: a few reads of a small array.
    first = tl.program_id(0) * BLOCK
    slots_before = tl.zeros([BLOCK], tl.int32)
    items_before = tl.zeros([BLOCK], tl.int32)
    splits_before = tl.zeros([BLOCK], tl.int32)
    for start in range(0, first, BLOCK):
        counts = tl.load(counts_ptr + start + tl.arange(0, BLOCK))
        n_items = _items_of(counts, CHUNK=CHUNK)
        slots_before += counts
        items_before += n_items
        splits_before += tl.where(n_items > 1, n_items, 0)
    latents = first + tl.arange(0, BLOCK)
    inside = latents < F
    counts = tl.load(counts_ptr + latents, mask=inside, other=0)
    n_items = tl.where(inside, _items_of(counts, CHUNK=CHUNK), 0)
    n_splits = tl.where(n_items > 1, n_items, 0)
    offsets = tl.sum(slots_before, 0) + tl.cumsum(counts, 0) - counts
    items = tl.sum(items_before, 0) + tl.cumsum(n_items, 0) - n_items
    splits = tl.sum(splits_before, 0) + tl.cumsum(n_splits, 0) - n_splits
    tl.store(offsets_ptr + latents, offsets, mask=latents <= F)
    tl.store(items_ptr + latents, items, mask=latents <= F)
    tl.store(splits_ptr + latents, splits, mask=latents <= F)
    for part in range(0, tl.max(n_items, 0)):
        tl.store(latents_ptr + items + part, latents, mask=part < n_items)


@jit
def _place_kernel(
    indices_ptr: Pointer,  # [N]
    arrivals_ptr: Pointer,  # [N]
    offsets_ptr: Pointer,  # [F + 1]
    placed_ptr: Pointer,  # [N] (out) slots by latent
    N: Scalar,
    BLOCK: constexpr,
) -> None:
    slots = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = slots < N
    arrivals = tl.load(arrivals_ptr + slots, mask=inside, other=-1)
    used = arrivals >= 0
    latents = tl.load(indices_ptr + slots, mask=used, other=0)
    offsets = tl.load(offsets_ptr + latents, mask=used, other=0)
    tl.store(placed_ptr + offsets + arrivals, slots, mask=used)


@jit
def _slots_between(
    placed_ptr: Pointer,  # [N]
    begin: Scalar,
    end: Scalar,  # of a segment
    first: Scalar,
    stop: Scalar,  # ranks in it
    N: Scalar,
    BLOCK: constexpr,
) -> tuple[Scalar, Scalar]:
    """(low, high): the segment's slots of ranks first to stop - 1 are those from low to high - 1.

    Slots are numbers below N, each once, so that `first` of them lie below low, `stop` below high.
    """
    low, low_most = begin * 0, begin * 0 + N
    high, high_most = begin * 0, begin * 0 + N
    while (low < low_most) | (high < high_most):
        middle = low + (low_most - low) // 2
        high_middle = high + (high_most - high) // 2
        below = tl.zeros([BLOCK], tl.int32)
        high_below = tl.zeros([BLOCK], tl.int32)
        for position in range(begin, end, BLOCK):
            positions = position + tl.arange(0, BLOCK)
            slots = tl.load(placed_ptr + positions, mask=positions < end, other=2147483647)
            below += (slots < middle).to(tl.int32)
            high_below += (slots < high_middle).to(tl.int32)
        n_below = tl.sum(below, 0)
        n_high_below = tl.sum(high_below, 0)
        low = tl.where(n_below < first, middle + 1, tl.where(n_below > first, low, middle))
        low_most = tl.where(n_below < first, low_most, middle)
        high = tl.where(
            n_high_below < stop, high_middle + 1, tl.where(n_high_below > stop, high, high_middle)
        )
        high_most = tl.where(n_high_below < stop, high_most, high_middle)
    return low, high


@jit
def _order_kernel(
    placed_ptr: Pointer,  # [N]
    gathered_ptr: Pointer,  # [N] (out) scratch: the slots of each item where a latent has several
    offsets_ptr: Pointer,  # [F + 1]
    latents_ptr: Pointer,  # [I]
    items_ptr: Pointer,  # [F + 1]
    coefficients_ptr: Pointer,  # [N]
    coefficients2_ptr: Pointer,  # [N]
    rows_ptr: Pointer,  # [N] (out) of the slots by latent and row
    sorted_ptr: Pointer,  # [N] (out) their coefficients
    sorted2_ptr: Pointer,  # [N] (out) and second coefficients
    N: Scalar,
    F: Scalar,
    M: Scalar,
    CHUNK: constexpr,
    BLOCK: constexpr,
    SEARCHED: constexpr,
) -> None:
    item = tl.program_id(0)
    if item < tl.load(items_ptr + F):
        latent = tl.load(latents_ptr + item)
        begin = tl.load(offsets_ptr + latent)
        end = tl.load(offsets_ptr + latent + 1)
        start = begin + (item - tl.load(items_ptr + latent)) * CHUNK
        stop = tl.minimum(start + CHUNK, end)
        own_ptr = placed_ptr
        if end - begin > CHUNK:
            own_ptr = gathered_ptr
            low, high = _slots_between(
                placed_ptr, begin, end, start - begin, stop - begin, N, SEARCHED
            )
            filled = start
            for position in range(begin, end, SEARCHED):
                positions = position + tl.arange(0, SEARCHED)
                slots = tl.load(placed_ptr + positions, mask=positions < end, other=-1)
                own = (slots >= low) & (slots < high)
                targets = filled + tl.cumsum(own.to(tl.int32), 0) - 1
                tl.store(gathered_ptr + targets, slots, mask=own)
                filled += tl.sum(own.to(tl.int32), 0)
            tl.debug_barrier()  # other threads of the program read what these have written
        for position in range(start, stop, BLOCK):
            positions = position + tl.arange(0, BLOCK)
            inside = positions < stop
            slots = tl.load(own_ptr + positions, mask=inside, other=0)
            ranks = tl.zeros([BLOCK], tl.int32)
            for other in range(start, stop, BLOCK):
                others = other + tl.arange(0, BLOCK)
                before = tl.load(own_ptr + others, mask=others < stop, other=2147483647)
                ranks += tl.sum((before[None, :] < slots[:, None]).to(tl.int32), 1)
            at = start + ranks
            tl.store(rows_ptr + at, slots // M, mask=inside)
            tl.store(sorted_ptr + at, tl.load(coefficients_ptr + slots, mask=inside), mask=inside)
            tl.store(sorted2_ptr + at, tl.load(coefficients2_ptr + slots, mask=inside), mask=inside)


def count_slots(
    indices: Int[Tensor, "B M"],
    coefficients: Float[Tensor, "B M"],
    coefficients2: Float[Tensor, "B M"],
    n_latents: int,
) -> tuple[Int[Tensor, "F"], Int[Tensor, "N"]]:
    """Slots of each latent with a coefficient that is not 0, and each one's number among them in
    any order, -1 of other slots. All tensors are contiguous."""
    counts = torch.zeros(n_latents, dtype=torch.int32, device=indices.device)
    arrivals = indices.new_empty(indices.numel(), dtype=torch.int32)
    launch(
        _count_kernel,
        (ceil_div(indices.numel(), _SLOTS_AT_ONCE),),
        indices_ptr=indices,
        coefficients_ptr=coefficients,
        coefficients2_ptr=coefficients2,
        counts_ptr=counts,
        arrivals_ptr=arrivals,
        N=indices.numel(),
        BLOCK=_SLOTS_AT_ONCE,
        num_warps=4,
    )
    return counts, arrivals


def sort_slots(
    indices: Int[Tensor, "B M"],
    coefficients: Float[Tensor, "B M"],
    coefficients2: Float[Tensor, "B M"],
    counts: Int[Tensor, "F"],
    arrivals: Int[Tensor, "N"],
    chunk: int,
) -> Segments:
    """The slots by latent and row, from what `count_slots` gives; the arrivals are overwritten."""
    n_latents, n_slots = len(counts), indices.numel()
    offsets, items, splits = (counts.new_empty(n_latents + 1) for _ in range(3))
    latents = counts.new_empty(n_latents + n_slots // chunk)
    placed, rows = arrivals.new_empty(n_slots), arrivals.new_empty(n_slots)
    ordered, ordered2 = coefficients.new_empty(n_slots), coefficients2.new_empty(n_slots)
    launch(
        _scan_kernel,
        (ceil_div(n_latents + 1, _LATENTS_AT_ONCE),),
        counts_ptr=counts,
        offsets_ptr=offsets,
        items_ptr=items,
        splits_ptr=splits,
        latents_ptr=latents,
        F=n_latents,
        CHUNK=chunk,
        BLOCK=_LATENTS_AT_ONCE,
        num_warps=8,
    )
    launch(
        _place_kernel,
        (ceil_div(n_slots, _SLOTS_AT_ONCE),),
        indices_ptr=indices,
        arrivals_ptr=arrivals,
        offsets_ptr=offsets,
        placed_ptr=placed,
        N=n_slots,
        BLOCK=_SLOTS_AT_ONCE,
        num_warps=4,
    )
    launch(
        _order_kernel,
        (len(latents),),
        placed_ptr=placed,
        gathered_ptr=arrivals,
        offsets_ptr=offsets,
        latents_ptr=latents,
        items_ptr=items,
        coefficients_ptr=coefficients,
        coefficients2_ptr=coefficients2,
        rows_ptr=rows,
        sorted_ptr=ordered,
        sorted2_ptr=ordered2,
        N=n_slots,
        F=n_latents,
        M=indices.shape[1],
        CHUNK=chunk,
        BLOCK=_RANKED_AT_ONCE,
        SEARCHED=_SEARCHED_AT_ONCE,
        num_warps=4,
    )
    n_partial = max(1, 2 * (n_slots // chunk))
    return Segments(rows, ordered, ordered2, offsets, latents, items, splits, n_partial)
