"""top-AFA on a GPU: a threshold for each row, found by bisecting the bits of g, then the codes.

`top_afa` says what is kept, `top_afa_search` how a row's threshold is found.

A row whose keys fit in registers is read once for its threshold, and once more for the codes, whose
width the largest count decides, unless it is taken for granted. Of longer rows the masses of the
maxima of groups of columns bound t from below, and only the groups that reach the bound are looked
at; their keys stay in registers, too, where they are few enough.
"""

import torch
from torch import Tensor

from .capacity import SlotCapacity
from .codes import Codes
from .dispatch import Pointer, Scalar, architecture, constexpr, jit, launch, tl
from .numerics import ceil_div, next_power_of_2
from .policy import top_afa_in_registers
from .tiles import tile
from .top_afa_emit import emit_cut_rows
from .top_afa_search import cut, cut_held, power_of_two, squares
from .topk_keys import (
    blocks_with_few_groups,
    group_maxima,
    group_width,
    list_groups,
    row_keys,
)


@jit
def _afa_list_kernel(
    maxima_ptr: Pointer,  # [B, G] largest key of each group
    target_ptr: Pointer,  # [B]
    groups_ptr: Pointer,  # [B, G] (out) groups that can hold a kept latent, ascending
    counts_ptr: Pointer,  # [B] (out) how many groups
    ranges_ptr: Pointer,  # [B, 2] (out) keys between which the threshold lies
    G: Scalar,
    BLOCK_G: constexpr,
    EMIT: constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    groups = tl.arange(0, BLOCK_G)
    maxima = tl.load(maxima_ptr + row * G + groups, mask=groups < G, other=0)
    largest = tl.max(maxima, 0)
    scale = power_of_two(largest)
    target = tl.load(target_ptr + row).to(tl.float64) * scale.to(tl.float64)
    # More than float32 sums can be wrong: the bound must hold in exact arithmetic.
    enough = target * target * 1.0001
    masses = squares(maxima, scale, tl.float32)
    low = largest * 0 + 1
    high = tl.maximum(largest, 1)
    heavy = scale * 0.0 + float("inf")  # masses of the maxima from low on, and above high
    light = scale * 0.0
    # The largest bound whose groups' maxima alone reach the target, or which one maximum more than
    # needed reaches; 1 (all groups) if none does.
    while low < high:
        middle = high - (high - low) // 2
        mass = tl.sum(tl.where(maxima >= middle, masses, 0.0), 0)
        if mass.to(tl.float64) >= enough:
            low = middle
            heavy = mass
        else:
            high = middle - 1
            light = mass
        if heavy - light <= 1.5 * squares(low, scale, tl.float32):
            high = low
    tl.store(ranges_ptr + row * 2, low)
    tl.store(ranges_ptr + row * 2 + 1, largest)
    count = list_groups(maxima_ptr + row * G, groups_ptr + row * G, low, G, EMIT)
    tl.store(counts_ptr + row, count)


@jit
def _afa_row_kernel(
    pre_ptr: Pointer,  # [B, F]
    norms_ptr: Pointer,  # [F]
    target_ptr: Pointer,  # [B]
    counts_ptr: Pointer,  # [B] (out) kept latents, int64
    cuts_ptr: Pointer,  # [B, 2] (out) threshold and ties: keys above it and so many equal to it
    stride_pre: Scalar,
    F: Scalar,
    BLOCK_F: constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK_F)
    keys = row_keys(pre_ptr + row * stride_pre, norms_ptr, columns, columns < F, True, 0)
    target = tl.load(target_ptr + row)
    largest = tl.max(keys, 0)
    threshold, ties, count = cut(
        keys,
        pre_ptr,
        norms_ptr,
        norms_ptr,
        F,
        F,
        target,
        largest * 0 + 1,
        largest,
        True,
        1,
        BLOCK_F,
    )
    tl.store(cuts_ptr + row * 2, threshold)
    tl.store(cuts_ptr + row * 2 + 1, ties)
    tl.store(counts_ptr + row, count.to(tl.int64))


@jit
def _afa_threshold_kernel(
    pre_ptr: Pointer,  # [B, F]
    norms_ptr: Pointer,  # [F]
    target_ptr: Pointer,  # [B]
    groups_ptr: Pointer,  # [B, G]
    n_groups_ptr: Pointer,  # [B]
    ranges_ptr: Pointer,  # [B, 2]
    counts_ptr: Pointer,  # [B] (out) kept latents, int64
    cuts_ptr: Pointer,  # [B, 2] (out) threshold and ties: keys above it and so many equal to it
    stride_pre: Scalar,
    F: Scalar,
    G: Scalar,
    GROUP: constexpr,
    HELD: constexpr,
    EMIT: constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    pre_ptr += row * stride_pre
    groups_ptr += row * G
    n_positions = tl.load(n_groups_ptr + row) * GROUP
    target = tl.load(target_ptr + row)
    low = tl.load(ranges_ptr + row * 2)
    largest = tl.load(ranges_ptr + row * 2 + 1)
    if n_positions <= HELD // 4:
        threshold, ties, count = cut_held(
            pre_ptr, norms_ptr, groups_ptr, n_positions, F, target, low, largest, HELD // 4, GROUP
        )
    elif n_positions <= HELD:
        threshold, ties, count = cut_held(
            pre_ptr, norms_ptr, groups_ptr, n_positions, F, target, low, largest, HELD, GROUP
        )
    else:
        threshold, ties, count = cut(
            low,  # not read
            pre_ptr,
            norms_ptr,
            groups_ptr,
            n_positions,
            F,
            target,
            low,
            largest,
            False,
            GROUP,
            EMIT,
        )
    tl.store(cuts_ptr + row * 2, threshold)
    tl.store(cuts_ptr + row * 2 + 1, ties)
    tl.store(counts_ptr + row, count.to(tl.int64))


def launch_top_afa(
    pre: Tensor, norms: Tensor, target: Tensor, capacity: SlotCapacity | None = None
) -> list[Codes]:
    """The codes of consecutive blocks of rows, each as wide as its largest count, or as a capacity
    of one part says.

    Reading that count waits for the GPU, once a block.
    """
    if not len(pre):
        return []
    if top_afa_in_registers(pre.shape[1]):
        return [_launch_in_registers(pre, norms, target, capacity)]
    sizes = tile("select_group", architecture(pre), F=pre.shape[1])
    groups = ceil_div(pre.shape[1], group_width(pre.shape[1], sizes["GROUP"]))
    return [
        _launch_of_long_rows(pre[rows], norms, target[rows], capacity)
        for rows in blocks_with_few_groups(len(pre), groups)
    ]


def _launch_in_registers(
    pre: Tensor, norms: Tensor, target: Tensor, capacity: SlotCapacity | None
) -> Codes:
    n_rows, n_latents = pre.shape
    sizes = tile("select_row", architecture(pre), F=n_latents)
    cuts = torch.empty(n_rows, 2, dtype=torch.int32, device=pre.device)
    counts = torch.empty(n_rows, dtype=torch.int64, device=pre.device)
    launch(
        _afa_row_kernel,
        (n_rows,),
        pre_ptr=pre,
        norms_ptr=norms,
        target_ptr=target,
        counts_ptr=counts,
        cuts_ptr=cuts,
        stride_pre=pre.stride(0),
        F=n_latents,
        BLOCK_F=max(16, next_power_of_2(n_latents)),
        num_warps=min(16, 2 * sizes["num_warps"]),  # masses in float64 need registers, too
    )
    return emit_cut_rows(pre, norms, counts, cuts, (cuts, cuts, 0), capacity)  # no lists: not read


def _launch_of_long_rows(
    pre: Tensor, norms: Tensor, target: Tensor, capacity: SlotCapacity | None
) -> Codes:
    n_rows, n_latents = pre.shape
    sizes = tile("select_group", architecture(pre), F=n_latents)
    group = group_width(n_latents, sizes["GROUP"])
    G = ceil_div(n_latents, group)
    maxima = group_maxima(pre, norms, group)
    groups, n_groups = torch.empty_like(maxima), maxima.new_empty(n_rows)
    ranges, cuts = maxima.new_empty(n_rows, 2), maxima.new_empty(n_rows, 2)
    counts = torch.empty(n_rows, dtype=torch.int64, device=pre.device)
    launch(
        _afa_list_kernel,
        (n_rows,),
        maxima_ptr=maxima,
        target_ptr=target,
        groups_ptr=groups,
        counts_ptr=n_groups,
        ranges_ptr=ranges,
        G=G,
        BLOCK_G=next_power_of_2(G),
        EMIT=sizes["EMIT"],
        num_warps=4 if G <= 4096 else 8,
    )
    launch(
        _afa_threshold_kernel,
        (n_rows,),
        pre_ptr=pre,
        norms_ptr=norms,
        target_ptr=target,
        groups_ptr=groups,
        n_groups_ptr=n_groups,
        ranges_ptr=ranges,
        counts_ptr=counts,
        cuts_ptr=cuts,
        stride_pre=pre.stride(0),
        F=n_latents,
        G=G,
        GROUP=group,
        **tile("select_listed", architecture(pre), F=n_latents),
    )
    return emit_cut_rows(pre, norms, counts, cuts, (groups, n_groups, group), capacity)
