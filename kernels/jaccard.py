"""Generalized Jaccard similarity of sparse rows with one prototype (arXiv 2503.15573).

J(z, p) = sum_f min(z_f, p_f) / sum_f max(z_f, p_f), for z and p that are nowhere negative. Since
min + max = z + p, only the minima over a row's own entries are needed:
    sum max = sum z + sum p - sum min.
An entry that a row holds several times counts as its sum t.

PyTorch: the work is linear in the stored entries; every one of an entry's slots v adds its part
min(t, p) * v / t. The sums t come from a small table that serves a block of rows at a time and of
which only touched cells are cleared again.

Triton: the slots are sorted by row and latent, which brings equal ones together, and one program a
row sums the runs by a scan. No atomics, so the order of every sum is fixed.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .dispatch import Block, Pointer, constexpr, jit, launch, tl, uses_triton

# The table of sums: 8 MB of float64, which stays in a CPU's cache.
_TABLE_CELLS = 1 << 20
_SLOTS_AT_ONCE = 1024


@jit
def _join_runs(starts1: Block, sum1: Block, starts2: Block, sum2: Block) -> tuple[Block, Block]:
    """Join two neighboring stretches: the sum of the run that is open at the end of the second."""
    return starts1 | starts2, tl.where(starts2 != 0, sum2, sum1 + sum2)


@jit
def _jaccard_kernel(
    offsets_ptr: Pointer,  # [N + 1]
    indices_ptr: Pointer,  # [nnz] rising in each row
    values_ptr: Pointer,  # [nnz]
    prototype_ptr: Pointer,  # [F]
    prototype_sum_ptr: Pointer,  # [1], float64
    out_ptr: Pointer,  # [N] (out) float64
    SLOTS: constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    first = tl.load(offsets_ptr + row).to(tl.int64)
    stop = tl.load(offsets_ptr + row + 1).to(tl.int64)
    lanes = tl.arange(0, SLOTS)
    total = tl.load(prototype_sum_ptr)
    minima = total * 0
    open_sum = total * 0
    for start in range(first, stop, SLOTS):
        slots = start + lanes
        inside = slots < stop
        here = tl.load(indices_ptr + slots, mask=inside, other=-1)
        before = tl.load(indices_ptr + slots - 1, mask=inside & (slots > first), other=-1)
        after = tl.load(indices_ptr + slots + 1, mask=slots + 1 < stop, other=-1)
        values = tl.load(values_ptr + slots, mask=inside, other=0.0).to(tl.float64)
        total += tl.sum(values, 0)
        starts = (here != before).to(tl.int32)
        sums = values + tl.where((lanes == 0) & (starts == 0), open_sum, 0.0)
        _, sums = tl.associative_scan((starts, sums), 0, _join_runs)
        open_sum = tl.sum(tl.where(lanes == SLOTS - 1, sums, 0.0), 0)
        ends = inside & (here != after)
        others = tl.load(prototype_ptr + here, mask=ends, other=0.0).to(tl.float64)
        minima += tl.sum(tl.where(ends, tl.minimum(sums, others), 0.0), 0)
    maxima = total - minima
    similarity = minima / tl.where(maxima == 0, 1.0, maxima)
    tl.store(out_ptr + row, tl.where(maxima == 0, 0.0, similarity))


def _launch_jaccard(
    offsets: Tensor, indices: Tensor, values: Tensor, prototype: Tensor
) -> Float[Tensor, "N"]:
    n_rows = len(offsets) - 1
    lengths = offsets.diff()
    rows = torch.arange(n_rows, device=values.device).repeat_interleave(
        lengths, output_size=len(indices)
    )
    order = (rows * len(prototype) + indices).argsort(stable=True)
    out = torch.empty(n_rows, dtype=torch.float64, device=values.device)
    launch(
        _jaccard_kernel,
        (n_rows,),
        offsets_ptr=offsets.contiguous(),
        indices_ptr=indices[order],
        values_ptr=values[order],
        prototype_ptr=prototype.contiguous(),
        prototype_sum_ptr=prototype.double().sum()[None],
        out_ptr=out,
        SLOTS=_SLOTS_AT_ONCE,
        num_warps=4,
    )
    return out


def generalized_jaccard_csr(
    offsets: Int[Tensor, "N_plus_1"],
    indices: Int[Tensor, "nnz"],
    values: Float[Tensor, "nnz"],
    prototype: Float[Tensor, "F"],
) -> Float[Tensor, "N"]:
    """Compare each of N sparse rows with the prototype.

    Args:
        offsets: [N + 1], row n holds the slots offsets[n] to offsets[n + 1].
        indices: [nnz] the latent of each slot, in any order; of equal ones the values are summed.
        values: [nnz] nonnegative activations.
        prototype: [F] nonnegative.

    Returns:
        [N] similarities from 0 to 1, 0 for an empty row against an empty prototype; computed in
        float64 and rounded to the wider dtype of values and prototype. A row with NaN gives NaN.

    Raises:
        ValueError: the offsets do not divide the slots, an index is not a latent, or a value is
            negative.
    """
    _check(offsets, indices, values, prototype)
    dtype = torch.promote_types(values.dtype, prototype.dtype)
    if uses_triton(values):
        return _launch_jaccard(offsets, indices, values, prototype).to(dtype)
    values, prototype = values.double(), prototype.double()
    minima_N = values.new_zeros(len(offsets) - 1)
    sums_N = torch.zeros_like(minima_N)
    rows_at_once = max(1, _TABLE_CELLS // len(prototype))
    table = values.new_zeros(min(rows_at_once, len(minima_N)) * len(prototype))
    for first in range(0, len(minima_N), rows_at_once):
        last = min(first + rows_at_once, len(minima_N))
        slots = slice(int(offsets[first]), int(offsets[last]))
        lengths = offsets[first : last + 1].diff()
        rows = torch.repeat_interleave(torch.arange(len(lengths), device=values.device), lengths)
        sums_N[first:last].index_add_(0, rows, values[slots])
        parts = _parts_of_minima(rows, indices[slots], values[slots], prototype, table)
        minima_N[first:last].index_add_(0, rows, parts)
    maxima_N = sums_N + prototype.sum() - minima_N
    return torch.where(maxima_N == 0, 0, minima_N / maxima_N).to(dtype)


def _parts_of_minima(
    rows: Tensor, indices: Tensor, values: Tensor, prototype_F: Tensor, table: Tensor
) -> Tensor:
    """Each slot's part of min(its entry's sum, prototype); leaves the table zero, as it was."""
    cells = rows * len(prototype_F) + indices
    totals = table.index_add_(0, cells, values)[cells]
    table[cells] = 0
    share = torch.where(totals == 0, 0, values / totals)
    return torch.minimum(totals, prototype_F[indices]) * share


def _check(offsets: Tensor, indices: Tensor, values: Tensor, prototype: Tensor) -> None:
    whole = len(offsets) > 0 and int(offsets[0]) == 0 and int(offsets[-1]) == len(indices)
    if not whole or bool((offsets.diff() < 0).any()):
        raise ValueError(f"offsets must rise from 0 to the {len(indices)} slots")
    if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < len(prototype):
        raise ValueError(
            f"indices run from {int(indices.min())} to {int(indices.max())}, but there are "
            f"{len(prototype)} latents"
        )
    if bool((values < 0).any()) or bool((prototype < 0).any()):
        raise ValueError("values and prototype must not be negative")
