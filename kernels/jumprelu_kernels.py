"""JumpReLU on a GPU: the slots of every row in one pass over its pre-activations.

`jumprelu` says what is kept. A row has two parts: the latents above their threshold, and beside
them those just below it, which move the thresholds. Each part is as wide as its fullest row needs,
which a further pass counts, or as wide as is taken for granted.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .capacity import SlotCapacity, presumed_widths, widths_for
from .codes import Codes
from .dispatch import Block, Pointer, Scalar, architecture, constexpr, jit, launch, tl
from .tiles import tile


@jit
def _jump_masks(
    pre_ptr: Pointer,  # [F] one row
    threshold_ptr: Pointer,  # [F]
    low_ptr: Pointer,  # [F]
    columns: Block,
    F: Scalar,
) -> tuple[Block, Block, Block]:
    """(pre, kept, beside): some columns of a row, which of them exceed their threshold or are NaN,
    and which exceed but their lower bound."""
    inside = columns < F
    pre = tl.load(pre_ptr + columns, mask=inside, other=0.0)
    threshold = tl.load(threshold_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    low = tl.load(low_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    wide = pre.to(tl.float32)
    exceeds = inside & ((wide > low) | (wide != wide))
    below = wide <= threshold
    return pre, exceeds & ~below, exceeds & below


@jit
def _jump_count_kernel(
    pre_ptr: Pointer,  # [B, F]
    threshold_ptr: Pointer,  # [F]
    low_ptr: Pointer,  # [F]
    counts_ptr: Pointer,  # [2, B] (out) kept, and beside
    stride_pre: Scalar,
    B: Scalar,
    F: Scalar,
    EMIT: constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    pre_ptr += row * stride_pre
    n_kept = tl.zeros([EMIT], tl.int32)
    n_beside = tl.zeros([EMIT], tl.int32)
    for start in range(0, F, EMIT):
        columns = start + tl.arange(0, EMIT)
        _, kept, beside = _jump_masks(pre_ptr, threshold_ptr, low_ptr, columns, F)
        n_kept += kept.to(tl.int32)
        n_beside += beside.to(tl.int32)
    tl.store(counts_ptr + row, tl.sum(n_kept, 0))
    tl.store(counts_ptr + B + row, tl.sum(n_beside, 0))


@jit
def _jump_emit_kernel(
    pre_ptr: Pointer,  # [B, F]
    threshold_ptr: Pointer,  # [F]
    low_ptr: Pointer,  # [F]
    indices_ptr: Pointer,  # [B, M] (out)
    values_ptr: Pointer,  # [B, M] (out) pre-activations, minus infinity in unused slots
    counts_ptr: Pointer,  # [B] (out) kept latents, int64
    stride_pre: Scalar,
    F: Scalar,
    KEPT: Scalar,  # slots of kept latents, before those of the others
    M: Scalar,
    EMIT: constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    pre_ptr += row * stride_pre
    indices_ptr += row * M
    values_ptr += row * M
    n_kept = tl.program_id(0) * 0
    n_beside = n_kept
    # The first value waits until it is known whether the row fits.
    first = tl.program_id(0).to(tl.float32) * 0.0
    for start in range(0, F, EMIT):
        columns = start + tl.arange(0, EMIT)
        pre, kept, beside = _jump_masks(pre_ptr, threshold_ptr, low_ptr, columns, F)
        slots = n_kept + tl.cumsum(kept.to(tl.int32), 0) - 1
        first += tl.sum(tl.where(kept & (slots == 0), pre.to(tl.float32), 0.0), 0)
        stored = kept & (slots < KEPT)
        tl.store(indices_ptr + slots, columns.to(tl.int64), mask=stored)
        tl.store(values_ptr + slots, pre, mask=stored & (slots > 0))
        n_kept += tl.sum(kept.to(tl.int32), 0)
        slots = KEPT + n_beside + tl.cumsum(beside.to(tl.int32), 0) - 1
        stored = beside & (slots < M)
        tl.store(indices_ptr + slots, columns.to(tl.int64), mask=stored)
        tl.store(values_ptr + slots, pre, mask=stored)
        n_beside += tl.sum(beside.to(tl.int32), 0)
    for start in range(0, M, EMIT):
        slots = start + tl.arange(0, EMIT)
        unused = tl.where(slots < KEPT, slots >= n_kept, slots >= KEPT + n_beside) & (slots < M)
        zeros = tl.zeros([EMIT], tl.int64)
        none = tl.full([EMIT], float("-inf"), tl.float32)
        tl.store(indices_ptr + slots, zeros, mask=unused)
        none = none.to(values_ptr.dtype.element_ty)
        tl.store(values_ptr + slots, none, mask=unused & (slots > 0))
    first = tl.where(n_kept > 0, first, float("-inf"))
    fits = (n_kept <= KEPT) & (n_beside <= M - KEPT)
    tl.store(values_ptr, tl.where(fits, first, float("nan")).to(values_ptr.dtype.element_ty))
    tl.store(counts_ptr + row, n_kept.to(tl.int64))


class JumpSlots(NamedTuple):
    """What `launch_jumprelu` returns."""

    codes: Codes
    """Pre-activations as values, minus infinity in unused slots."""
    kept: int
    """How many slots are for kept latents; those of the others follow."""


def launch_jumprelu(
    pre: Float[Tensor, "B F"],
    threshold: Float[Tensor, "F"],
    low: Float[Tensor, "F"] | None,
    capacity: SlotCapacity | None = None,
) -> JumpSlots:
    """Slots of the latents above their thresholds, and of those that exceed the lower bound alone.

    Args:
        pre: [B, F] pre-activations.
        threshold: [F] contiguous.
        low: [F] contiguous, at most the threshold; None: kept latents alone have slots.
        capacity: of these two parts; where a row needs more, its first value is NaN. None: as wide
            as the fullest row, for whose count the host waits.
    """
    n_rows, n_latents = pre.shape
    if pre.stride(1) != 1:
        pre = pre.contiguous()
    sizes = tile("select_group", architecture(pre), F=n_latents)
    shared: dict[str, Any] = {
        "pre_ptr": pre,
        "threshold_ptr": threshold,
        "low_ptr": threshold if low is None else low,
        "stride_pre": pre.stride(0),
        "F": n_latents,
        "EMIT": sizes["EMIT"],
        "num_warps": sizes["num_warps"],
    }
    widths = presumed_widths(capacity)
    if widths is None:
        found = torch.empty(2, n_rows, dtype=torch.int32, device=pre.device)
        launch(_jump_count_kernel, (n_rows,), counts_ptr=found, B=n_rows, **shared)
        widths = widths_for([*found] if low is not None else [found[0]], capacity)
    M = sum(widths)
    indices = torch.empty(n_rows, M, dtype=torch.int64, device=pre.device)
    values = torch.empty(n_rows, M, dtype=pre.dtype, device=pre.device)
    counts = torch.empty(n_rows, dtype=torch.int64, device=pre.device)
    launch(
        _jump_emit_kernel,
        (n_rows,),
        indices_ptr=indices,
        values_ptr=values,
        counts_ptr=counts,
        KEPT=widths[0],
        M=M,
        **shared,
    )
    return JumpSlots(Codes(indices, values, counts), widths[0])


def joined(parts: list[JumpSlots]) -> Codes:
    """The slots of consecutive rows, each of its two parts as wide as the widest."""
    if len(parts) == 1:
        return parts[0].codes
    kept = max(part.kept for part in parts)
    beside = max(part.codes.indices.shape[1] - part.kept for part in parts)

    def widened(slots_BM: Tensor, n_kept: int, unused: float) -> Tensor:
        both = slots_BM[:, :n_kept], slots_BM[:, n_kept:]
        missing = kept - n_kept, beside - both[1].shape[1]
        return torch.cat(
            [
                F.pad(*each, value=unused)
                for each in zip(both, ((0, n) for n in missing), strict=True)
            ],
            1,
        )

    return Codes(
        torch.cat([widened(part.codes.indices, part.kept, 0.0) for part in parts]),
        torch.cat([widened(part.codes.values, part.kept, -torch.inf) for part in parts]),
        torch.cat([part.codes.counts for part in parts if part.codes.counts is not None]),
    )
