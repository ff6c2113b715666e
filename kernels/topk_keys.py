"""What the Triton selections share: sortable keys, a search for the k-th, the writing of codes.

No row is sorted. The bits of relu(value) as an integer are in the order of the values, so the k-th
largest is found by bisecting integers. For a row too long for registers, the maxima of groups of
neighboring columns come first: the k-th largest maximum is a lower bound of the k-th largest
entry, so only groups whose maximum reaches it (k, and ties) hold anything of interest.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .dispatch import Block, Pointer, Scalar, architecture, constexpr, jit, launch, tl
from .numerics import ceil_div, next_power_of_2, row_blocks
from .tiles import tile
from .unused_slots import zero_unused

# Rows are taken in blocks whose maxima and lists stay below 64 MB each.
_MOST_GROUPS_AT_ONCE = 1 << 24
_MOST_GROUPS_IN_REGISTERS = 16384


def require_k(k: int, n_latents: int) -> None:
    """Raise a ValueError that names k unless it lies between 1 and the number of latents."""
    if not 1 <= k <= n_latents:
        raise ValueError(f"k is {k}, but must lie between 1 and the {n_latents} latents")


def key_shift(dtype: torch.dtype) -> int:
    """Trailing bits that are zero in a float32 that came from this dtype."""
    return {torch.bfloat16: 16, torch.float16: 13}.get(dtype, 0)


@jit
def relu_bits(values: Block) -> Block:
    """The bits of relu(values), float32, as int32 that are in their order but for the sign of NaN.

    One instruction: the maximum that keeps NaN. The sign bit is set in none but a NaN.
    """
    values = tl.maximum(values, 0.0, propagate_nan=tl.PropagateNan.ALL)
    return values.to(tl.int32, bitcast=True)


@jit
def sortable_key(values: Block, SHIFT: constexpr) -> Block:
    """int32 keys in the order of relu(values) in float32; every NaN is equal, above infinity."""
    bits = relu_bits(values.to(tl.float32)) & 0x7FFFFFFF
    return tl.minimum(bits, 0x7FC00000) >> SHIFT


@jit
def row_keys(
    pre_ptr: Pointer,  # [F] one row
    norms_ptr: Pointer,  # [F] factors of the keys, read if SCALED
    columns: Block,
    inside: Block,  # which of the columns are read
    SCALED: constexpr,
    SHIFT: constexpr,
) -> Block:
    """Keys of some columns of a row, 0 outside."""
    values = tl.load(pre_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    if SCALED:
        values *= tl.load(norms_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    return sortable_key(values, SHIFT)


@jit
def kth_between(keys: Block, k: Scalar, low: Scalar, high: Scalar) -> tuple[Scalar, Scalar]:
    """`kth_largest` of keys whose largest is high and whose k-th largest is low or more."""
    above = low * 0
    while low < high:
        middle = high - (high - low) // 2
        count = tl.sum((keys >= middle).to(tl.int32), 0)
        if count > k:
            low = middle
        else:
            high = middle - 1
            above = count
            if count == k:
                low = high
    return low, tl.where(low > 0, k - above, 0)


@jit
def kth_largest(keys: Block, k: Scalar) -> tuple[Scalar, Scalar]:
    """(threshold, ties): the k largest keys are those above it and `ties` of those equal to it.

    Keys are at least 0; zeros are never counted, so with fewer than k positive keys all of them
    lie above a threshold of 0.
    """
    return kth_between(keys, k, tl.min(keys, 0) * 0, tl.max(keys, 0))


@jit
def column_at(
    positions: Block,
    groups_ptr: Pointer,  # [G] groups of one row, read if LISTED
    inside: Block,  # which of the positions are read
    LISTED: constexpr,
    GROUP: constexpr,
) -> Block:
    """The column at each position: of the whole row, or of the listed groups one after another."""
    if LISTED:
        group = tl.load(groups_ptr + positions // GROUP, mask=inside, other=0)
        columns = group * GROUP + positions % GROUP
    else:
        columns = positions
    return columns


@jit
def emit_keys(
    keys: Block,
    columns: Block,  # ascending
    inside: Block,  # which of them there are; keys are 0 elsewhere
    pre_ptr: Pointer,  # [F] one row
    indices_ptr: Pointer,  # [M] (out)
    values_ptr: Pointer,  # [M] (out)
    M: Scalar,
    threshold: Scalar,
    ties: Scalar,
    above_before: Scalar,  # keys above the threshold in the blocks before
    equal_before: Scalar,  # and equal to it
) -> tuple[Scalar, Scalar]:
    """Write the columns of a block of at most 2^15 keys; the two counts with this block's."""
    above = keys > threshold
    equal = (keys == threshold) & inside
    both = above.to(tl.int32) + (equal.to(tl.int32) << 16)  # two counts in one scan
    before = tl.cumsum(both, 0) - both
    rank = equal_before + (before >> 16)
    slots = above_before + (before & 0xFFFF) + tl.minimum(rank, ties)
    kept = (above | (equal & (rank < ties))) & (slots < M)
    tl.store(indices_ptr + slots, columns.to(tl.int64), mask=kept)
    tl.store(values_ptr + slots, tl.load(pre_ptr + columns, mask=kept, other=0.0), mask=kept)
    total = tl.sum(both, 0)
    return above_before + (total & 0xFFFF), equal_before + (total >> 16)


