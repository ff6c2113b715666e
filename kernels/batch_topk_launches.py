"""Batch top-k on a GPU: the candidates of every row, then those that the whole batch keeps.

`batch_topk` says what is kept. The threshold that candidates must exceed comes from the maxima of
groups of neighboring columns: the n-th largest maximum is at most the n-th largest entry, so that
only groups whose maximum reaches it are looked at twice. Each row's candidates get slots of their
own, as many as the fullest row needs, which is counted first, or as many as are taken for granted;
so the sizes of all tensors may be known without waiting for the device.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .batch_topk_kernels import (
    batch_count_kernel,
    batch_emit_kernel,
    batch_list_kernel,
    batch_pack_kernel,
)
from .capacity import SlotCapacity, presumed_widths, widths_for
from .codes import Codes
from .dispatch import architecture, launch
from .numerics import ceil_div, next_power_of_2
from .process_group import ProcessGroup, distributed_topk_mask
from .tiles import tile
from .topk_keys import group_maxima, group_width, key_shift


class _Candidates(NamedTuple):
    """Entries of a block of rows that may be kept, in the order of their columns."""

    columns: Int[Tensor, "B C"]
    values: Float[Tensor, "B C"]
    """0 in unused slots."""
    counts: Int[Tensor, "B"]
    """How many a row has, even if that is more than C."""


def _launch_candidates(
    pre: Float[Tensor, "B F"],
    n_kept: int,
    threshold: Float[Tensor, ""] | None,
    capacity: SlotCapacity | None = None,
    share: int = 1,
) -> _Candidates:
    """The entries above 0, and above the threshold if there is one, that can be among the n_kept
    largest.

    `share` times the capacity's one width may be taken for granted.
    """
    n_rows, n_latents = pre.shape
    sizes = tile("select_group", architecture(pre), F=n_latents)
    group = group_width(n_latents, sizes["GROUP"])
    G = ceil_div(n_latents, group)
    shift = key_shift(pre.dtype)
    maxima = group_maxima(pre, None, group)
    key_threshold = None if threshold is None else threshold.float().view(torch.int32) >> shift
    if n_kept <= maxima.numel():
        below = maxima.flatten().topk(n_kept, sorted=False).values.min() - 1
        if key_threshold is None:
            key_threshold = below.clamp(min=0)
        else:
            key_threshold = torch.maximum(key_threshold, below)
    elif key_threshold is None:
        key_threshold = maxima.new_zeros(())
    groups, n_groups = torch.empty_like(maxima), maxima.new_empty(n_rows)
    launch(
        batch_list_kernel,
        (n_rows,),
        maxima_ptr=maxima,
        threshold_ptr=key_threshold,
        groups_ptr=groups,
        n_groups_ptr=n_groups,
        G=G,
        EMIT=sizes["EMIT"],
        num_warps=sizes["num_warps"],
    )
    counts = maxima.new_empty(n_rows)
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
    widths = presumed_widths(capacity)
    if widths is None:
        launch(batch_count_kernel, (n_rows,), **shared)
        widths = widths_for([counts], capacity, share)
    else:
        widths = (share * widths[0],)
    C = min(n_latents, *widths)
    columns = torch.empty(n_rows, C, dtype=torch.int64, device=pre.device)
    values = torch.empty(n_rows, C, dtype=pre.dtype, device=pre.device)
    launch(batch_emit_kernel, (n_rows,), columns_ptr=columns, values_ptr=values, C=C, **shared)
    return _Candidates(columns, values, counts)


class LaunchedBatchTop:
    """`BatchTop` where Triton runs."""

    def __init__(self, n_kept: int, like: Tensor, capacity: SlotCapacity | None, n_rows: int):
        """See `BatchTop`."""
        self._n_kept = n_kept
        self._like = like
        self._capacity = capacity
        self._n_rows = n_rows
        self._n_added = 0
        self._parts: list[_Candidates] = []

    def add(self, pre: Float[Tensor, "B F"]) -> None:
        if not pre.numel() or not self._n_kept:
            return
        self._n_added += len(pre)
        # As few of the rows have come, each may give the more to the largest so far.
        share = ceil_div(max(self._n_rows, self._n_added), self._n_added)
        values = self._values()
        least = None
        if values.numel() > self._n_kept:
            least = _ranked(values).topk(self._n_kept, sorted=False).values.min()
        pre = pre if pre.stride(1) == 1 else pre.contiguous()
        self._parts.append(_launch_candidates(pre, self._n_kept, least, self._capacity, share))

    def codes(self, group: ProcessGroup | None) -> Codes:
        values = self._values()
        if group is not None:
            kept = distributed_topk_mask(values, self._n_kept, group)
        else:
            kept = _largest(values, self._n_kept)
        masks: list[Tensor] = []
        n_before = 0
        for part in self._parts:
            n = part.values.numel()
            masks.append(kept[n_before : n_before + n].view(part.values.shape))
            n_before += n
        widths = presumed_widths(self._capacity)
        if widths is None:
            found = [
                (mask & (part.values != 0)).sum(1)
                for part, mask in zip(self._parts, masks, strict=True)
            ]
            counted = torch.cat(found) if found else kept.new_zeros(0, dtype=torch.int64)
            widths = widths_for([counted], self._capacity)
        (M,) = widths
        indices = torch.empty(self._n_added, M, dtype=torch.int64, device=values.device)
        codes = Codes(indices, values.new_empty(self._n_added, M), indices.new_empty(self._n_added))
        first = 0
        for part, mask in zip(self._parts, masks, strict=True):
            rows = slice(first, first + len(part.values))
            _launch_pack(
                part, mask, Codes(*(tensor[rows] for tensor in codes if tensor is not None))
            )
            first = rows.stop
        return codes

    def _values(self) -> Float[Tensor, "N"]:
        if len(self._parts) == 1:
            return self._parts[0].values.flatten()
        if not self._parts:
            return self._like.new_empty(0)
        return torch.cat([part.values.flatten() for part in self._parts])


def _launch_pack(part: _Candidates, kept: Bool[Tensor, "B C"], out: Codes) -> None:
    n_rows, C = part.values.shape
    sizes = tile("select_group", architecture(part.values), F=C)
    launch(
        batch_pack_kernel,
        (n_rows,),
        columns_ptr=part.columns,
        values_ptr=part.values,
        n_candidates_ptr=part.counts,
        kept_ptr=kept,
        indices_out_ptr=out.indices,
        values_out_ptr=out.values,
        counts_ptr=out.counts,
        C=C,
        M=out.values.shape[1],
        EMIT=min(sizes["EMIT"], next_power_of_2(C)),
        num_warps=4,
    )


def _ranked(values: Float[Tensor, "N"]) -> Float[Tensor, "N"]:
    """NaN as infinity."""
    return values.nan_to_num(nan=torch.inf, posinf=torch.inf)


def _largest(values: Float[Tensor, "N"], n: int) -> Bool[Tensor, "N"]:
    """The n largest, of equal ones the first; all where there are no more."""
    if values.numel() <= n:
        return torch.ones_like(values, dtype=torch.bool)
    ranked = _ranked(values)
    top = ranked.topk(n, sorted=False).values
    least = top.min()
    tied = ranked == least
    return (ranked > least) | (tied & (tied.cumsum(0) <= (top == least).sum()))
