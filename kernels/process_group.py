"""The top k of entries that several processes hold: exact, and no entry is sent.

The bits of a positive float are in the order of the values. So the threshold that the n largest
entries reach is found digit by digit: every process counts the digits of its entries, an
all-reduce sums the counts, and the threshold's next digit is the one at which the sums from above
reach n.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_DIGIT_BITS = 11  # three all-reduces for a float32


class ProcessGroup(NamedTuple):
    """The processes that each hold equally many rows of one batch, in the order of their ranks."""

    rank: int
    """This process's rank, from 0."""
    size: int
    """Number of processes."""
    all_reduce: Callable[[Int[Tensor, "N"]], Int[Tensor, "N"]]
    """Sum of the tensors of all ranks; every rank calls it equally often with equal shapes."""


def distributed_topk_mask(
    values: Float[Tensor, "N"], n_kept: int, group: ProcessGroup
) -> Bool[Tensor, "N"]:
    """Which of this rank's values are among the n_kept largest of all ranks.

    Args:
        values: [N] not negative, this rank's; NaN counts as infinity. N may differ between ranks.
        n_kept: how many to keep over all ranks, at least 1.
        group: the ranks; every one calls this with its own values.

    Returns:
        [N] mask of the kept values; of equal ones those of the lowest rank, then the first, are
        kept. All are kept where there are fewer.
    """
    keys, bits = _keys(values)
    threshold = keys.new_zeros(())
    missing = keys.new_full((), n_kept)
    for shift in reversed(range(0, bits, _DIGIT_BITS)):
        with_prefix = keys[(keys >> shift) >> _DIGIT_BITS == threshold]
        digits = (with_prefix >> shift) & ((1 << _DIGIT_BITS) - 1)
        counts = group.all_reduce(torch.bincount(digits, minlength=1 << _DIGIT_BITS))
        at_least = counts.flip(0).cumsum(0).flip(0)
        # Where all ranks together hold too few, digit 0 is taken each time: the threshold stays 0.
        digit = (at_least >= missing).sum().sub(1).clamp(min=0)
        missing = missing - (at_least[digit] - counts[digit])
        threshold = (threshold << _DIGIT_BITS) | digit
    tied = keys == threshold
    counts = keys.new_zeros(group.size)
    counts[group.rank] = tied.sum()
    before = group.all_reduce(counts)[: group.rank].sum()
    return (keys > threshold) | (tied & (tied.cumsum(0) <= missing - before))


def _keys(values: Float[Tensor, "N"]) -> tuple[Int[Tensor, "N"], int]:
    """Integers in the order of the values, and how many bits they have."""
    values = values.masked_fill(values.isnan(), torch.inf)
    if values.dtype == torch.float64:
        return values.view(torch.int64), 63
    return values.float().view(torch.int32).long(), 31
