"""Triton kernels of batch top-k: a row's candidates, and those of them that are kept.

`batch_topk_launches` says in which order they run.
"""

from .dispatch import Block, Pointer, Scalar, constexpr, jit, tl
from .topk_keys import column_at, emit_row, list_groups, row_keys
from .unused_slots import nan_row, zero_unused


@jit
def batch_list_kernel(
    maxima_ptr: Pointer,  # [B, G] largest key of each group
    threshold_ptr: Pointer,  # [1] the key that an entry must exceed
    groups_ptr: Pointer,  # [B, G] (out) groups that hold a larger key, ascending
    n_groups_ptr: Pointer,  # [B] (out) how many groups
    G: Scalar,
    EMIT: constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    threshold = tl.load(threshold_ptr)
    n_groups = list_groups(maxima_ptr + row * G, groups_ptr + row * G, threshold + 1, G, EMIT)
    tl.store(n_groups_ptr + row, n_groups)


@jit
def batch_count_kernel(
    pre_ptr: Pointer,  # [B, F]
    threshold_ptr: Pointer,  # [1]
    groups_ptr: Pointer,  # [B, G]
    n_groups_ptr: Pointer,  # [B]
    counts_ptr: Pointer,  # [B] (out) how many keys above the threshold
    stride_pre: Scalar,
    F: Scalar,
    G: Scalar,
    SHIFT: constexpr,
    GROUP: constexpr,
    EMIT: constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    pre_ptr += row * stride_pre
    groups_ptr += row * G
    threshold = tl.load(threshold_ptr)
    n_positions = tl.load(n_groups_ptr + row) * GROUP
    count = threshold * 0
    for start in range(0, n_positions, EMIT):
        positions = start + tl.arange(0, EMIT)
        inside = positions < n_positions
        columns = column_at(positions, groups_ptr, inside, True, GROUP)
        keys = row_keys(pre_ptr, pre_ptr, columns, inside & (columns < F), False, SHIFT)
        count += tl.sum((keys > threshold).to(tl.int32), 0)
    tl.store(counts_ptr + row, count)


@jit
def batch_emit_kernel(
    pre_ptr: Pointer,  # [B, F]
    threshold_ptr: Pointer,  # [1]
    groups_ptr: Pointer,  # [B, G]
    n_groups_ptr: Pointer,  # [B]
    counts_ptr: Pointer,  # [B] (out) how many keys above the threshold, beyond C too
    columns_ptr: Pointer,  # [B, C] (out)
    values_ptr: Pointer,  # [B, C] (out) zeros in unused slots
    stride_pre: Scalar,
    F: Scalar,
    G: Scalar,
    C: Scalar,
    SHIFT: constexpr,
    GROUP: constexpr,
    EMIT: constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    threshold = tl.load(threshold_ptr)
    n_positions = tl.load(n_groups_ptr + row) * GROUP
    count = emit_row(
        pre_ptr=pre_ptr + row * stride_pre,
        norms_ptr=pre_ptr,  # not read
        groups_ptr=groups_ptr + row * G,
        n_positions=n_positions,
        indices_ptr=columns_ptr + row * C,
        values_ptr=values_ptr + row * C,
        F=F,
        M=C,
        threshold=threshold,
        ties=0,
        SCALED=False,
        LISTED=True,
        SHIFT=SHIFT,
        GROUP=GROUP,
        EMIT=EMIT,
    )
    tl.store(counts_ptr + row, count)


@jit
def _kept_slots(
    values_ptr: Pointer,  # [C] one row
    kept_ptr: Pointer,  # [C]
    slots: Block,
    C: Scalar,
) -> tuple[Block, Block]:
    """(values, kept) of some of the row's candidates."""
    inside = slots < C
    values = tl.load(values_ptr + slots, mask=inside, other=0.0)
    return values, (values.to(tl.float32) != 0) & (
        tl.load(kept_ptr + slots, mask=inside, other=0) != 0
    )


@jit
def batch_pack_kernel(
    columns_ptr: Pointer,  # [B, C] candidates
    values_ptr: Pointer,  # [B, C]
    n_candidates_ptr: Pointer,  # [B] how many there are, beyond C too
    kept_ptr: Pointer,  # [B, C] bool, which of them are kept unless they are 0
    indices_out_ptr: Pointer,  # [B, M] (out)
    values_out_ptr: Pointer,  # [B, M] (out)
    counts_ptr: Pointer,  # [B] (out) kept latents, int64
    C: Scalar,
    M: Scalar,
    EMIT: constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    columns_ptr += row * C
    values_ptr += row * C
    kept_ptr += row * C
    indices_out_ptr += row * M
    values_out_ptr += row * M
    count = tl.program_id(0) * 0
    for start in range(0, C, EMIT):
        _, kept = _kept_slots(values_ptr, kept_ptr, start + tl.arange(0, EMIT), C)
        count += tl.sum(kept.to(tl.int32), 0)
    tl.store(counts_ptr + row, count.to(tl.int64))
    if (count > M) | (tl.load(n_candidates_ptr + row) > C):
        nan_row(indices_out_ptr, values_out_ptr, M, EMIT)
    else:
        used = count * 0
        for start in range(0, C, EMIT):
            slots = start + tl.arange(0, EMIT)
            values, kept = _kept_slots(values_ptr, kept_ptr, slots, C)
            places = used + tl.cumsum(kept.to(tl.int32), 0) - 1
            columns = tl.load(columns_ptr + slots, mask=kept, other=0)
            tl.store(indices_out_ptr + places, columns, mask=kept)
            tl.store(values_out_ptr + places, values, mask=kept)
            used += tl.sum(kept.to(tl.int32), 0)
        zero_unused(indices_out_ptr, values_out_ptr, count, M, EMIT)
