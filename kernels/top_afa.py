"""top-AFA selection: each row keeps the prefix whose norm is nearest a target.

With g = relu(pre) * decoder norm in descending order and c_n = sqrt(g_1^2 + ... + g_n^2), row b
keeps n = argmin_n |c_n - target_b| latents (approximate feature activation, arXiv 2503.24277).
c_n never falls, so n is settled once c_n reaches the target. PyTorch: as many largest entries as a
few of the rows need, then twice as many for the rows that need more, replace the sort of all.

Triton: a threshold t keeps the mass C(t) = sum of g^2 over g >= t, which falls as t rises. The
smallest t with C(t) <= target^2 is found by bisecting the bits of g, in float32 and then corrected
in float64; of the next lower value as many copies follow as come nearest. The masses of the maxima
of groups of columns bound t from below, so only groups that reach the bound are looked at.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .codes import Codes, join_codes
from .dispatch import Block, Pointer, Scalar, architecture, constexpr, jit, launch, tl, uses_triton
from .numerics import at_least_float32, ceil_div, next_power_of_2
from .tiles import tile
from .topk import largest, stable_top_indices
from .topk_keys import (
    blocks_with_few_groups,
    column_at,
    emit_row,
    group_maxima,
    group_width,
    list_groups,
    row_keys,
)

_FIRST_WIDTH = 64
_MARGIN = 4
_ROWS_TRIED = 16
_ROWS_AT_ONCE = 128  # larger blocks of scaled pre-activations come anew from the system each time


@jit
def _squares(keys: Block, dtype: constexpr) -> Block:
    """The squares of the values whose bits the keys are."""
    values = keys.to(tl.float32, bitcast=True).to(dtype)
    return values * values


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
    target = tl.load(target_ptr + row).to(tl.float32)
    # More than float32 sums can be wrong: the bound must hold in exact arithmetic.
    enough = target * target * 1.0001
    masses = _squares(maxima, tl.float32)
    largest = tl.max(maxima, 0)
    low = largest * 0 + 1
    high = tl.maximum(largest, 1)
    # The largest bound whose groups' maxima alone reach the target; 1 (all groups) if none does.
    while low < high:
        middle = high - (high - low) // 2
        if tl.sum(tl.where(maxima >= middle, masses, 0.0), 0) >= enough:
            low = middle
        else:
            high = middle - 1
    tl.store(ranges_ptr + row * 2, low)
    tl.store(ranges_ptr + row * 2 + 1, largest)
    count = list_groups(maxima_ptr + row * G, groups_ptr + row * G, low, G, EMIT)
    tl.store(counts_ptr + row, count)


@jit
def _survey(
    pre_ptr: Pointer,  # [F] one row
    norms_ptr: Pointer,  # [F]
    groups_ptr: Pointer,  # [G] one row
    n_positions: Scalar,
    F: Scalar,
    threshold: Scalar,
    dtype: constexpr,
    GROUP: constexpr,
    EMIT: constexpr,
) -> tuple[Scalar, Scalar, Scalar, Scalar]:
    """(mass, count, least, below) of a row: the sum of squares, number and smallest of the keys
    that are at least the threshold, and the largest key below it (0 if there is none)."""
    mass = tl.sum(tl.zeros([EMIT], dtype), 0)
    count = threshold * 0
    least = threshold * 0 + 0x7FFFFFFF
    below = threshold * 0
    for start in range(0, n_positions, EMIT):
        positions = start + tl.arange(0, EMIT)
        inside = positions < n_positions
        columns = column_at(positions, groups_ptr, inside, True, GROUP)
        keys = row_keys(pre_ptr, norms_ptr, columns, inside & (columns < F), True, 0)
        above = keys >= threshold
        mass += tl.sum(tl.where(above, _squares(keys, dtype), 0.0), 0)
        count += tl.sum(above.to(tl.int32), 0)
        least = tl.minimum(least, tl.min(tl.where(above, keys, 0x7FFFFFFF), 0))
        below = tl.maximum(below, tl.max(tl.where(above, 0, keys), 0))
    return mass, count, least, below


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
    EMIT: constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    pre_ptr += row * stride_pre
    groups_ptr += row * G
    n_positions = tl.load(n_groups_ptr + row) * GROUP
    target = tl.load(target_ptr + row).to(tl.float64)
    square = target * target
    largest = tl.load(ranges_ptr + row * 2 + 1)
    low = tl.load(ranges_ptr + row * 2)
    high = largest + 1
    # C(t), the mass, is the sum of squares of the keys that are at least t: it falls as t rises.
    # A row with NaN keeps its first NaN; without a finite target no prefix is nearer than another.
    ordinary = (largest < 0x7F800000) & (square < float("inf"))
    low = tl.where(ordinary, low, high)
    # Invariant 1, in float32: C(high) <= target^2, and C(low - 1) > target^2 or low is the lower
    # end of the range. Each turn halves [low, high], so that high ends as the smallest threshold
    # whose mass does not exceed the target's.
    while low < high:
        middle = low + (high - low) // 2
        mass, _, _, _ = _survey(
            pre_ptr, norms_ptr, groups_ptr, n_positions, F, middle, tl.float32, GROUP, EMIT
        )
        if mass.to(tl.float64) <= square:
            high = middle
        else:
            low = middle + 1
    # The float32 sums may have led to a threshold a few keys too low or too high. From here on
    # mass = C(high) in float64, with count, least and below of the same survey.
    mass, count, least, below = _survey(
        pre_ptr, norms_ptr, groups_ptr, n_positions, F, high, tl.float64, GROUP, EMIT
    )
    # Invariant 2: C(t) > target^2 for every t <= high, so the threshold lies above. Each turn drops
    # the smallest kept key with its copies; it ends at the latest without keys, where C is 0.
    while mass > square:
        high = least + 1
        mass, count, least, below = _survey(
            pre_ptr, norms_ptr, groups_ptr, n_positions, F, high, tl.float64, GROUP, EMIT
        )
    # more = C(below): the mass with all copies of the next lower key.
    more, more_count, _, more_below = _survey(
        pre_ptr, norms_ptr, groups_ptr, n_positions, F, below, tl.float64, GROUP, EMIT
    )
    # Invariant 3: mass = C(high) <= target^2 and more = C(below), where below is the largest key
    # under high, 0 if there is none. Each turn takes in one more key with its copies, and ends with
    # C(below) > target^2, or with no positive key left. So the prefix ends among below's copies.
    while ordinary & (below > 0) & (more <= square):
        high = below
        mass = more
        count = more_count
        below = more_below
        more, more_count, _, more_below = _survey(
            pre_ptr, norms_ptr, groups_ptr, n_positions, F, below, tl.float64, GROUP, EMIT
        )
    one = below.to(tl.float32, bitcast=True).to(tl.float64)
    one *= one
    fitting = tl.where(ordinary & (one > 0), (square - mass) / tl.where(one > 0, one, 1.0), 0.0)
    ties = tl.minimum(fitting, (more_count - count).to(tl.float64)).to(tl.int32)
    # With a <= target^2 < b: sqrt(b) is nearer than sqrt(a) iff sqrt(a) + sqrt(b) < 2 * target.
    without = mass + ties * one
    with_one = mass + (ties + 1) * one
    rest = 4.0 * square - without - with_one
    nearer = (rest > 0) & (4.0 * without * with_one < rest * rest)
    another = nearer | (count + ties == 0)
    ties = tl.where((below > 0) & another & (count + ties < more_count), ties + 1, ties)
    tl.store(cuts_ptr + row * 2, below)
    tl.store(cuts_ptr + row * 2 + 1, ties)
    tl.store(counts_ptr + row, tl.maximum(count + ties, 1).to(tl.int64))


@jit
def _afa_emit_kernel(
    pre_ptr: Pointer,  # [B, F]
    norms_ptr: Pointer,  # [F]
    groups_ptr: Pointer,  # [B, G]
    n_groups_ptr: Pointer,  # [B]
    cuts_ptr: Pointer,  # [B, 2]
    indices_ptr: Pointer,  # [B, M] (out)
    values_ptr: Pointer,  # [B, M] (out)
    stride_pre: Scalar,
    F: Scalar,
    G: Scalar,
    M: Scalar,
    GROUP: constexpr,
    EMIT: constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    n_positions = tl.load(n_groups_ptr + row) * GROUP
    threshold = tl.load(cuts_ptr + row * 2)
    ties = tl.load(cuts_ptr + row * 2 + 1)
    emit_row(
        pre_ptr=pre_ptr + row * stride_pre,
        norms_ptr=norms_ptr,
        groups_ptr=groups_ptr + row * G,
        n_positions=n_positions,
        indices_ptr=indices_ptr + row * M,
        values_ptr=values_ptr + row * M,
        F=F,
        M=M,
        threshold=threshold,
        ties=ties,
        SCALED=True,
        LISTED=True,
        SHIFT=0,
        GROUP=GROUP,
        EMIT=EMIT,
    )


def _launch_top_afa(pre: Tensor, norms: Tensor, target: Tensor) -> Codes:
    """The codes of a block of rows, as wide as its largest count (which waits for the GPU)."""
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
        num_warps=sizes["num_warps"],
    )
    shared: dict[str, Any] = {
        "pre_ptr": pre,
        "norms_ptr": norms,
        "groups_ptr": groups,
        "n_groups_ptr": n_groups,
        "cuts_ptr": cuts,
        "stride_pre": pre.stride(0),
        "F": n_latents,
        "G": G,
        "GROUP": group,
        "EMIT": sizes["EMIT"],
        "num_warps": sizes["num_warps"],
    }
    launch(
        _afa_threshold_kernel,
        (n_rows,),
        target_ptr=target,
        ranges_ptr=ranges,
        counts_ptr=counts,
        **shared,
    )
    M = int(counts.max())
    indices = torch.empty(n_rows, M, dtype=torch.int64, device=pre.device)
    values = torch.empty(n_rows, M, dtype=pre.dtype, device=pre.device)
    launch(
        _afa_emit_kernel,
        (n_rows,),
        indices_ptr=indices,
        values_ptr=values,
        M=M,
        **shared,
    )
    return Codes(indices, values, counts)


def top_afa_select(
    pre: Float[Tensor, "B F"],
    decoder_norms: Float[Tensor, "F"],
    target: Float[Tensor, "B"],
    max_active: int | None = None,
) -> Codes:
    """Keep of each row the largest latents whose joint norm comes nearest the target.

    Args:
        pre: [B, F] pre-activations.
        decoder_norms: [F] norms of the decoder rows; they weigh the order and the norm.
        target: [B] the norm to match, ||x - b_dec|| in the published method.
        max_active: width M of the codes; the largest count of the batch where it is None.

    Returns:
        Codes with indices and values [B, M] and counts [B]; slots are in descending order of
        value * decoder norm on a CPU, of rising index on a GPU. The nearest prefix wins, the
        shortest of equally near ones, of equal activations the lowest indices; at least one latent
        is kept, so a row without a positive pre-activation has count 1 and value 0. Squares are
        summed in float64.

    Raises:
        ValueError: a row keeps more than max_active latents; nothing is ever cut.
    """
    with torch.no_grad():
        if uses_triton(pre):
            pre = pre if pre.stride(1) == 1 else pre.contiguous()
            norms, target = decoder_norms.contiguous(), target.contiguous()
            groups = ceil_div(pre.shape[1], tile("select_group", architecture(pre))["GROUP"])
            parts = [
                _launch_top_afa(pre[rows], norms, target[rows])
                for rows in blocks_with_few_groups(len(pre), groups)
            ]
            return join_codes(parts, pre, max_active)
        return join_codes(_select_in_pieces(pre, decoder_norms, target), pre, max_active)


def _select_in_pieces(
    pre_BF: Float[Tensor, "B F"], norms_F: Float[Tensor, "F"], target_B: Float[Tensor, "B"]
) -> list[Codes]:
    # float32 holds the product of two bfloat16 or float16 numbers exactly.
    exact = at_least_float32(pre_BF.dtype)
    parts: list[Codes] = []
    width = 0
    for start in range(0, len(pre_BF), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        scaled_BF, target = pre_BF[rows].to(exact) * norms_F.to(exact), target_B[rows].double()
        # As many as the longest prefix of the rows before, or of a few rows of the first piece.
        width = width or _longest_prefix(scaled_BF[:_ROWS_TRIED], target[:_ROWS_TRIED])
        indices_BM, counts_B = _nearest_prefixes(scaled_BF, target, width + _MARGIN)
        width = indices_BM.shape[-1]
        used_BM = torch.arange(width, device=pre_BF.device) < counts_B[:, None]
        values_BM = pre_BF[rows].gather(-1, indices_BM).relu_().masked_fill_(~used_BM, 0)
        parts.append(Codes(indices_BM.masked_fill(values_BM == 0, 0), values_BM, counts_B))
    return parts


def _longest_prefix(scaled_BF: Tensor, target_B: Tensor) -> int:
    return int(_nearest_prefixes(scaled_BF, target_B, _FIRST_WIDTH)[1].max())


def _nearest_prefixes(
    scaled_BF: Float[Tensor, "B F"], target_B: Float[Tensor, "B"], width: int
) -> tuple[Int[Tensor, "B M"], Int[Tensor, "B"]]:
    """The order of each row as far as its kept prefix, and the prefix's length.

    Looks at the `width` largest entries first, and at twice as many of the rows that need more.
    """
    n_latents = scaled_BF.shape[-1]
    width = min(width, n_latents)
    order_BM, counts_B, settled_B = _prefixes_within(scaled_BF, target_B, width)
    pending = (~settled_B).nonzero()[:, 0]
    while len(pending):
        order_BM = torch.nn.functional.pad(order_BM, (0, min(width, n_latents - width)))
        width = order_BM.shape[-1]
        order_BM[pending], counts_B[pending], settled_P = _prefixes_within(
            scaled_BF[pending], target_B[pending], width
        )
        pending = pending[~settled_P]
    return order_BM[:, : int(counts_B.max())], counts_B


def _prefixes_within(
    scaled_BF: Float[Tensor, "B F"], target_B: Float[Tensor, "B"], width: int
) -> tuple[Int[Tensor, "B M"], Int[Tensor, "B"], Bool[Tensor, "B"]]:
    """Order, length of the prefix, and whether it is settled by the row's `width` largest."""
    top_BM, order_BM = largest(scaled_BF, width)
    top_BM.clamp_(min=0)  # relu, where it matters
    norm_BM = top_BM.double().square_().cumsum(-1).sqrt_()
    counts_B = (norm_BM - target_B[:, None]).abs_().argmin(-1) + 1
    reached_B = (norm_BM[:, -1] >= target_B) | (top_BM[:, -1] <= 0)
    last_B, next_B = (
        top_BM.gather(-1, (counts_B[:, None] + beyond).clamp(max=width - 1))[:, 0]
        for beyond in (-1, 0)
    )
    # One entry beyond the prefix shows whether its last value is tied across the cut.
    tied_B = (last_B == next_B) & (counts_B < width) & (last_B > 0)
    if tied_B.any():
        order_BM[tied_B] = stable_top_indices(scaled_BF[tied_B], width)
    all_seen = width == scaled_BF.shape[-1]
    return order_BM, counts_B, (reached_B & (counts_B < width)) | all_seen
