"""Which latents fired, and which have been silent for so long that they count as dead.

On a GPU two kernels do it, one of which also lists the dead latents, then the others. The host
learns later how many are dead: nothing waits.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .codes import Codes
from .dispatch import Pointer, Scalar, constexpr, jit, launch, tl, uses_triton
from .numerics import ceil_div

_SLOTS_OF_A_PROGRAM = 2048
_LATENTS_AT_ONCE = 4096


@jit
def _fired_kernel(
    indices_ptr: Pointer,  # [N] latents of all slots
    values_ptr: Pointer,  # [N]
    fired_ptr: Pointer,  # [F] (out) bool, false before
    N: Scalar,
    BLOCK: constexpr,
) -> None:
    slots = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(values_ptr + slots, mask=slots < N, other=0.0).to(tl.float32)
    latents = tl.load(indices_ptr + slots, mask=slots < N, other=0)
    used = values > 0
    tl.store(fired_ptr + latents, used, mask=used)


@jit
def _firing_count_kernel(
    counts_ptr: Pointer,  # [F] (in and out) rows since each latent fired, int64
    fired_ptr: Pointer,  # [F] bool
    loss_ptr: Pointer,  # []
    finite_ptr: Pointer,  # [] (out) bool
    numbers_ptr: Pointer,  # [2] (out) int64: finite, number of dead latents
    dead_ptr: Pointer,  # [F] (out) the dead latents, ascending, then the others, falling, int64
    n_rows: Scalar,
    dead_after: Scalar,
    F: Scalar,
    BLOCK: constexpr,
) -> None:
    loss = tl.load(loss_ptr).to(tl.float32)
    finite = (loss == loss) & (tl.abs(loss) != float("inf"))
    n_dead = tl.program_id(0)  # 0
    for start in range(0, F, BLOCK):
        latents = start + tl.arange(0, BLOCK)
        inside = latents < F
        counts = tl.load(counts_ptr + latents, mask=inside, other=0)
        fired = tl.load(fired_ptr + latents, mask=inside, other=0) != 0
        counts = tl.where(finite, tl.where(fired, 0, counts + n_rows), counts)
        tl.store(counts_ptr + latents, counts, mask=inside)
        dead = inside & (counts >= dead_after)
        places = n_dead + tl.cumsum(dead.to(tl.int32), 0) - 1
        places = tl.where(dead, places, F - 1 - (latents - places - 1))
        tl.store(dead_ptr + places, latents.to(tl.int64), mask=inside)
        n_dead += tl.sum(dead.to(tl.int32), 0)
    tl.store(finite_ptr, finite)
    tl.store(numbers_ptr, finite.to(tl.int64))
    tl.store(numbers_ptr + 1, n_dead.to(tl.int64))


def _launch_fired(codes: Codes, n_latents: int) -> Bool[Tensor, "F"]:
    indices, values = codes.indices, codes.values.detach()
    fired = torch.zeros(n_latents, dtype=torch.bool, device=indices.device)
    launch(
        _fired_kernel,
        (ceil_div(values.numel(), _SLOTS_OF_A_PROGRAM),),
        indices_ptr=indices.contiguous(),
        values_ptr=values.contiguous(),
        fired_ptr=fired,
        N=values.numel(),
        BLOCK=_SLOTS_OF_A_PROGRAM,
        num_warps=4,
    )
    return fired


def fired_latents(codes: Codes, n_latents: int) -> Bool[Tensor, "F"]:
    """[F] which latents have a positive value in some slot."""
    if uses_triton(codes.values):
        return _launch_fired(codes, n_latents)
    # Unused slots mark latent F, which is cut off: to leave them out would wait for a GPU.
    used = torch.where(codes.values > 0, codes.indices, n_latents).flatten()
    fired = used.new_zeros(n_latents + 1, dtype=torch.bool)
    return fired.index_fill_(0, used, True)[:n_latents]


class FiringCounts(NamedTuple):
    """What `count_firings_` returns."""

    finite: Bool[Tensor, ""]
    """Whether the loss is."""
    numbers: Int[Tensor, "2"]
    """int64, for the host: the same as 0 or 1, and the number of dead latents."""
    dead: Int[Tensor, "F"] | None
    """The dead latents, ascending, and behind them all others, int64. None where Triton does not
    run."""


def _launch_count(
    rows_since_fired: Tensor, fired: Tensor, loss: Tensor, n_rows: int, dead_after: int
) -> FiringCounts:
    finite = torch.empty_like(loss, dtype=torch.bool)
    numbers, dead = rows_since_fired.new_empty(2), torch.empty_like(rows_since_fired)
    launch(
        _firing_count_kernel,
        (1,),
        counts_ptr=rows_since_fired,
        fired_ptr=fired,
        loss_ptr=loss,
        finite_ptr=finite,
        numbers_ptr=numbers,
        dead_ptr=dead,
        n_rows=n_rows,
        dead_after=dead_after,
        F=len(rows_since_fired),
        BLOCK=_LATENTS_AT_ONCE,
        num_warps=8,
    )
    return FiringCounts(finite, numbers, dead)


def count_firings_(
    rows_since_fired: Int[Tensor, "F"],
    fired: Bool[Tensor, "F"],
    loss: Float[Tensor, ""],
    *,
    n_rows: int,
    dead_after: int,
) -> FiringCounts:
    """Count a batch's rows for every latent, in place, from 0 for those that fired.

    Args:
        rows_since_fired: [F] int64, contiguous.
        fired: [F] which latents fired in the batch.
        loss: where it is not finite, nothing is counted.
        n_rows: rows of the batch.
        dead_after: rows without firing after which a latent is dead.
    """
    if uses_triton(loss):
        return _launch_count(rows_since_fired, fired, loss, n_rows, dead_after)
    finite = loss.isfinite()
    counted = n_rows * finite
    rows_since_fired += counted
    rows_since_fired.masked_fill_(fired & (counted > 0), 0)
    n_dead = (rows_since_fired >= dead_after).sum()
    return FiringCounts(finite, torch.stack([finite.to(n_dead.dtype), n_dead]), None)
