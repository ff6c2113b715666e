"""Batch top-k selection: codes = the B * k largest positive entries of a whole batch of rows.

So k is the mean of a row's count, and each row takes what it needs (BatchTopK, arXiv 2412.06410).

Rows may come in blocks. Of what came so far only the n = B * k largest entries are kept, and the
least of them is the threshold that a later entry must exceed; so every block adds few candidates,
and the final choice is exact. For the first block the threshold is a quantile of a sample; if fewer
than n entries turn out to exceed it, the block is searched once more with the threshold 0. On a GPU
the threshold comes from the maxima of groups of neighboring columns: the n-th largest maximum is at
most the n-th largest entry, so that only groups whose maximum reaches it are looked at twice.
"""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .codes import Codes, COOEntries, pack_entries, pack_kept
from .dispatch import Pointer, Scalar, architecture, constexpr, jit, launch, tl, uses_triton
from .numerics import ceil_div
from .process_group import ProcessGroup, distributed_topk_mask
from .tiles import tile
from .topk_keys import (
    column_at,
    emit_row,
    group_maxima,
    group_width,
    key_shift,
    list_groups,
    require_k,
    row_keys,
)

_SAMPLE = 1 << 16


@jit
def _batch_list_kernel(
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
def _batch_count_kernel(
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
def _batch_emit_kernel(
    pre_ptr: Pointer,  # [B, F]
    threshold_ptr: Pointer,  # [1]
    groups_ptr: Pointer,  # [B, G]
    n_groups_ptr: Pointer,  # [B]
    ends_ptr: Pointer,  # [B] where each row's entries end, int64
    counts_ptr: Pointer,  # [B]
    columns_ptr: Pointer,  # [N] (out)
    values_ptr: Pointer,  # [N] (out)
    stride_pre: Scalar,
    F: Scalar,
    G: Scalar,
    SHIFT: constexpr,
    GROUP: constexpr,
    EMIT: constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    threshold = tl.load(threshold_ptr)
    count = tl.load(counts_ptr + row)
    start = tl.load(ends_ptr + row) - count
    n_positions = tl.load(n_groups_ptr + row) * GROUP
    emit_row(
        pre_ptr=pre_ptr + row * stride_pre,
        norms_ptr=pre_ptr,  # not read
        groups_ptr=groups_ptr + row * G,
        n_positions=n_positions,
        indices_ptr=columns_ptr + start,
        values_ptr=values_ptr + start,
        F=F,
        M=count,
        threshold=threshold,
        ties=0,
        SCALED=False,
        LISTED=True,
        SHIFT=SHIFT,
        GROUP=GROUP,
        EMIT=EMIT,
    )


def _launch_candidates(pre: Float[Tensor, "B F"], n_kept: int, threshold: Tensor) -> COOEntries:
    """The entries above the threshold that can be among the n_kept largest; waits for the GPU."""
    n_rows, n_latents = pre.shape
    sizes = tile("select_group", architecture(pre), F=n_latents)
    group = group_width(n_latents, sizes["GROUP"])
    G = ceil_div(n_latents, group)
    shift = key_shift(pre.dtype)
    maxima = group_maxima(pre, None, group)
    key_threshold = threshold.float().view(torch.int32) >> shift
    if n_kept <= maxima.numel():
        least = maxima.flatten().topk(n_kept, sorted=False).values.min()
        key_threshold = torch.maximum(key_threshold, least - 1)
    groups = torch.empty_like(maxima)
    n_groups, counts = maxima.new_empty(n_rows), maxima.new_empty(n_rows)
    launch(
        _batch_list_kernel,
        (n_rows,),
        maxima_ptr=maxima,
        threshold_ptr=key_threshold,
        groups_ptr=groups,
        n_groups_ptr=n_groups,
        G=G,
        EMIT=sizes["EMIT"],
        num_warps=sizes["num_warps"],
    )
    shared: dict[str, Any] = {
        "pre_ptr": pre,
        "threshold_ptr": key_threshold,
        "groups_ptr": groups,
        "n_groups_ptr": n_groups,
        "counts_ptr": counts,
        "stride_pre": pre.stride(0),
        "F": n_latents,
        "G": G,
        "SHIFT": shift,
        "GROUP": group,
        "EMIT": sizes["EMIT"],
        "num_warps": sizes["num_warps"],
    }
    launch(_batch_count_kernel, (n_rows,), **shared)
    ends = counts.cumsum(0)
    total = int(ends.max())
    columns = torch.empty(total, dtype=torch.int64, device=pre.device)
    values = torch.empty(total, dtype=pre.dtype, device=pre.device)
    launch(
        _batch_emit_kernel,
        (n_rows,),
        ends_ptr=ends,
        columns_ptr=columns,
        values_ptr=values,
        **shared,
    )
    rows = torch.arange(n_rows, device=pre.device).repeat_interleave(counts, output_size=total)
    return COOEntries(rows, columns, values)


class BatchTop:
    """The n_kept largest positive entries of all the rows that were added, of equal ones the first.

    NaN counts as infinity and stays visible in the values.
    """

    def __init__(self, n_kept: int, like: Tensor) -> None:
        self._n_kept = n_kept
        self._n_rows = 0
        self._rows = torch.zeros(0, dtype=torch.int64, device=like.device)
        self._columns = self._rows
        self._values = like.new_empty(0)
        self._threshold = like.new_zeros(1)
        self._on_gpu = uses_triton(like)

    def add(self, pre: Float[Tensor, "B F"]) -> None:
        """Take the rows that follow those added before; pre may be overwritten afterwards."""
        if not pre.numel() or not self._n_kept:
            self._n_rows += len(pre)
            return
        if uses_triton(pre):
            pre = pre if pre.stride(1) == 1 else pre.contiguous()
            rows, columns, values = _launch_candidates(pre, self._n_kept, self._threshold)
        else:
            rows, columns, values = self._candidates(pre)
        self._rows = torch.cat([self._rows, rows + self._n_rows])
        self._columns = torch.cat([self._columns, columns])
        self._values = torch.cat([self._values, values])
        self._n_rows += len(pre)
        self._keep_largest()

    def codes(self, group: ProcessGroup | None = None) -> Codes:
        """The entries as codes of all the rows; unused slots are (0, 0).

        With a group, n_kept counts the entries of all its ranks, and every rank calls this.
        """
        if group is not None:
            self._keep(distributed_topk_mask(self._values, self._n_kept, group))
        if self._on_gpu:
            entries = COOEntries(self._rows, self._columns, self._values)
            return pack_kept(entries, [self._values != 0], self._n_rows)[0]
        return pack_entries(self._rows, self._columns, self._values, self._n_rows)

    def _candidates(self, pre_BF: Float[Tensor, "B F"]) -> COOEntries:
        flat_N = pre_BF.flatten()
        threshold = self._threshold
        if not len(self._values):
            threshold = torch.maximum(threshold, _sampled_threshold(flat_N, self._n_kept))
        positions = _above(flat_N, threshold)
        if len(positions) + len(self._values) < self._n_kept and threshold > self._threshold:
            positions = _above(flat_N, self._threshold)
        n_latents = pre_BF.shape[1]
        rows = positions.div(n_latents, rounding_mode="floor")
        return COOEntries(rows, positions - rows * n_latents, flat_N[positions])

    def _keep_largest(self) -> None:
        if len(self._values) <= self._n_kept:
            return
        scores = self._values.masked_fill(self._values.isnan(), torch.inf)
        least = scores.topk(self._n_kept, sorted=False).values.min()
        above, tied = scores > least, scores == least
        kept = above | (tied & (tied.cumsum(0) <= self._n_kept - above.sum()))
        self._keep(kept)
        self._threshold = least[None]

    def _keep(self, kept: Bool[Tensor, "N"]) -> None:
        if self._on_gpu:  # to drop entries would wait for the GPU: they stay, with value 0
            self._values = self._values.masked_fill(~kept, 0)
            return
        self._rows, self._columns = self._rows[kept], self._columns[kept]
        self._values = self._values[kept]


def _above(flat_N: Float[Tensor, "N"], threshold: Float[Tensor, "1"]) -> Int[Tensor, "P"]:
    """Positions of what exceeds the threshold, NaN included."""
    return (flat_N <= threshold).logical_not_().nonzero()[:, 0]


def _sampled_threshold(flat_N: Float[Tensor, "N"], n_kept: int) -> Float[Tensor, "1"]:
    """A threshold that a few more than n_kept entries exceed, estimated from a sample.

    0 where the sample is too small to tell.
    """
    sample = flat_N[:: max(1, len(flat_N) // _SAMPLE)]
    expected = n_kept * len(sample) / len(flat_N)
    rank = math.ceil(expected + 3 * expected**0.5) + 1
    if rank > len(sample):
        return flat_N.new_zeros(1)
    return sample.topk(rank).values[-1:].nan_to_num(nan=0.0, posinf=0.0).clamp(min=0)


def batch_topk_select(pre: Float[Tensor, "B F"], k: int) -> Codes:
    """Keep the B * k largest positive pre-activations of the whole batch.

    Args:
        pre: [B, F] pre-activations, any floating dtype, any strides.
        k: latents kept of a row on average, 1 to F.

    Returns:
        Codes with indices and values [B, M] and counts [B]; M is the largest count, at least 1. A
        row's slots are in rising order of their indices; unused ones are index 0, value 0. Fewer
        than B * k are kept where fewer pre-activations are positive. Of equal values those of the
        lowest rows, then of the lowest indices are kept, so the result is deterministic. NaN counts
        as infinity and stays visible in the values.

    Raises:
        ValueError: k is not between 1 and F.

    Selection carries no gradient of its own; `sparsteer.kernels.encode` differentiates through it.
    """
    require_k(k, pre.shape[1])
    with torch.no_grad():
        top = BatchTop(len(pre) * k, pre)
        top.add(pre.detach())
        return top.codes()