@jit
def emit_row(
    pre_ptr: Pointer,  # [F] one row
    norms_ptr: Pointer,  # [F], read if SCALED
    groups_ptr: Pointer,  # [G] ascending groups, read if LISTED
    n_positions: Scalar,  # columns to look at
    indices_ptr: Pointer,  # [M] (out)
    values_ptr: Pointer,  # [M] (out)
    F: Scalar,
    M: Scalar,
    threshold: Scalar,
    ties: Scalar,
    SCALED: constexpr,
    LISTED: constexpr,
    SHIFT: constexpr,
    GROUP: constexpr,
    EMIT: constexpr,
) -> Scalar:
    """Write the columns above the threshold and the first `ties` equal to it; zero unused slots.

    Gives how many such columns there are, of which M at most were written.
    """
    above = threshold * 0
    equal = threshold * 0
    for start in range(0, n_positions, EMIT):
        positions = start + tl.arange(0, EMIT)
        inside = positions < n_positions
        columns = column_at(positions, groups_ptr, inside, LISTED, GROUP)
        inside = inside & (columns < F)
        keys = row_keys(pre_ptr, norms_ptr, columns, inside, SCALED, SHIFT)
        above, equal = emit_keys(
            keys,
            columns,
            inside,
            pre_ptr,
            indices_ptr,
            values_ptr,
            M,
            threshold,
            ties,
            above,
            equal,
        )
    used = above + tl.minimum(equal, ties)
    zero_unused(indices_ptr, values_ptr, used, M, EMIT)
    return used


@jit
def emit_whole_row(
    pre_ptr: Pointer,  # [F] one row
    indices_ptr: Pointer,  # [K] (out)
    values_ptr: Pointer,  # [K] (out)
    F: Scalar,
    K: Scalar,
    threshold: Scalar,
    ties: Scalar,
    SHIFT: constexpr,
    EMIT: constexpr,
) -> None:
    """`emit_row` for all columns of a row whose keys are its own values."""
    emit_row(
        pre_ptr=pre_ptr,
        norms_ptr=pre_ptr,  # not read
        groups_ptr=indices_ptr,  # not read
        n_positions=F,
        indices_ptr=indices_ptr,
        values_ptr=values_ptr,
        F=F,
        M=K,
        threshold=threshold,
        ties=ties,
        SCALED=False,
        LISTED=False,
        SHIFT=SHIFT,
        GROUP=1,
        EMIT=EMIT,
    )


@jit
def list_groups(
    maxima_ptr: Pointer,  # [G] one row
    groups_ptr: Pointer,  # [G] (out) ascending groups whose maximum reaches the bound
    bound: Scalar,
    G: Scalar,
    EMIT: constexpr,
) -> Scalar:
    """Write the groups and return how many there are."""
    count = bound * 0
    for start in range(0, G, EMIT):
        groups = start + tl.arange(0, EMIT)
        maxima = tl.load(maxima_ptr + groups, mask=groups < G, other=0)
        reaches = maxima >= bound
        slots = count + tl.cumsum(reaches.to(tl.int32), 0) - 1
        tl.store(groups_ptr + slots, groups, mask=reaches)
        count += tl.sum(reaches.to(tl.int32), 0)
    return count


@jit
def _group_maxima_kernel(
    pre_ptr: Pointer,  # [B, F]
    norms_ptr: Pointer,  # [F], read if SCALED
    maxima_ptr: Pointer,  # [B, G] (out) largest key of each group
    stride_pre: Scalar,
    F: Scalar,
    G: Scalar,
    SCALED: constexpr,
    SHIFT: constexpr,
    GROUP: constexpr,
    BLOCK: constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    keys = row_keys(pre_ptr + row * stride_pre, norms_ptr, columns, columns < F, SCALED, SHIFT)
    maxima = tl.max(tl.reshape(keys, (BLOCK // GROUP, GROUP)), axis=1)
    groups = tl.program_id(1) * (BLOCK // GROUP) + tl.arange(0, BLOCK // GROUP)
    tl.store(maxima_ptr + row * G + groups, maxima, mask=groups < G)


def group_width(n_latents: int, group: int) -> int:
    """Columns of a group: `group`, more where the row's maxima would not fit in registers."""
    while ceil_div(n_latents, group) > _MOST_GROUPS_IN_REGISTERS:
        group *= 2
    return group


def blocks_with_few_groups(n_rows: int, n_groups: int) -> list[slice]:
    """Row blocks whose group maxima and lists are small."""
    return list(row_blocks(n_rows, max(1, _MOST_GROUPS_AT_ONCE // n_groups)))


def group_maxima(
    pre: Float[Tensor, "B F"], norms: Float[Tensor, "F"] | None, group: int
) -> Int[Tensor, "B G"]:
    """The largest key of each group of columns, of relu(pre) times norms where they are given."""
    n_rows, n_latents = pre.shape
    G = ceil_div(n_latents, group)
    maxima = torch.empty(n_rows, G, dtype=torch.int32, device=pre.device)
    sizes = tile("select_group", architecture(pre), F=n_latents)
    block = min(sizes["BLOCK"], max(group, next_power_of_2(n_latents)))
    launch(
        _group_maxima_kernel,
        (n_rows, ceil_div(n_latents, block)),
        pre_ptr=pre,
        norms_ptr=pre if norms is None else norms,
        maxima_ptr=maxima,
        stride_pre=pre.stride(0),
        F=n_latents,
        G=G,
        SCALED=norms is not None,
        SHIFT=key_shift(pre.dtype) if norms is None else 0,
        GROUP=group,
        BLOCK=block,
        num_warps=sizes["num_warps"],
    )
    return maxima
