"""Top-k selection: codes = the k largest positive entries of each row of pre-activations.

Without a sort of the row. On a CPU compiled loops bisect a row's keys and list what reaches the
threshold (`topk_rows`). Triton: a row is bisected in registers (read from memory once, and again
from the cache when the codes are written), or only the groups of columns whose maximum reaches the
k-th largest maximum are looked at; `topk_plan` says which.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from .codes import Codes
from .dispatch import Pointer, Scalar, architecture, constexpr, jit, launch, tl, uses_triton
from .numerics import at_least_float32, ceil_div, next_power_of_2
from .policy import topk_plan
from .tiles import tile
from .topk_keys import (
    blocks_with_few_groups,
    column_at,
    emit_row,
    emit_whole_row,
    group_maxima,
    group_width,
    key_shift,
    kth_between,
    kth_largest,
    list_groups,
    require_k,
    row_keys,
)


@jit
def _topk_row_kernel(
    pre_ptr: Pointer,  # [B, F]
    indices_ptr: Pointer,  # [B, K] (out)
    values_ptr: Pointer,  # [B, K] (out)
    stride_pre: Scalar,
    F: Scalar,
    K: Scalar,
    SHIFT: constexpr,
    BLOCK_F: constexpr,
    EMIT: constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    pre_ptr += row * stride_pre
    columns = tl.arange(0, BLOCK_F)
    keys = row_keys(pre_ptr, pre_ptr, columns, columns < F, False, SHIFT)
    threshold, ties = kth_largest(keys, K)
    indices_ptr += row * K
    values_ptr += row * K
    emit_whole_row(pre_ptr, indices_ptr, values_ptr, F, K, threshold, ties, SHIFT, EMIT)


@jit
def _topk_list_kernel(
    maxima_ptr: Pointer,  # [B, G] largest key of each group
    groups_ptr: Pointer,  # [B, G] (out) groups that can hold one of the K largest, ascending
    counts_ptr: Pointer,  # [B] (out) how many groups
    ranges_ptr: Pointer,  # [B, 2] (out) keys between which the K-th largest lies
    G: Scalar,
    K: Scalar,
    BLOCK_G: constexpr,
    EMIT: constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    groups = tl.arange(0, BLOCK_G)
    maxima = tl.load(maxima_ptr + row * G + groups, mask=groups < G, other=0)
    threshold, ties = kth_largest(maxima, K)
    # K groups reach the bound, so at least K entries do.
    bound = tl.maximum(tl.where(ties > 0, threshold, threshold + 1), 1)
    tl.store(ranges_ptr + row * 2, bound - 1)
    tl.store(ranges_ptr + row * 2 + 1, tl.max(maxima, 0))
    count = list_groups(maxima_ptr + row * G, groups_ptr + row * G, bound, G, EMIT)
    tl.store(counts_ptr + row, count)


@jit
def _topk_listed_kernel(
    pre_ptr: Pointer,  # [B, F]
    groups_ptr: Pointer,  # [B, G]
    counts_ptr: Pointer,  # [B]
    ranges_ptr: Pointer,  # [B, 2]
    indices_ptr: Pointer,  # [B, K] (out)
    values_ptr: Pointer,  # [B, K] (out)
    stride_pre: Scalar,
    F: Scalar,
    G: Scalar,
    K: Scalar,
    SHIFT: constexpr,
    GROUP: constexpr,
    HELD: constexpr,
    EMIT: constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    pre_ptr += row * stride_pre
    groups_ptr += row * G
    n_positions = tl.load(counts_ptr + row) * GROUP
    low = tl.load(ranges_ptr + row * 2)
    high = tl.load(ranges_ptr + row * 2 + 1)
    if n_positions <= HELD:
        positions = tl.arange(0, HELD)
        inside = positions < n_positions
        columns = column_at(positions, groups_ptr, inside, True, GROUP)
        keys = row_keys(pre_ptr, pre_ptr, columns, inside & (columns < F), False, SHIFT)
        threshold, ties = kth_between(keys, K, low, high)
    else:
        # Many groups tie: the same bisection, over entries that stay in the cache.
        above = low * 0
        while low < high:
            middle = high - (high - low) // 2
            count = low * 0
            for start in range(0, n_positions, EMIT):
                places = start + tl.arange(0, EMIT)
                within = places < n_positions
                at = column_at(places, groups_ptr, within, True, GROUP)
                found = row_keys(pre_ptr, pre_ptr, at, within & (at < F), False, SHIFT)
                count += tl.sum((found >= middle).to(tl.int32), 0)
            if count > K:
                low = middle
            else:
                high = middle - 1
                above = count
                if count == K:
                    low = high
        threshold = low
        ties = tl.where(low > 0, K - above, 0)
    emit_row(
        pre_ptr=pre_ptr,
        norms_ptr=pre_ptr,  # not read
        groups_ptr=groups_ptr,
        n_positions=n_positions,
        indices_ptr=indices_ptr + row * K,
        values_ptr=values_ptr + row * K,
        F=F,
        M=K,
        threshold=threshold,
        ties=ties,
        SCALED=False,
        LISTED=True,
        SHIFT=SHIFT,
        GROUP=GROUP,
        EMIT=EMIT,
    )


def _launch_topk(pre: Float[Tensor, "B F"], k: int) -> Codes:
    n_rows, n_latents = pre.shape
    if pre.stride(1) != 1:
        pre = pre.contiguous()
    indices = torch.empty(n_rows, k, dtype=torch.int64, device=pre.device)
    values = torch.empty(n_rows, k, dtype=pre.dtype, device=pre.device)
    if topk_plan(n_latents, k, triton=True).path == "listed_groups":
        _launch_topk_of_long_rows(pre, k, indices, values)
        return Codes(indices, values)
    sizes = tile("select_row", architecture(pre), F=n_latents, K=k)
    launch(
        _topk_row_kernel,
        (n_rows,),
        pre_ptr=pre,
        indices_ptr=indices,
        values_ptr=values,
        stride_pre=pre.stride(0),
        F=n_latents,
        K=k,
        SHIFT=key_shift(pre.dtype),
        BLOCK_F=max(16, next_power_of_2(n_latents)),
        EMIT=sizes["EMIT"],
        num_warps=sizes["num_warps"],
    )
    return Codes(indices, values)


def _launch_topk_of_long_rows(pre: Tensor, k: int, indices: Tensor, values: Tensor) -> None:
    n_rows, n_latents = pre.shape
    sizes = tile("select_group", architecture(pre), F=n_latents, K=k)
    group = group_width(n_latents, sizes["GROUP"])
    listed = tile("select_listed", architecture(pre), F=n_latents, K=k * group)
    G = ceil_div(n_latents, group)
    for rows in blocks_with_few_groups(n_rows, G):
        maxima = group_maxima(pre[rows], None, group)
        groups = torch.empty_like(maxima)
        counts, ranges = maxima.new_empty(len(maxima)), maxima.new_empty(len(maxima), 2)
        launch(
            _topk_list_kernel,
            (len(maxima),),
            maxima_ptr=maxima,
            groups_ptr=groups,
            counts_ptr=counts,
            ranges_ptr=ranges,
            G=G,
            K=k,
            BLOCK_G=next_power_of_2(G),
            EMIT=sizes["EMIT"],
            num_warps=4 if G <= 4096 else 8,
        )
        launch(
            _topk_listed_kernel,
            (len(maxima),),
            pre_ptr=pre[rows],
            groups_ptr=groups,
            counts_ptr=counts,
            ranges_ptr=ranges,
            indices_ptr=indices[rows],
            values_ptr=values[rows],
            stride_pre=pre.stride(0),
            F=n_latents,
            G=G,
            K=k,
            SHIFT=key_shift(pre.dtype),
            GROUP=group,
            **listed,
        )


def topk_select(pre: Float[Tensor, "B F"], k: int) -> Codes:
    """Keep the k largest positive pre-activations of each row.

    Args:
        pre: [B, F] pre-activations, any floating dtype, any strides.
        k: latents kept of each row, 1 to F.

    Returns:
        Codes with indices and values [B, k] and counts None. A slot that finds no positive
        pre-activation is unused: index 0, value 0. The order of a row's slots differs between
        paths. Of equal values the lowest indices are kept, so the result is deterministic. NaN
        counts as largest and stays visible in the values.

    Raises:
        ValueError: k is not between 1 and F.

    Selection carries no gradient of its own; `sparsteer.kernels.encode` differentiates through it.
    """
    n_latents = pre.shape[-1]
    require_k(k, n_latents)
    with torch.no_grad():
        if uses_triton(pre):
            return _launch_topk(pre.detach(), k)
        return _select_on_cpu(pre, k) if pre.device.type == "cpu" else _select_by_sort(pre, k)


def _select_on_cpu(pre_BF: Float[Tensor, "B F"], k: int) -> Codes:
    from .compiled import over_rows
    from .topk_rows import keep_largest

    # float32 holds bfloat16 and float16 exactly.
    rows_BF = pre_BF.detach().to(at_least_float32(pre_BF.dtype)).contiguous()
    bits = torch.int64 if rows_BF.dtype == torch.float64 else torch.int32
    infinity = torch.tensor(torch.inf, dtype=rows_BF.dtype).view(bits)
    indices_BK = torch.empty(len(rows_BF), k, dtype=torch.int64)
    values_BK = rows_BF.new_empty(len(rows_BF), k)
    over_rows(
        keep_largest,
        len(rows_BF),
        rows_BF.numpy(),
        rows_BF.view(bits).numpy(),
        infinity.numpy()[()],
        indices_BK.numpy(),
        values_BK.numpy(),
    )
    return Codes(indices_BK, values_BK.to(pre_BF.dtype))


def _select_by_sort(pre_BF: Float[Tensor, "B F"], k: int) -> Codes:
    """On other devices, and a GPU without its kernels."""
    values_BF, order_BF = pre_BF.sort(dim=-1, descending=True, stable=True)
    values_BK, indices_BK = values_BF[:, :k], order_BF[:, :k]
    unused_BK = values_BK <= 0
    return Codes(indices_BK.masked_fill(unused_BK, 0), values_BK.masked_fill(unused_BK, 0))
