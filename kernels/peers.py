"""A choice among the entries of several processes, exact and without sending any entry.

The bits of a positive float are in the order of the values. So the bar that the n largest entries
reach is found digit by digit: every process counts the digits of its entries, the counts are
summed, and the next digit of the bar is the one at which the sums from above reach n.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_DIGIT_BITS = 11  # three sums for a float32


class Peers(NamedTuple):
    """The processes that hold equally many rows of one batch, in the order of the rows."""

    rank: int
    """Which of them this is, from 0."""
    size: int
    """How many there are."""
    total: Callable[[Int[Tensor, "N"]], Int[Tensor, "N"]]
    """The sum of all processes' tensors; all call it equally often with equal shapes."""


def among_largest(values: Float[Tensor, "N"], n_kept: int, peers: Peers) -> Bool[Tensor, "N"]:
    """Which of these values are among the n_kept largest of all processes.

    Args:
        values: [N] positive, in an order of which the peers' ranks are the first key; NaN counts as
            infinity.
        n_kept: how many to keep of all together, at least 1.
        peers: where the others are; each calls this with its own values.

    Returns:
        [N] mask of the kept ones; of equal values the first are kept. All where there are fewer.
    """
    keys, bits = _keys(values)
    bar = keys.new_zeros(())
    missing = keys.new_full((), n_kept)
    for shift in reversed(range(0, bits, _DIGIT_BITS)):
        with_bar = keys[(keys >> shift) >> _DIGIT_BITS == bar]
        digits = (with_bar >> shift) & ((1 << _DIGIT_BITS) - 1)
        counts = peers.total(torch.bincount(digits, minlength=1 << _DIGIT_BITS))
        at_least = counts.flip(0).cumsum(0).flip(0)
        # Where all together are too few, digit 0 is taken every time, and the bar stays 0.
        digit = (at_least >= missing).sum().sub(1).clamp(min=0)
        missing = missing - (at_least[digit] - counts[digit])
        bar = (bar << _DIGIT_BITS) | digit
    tied = keys == bar
    counts = keys.new_zeros(peers.size)
    counts[peers.rank] = tied.sum()
    before = peers.total(counts)[: peers.rank].sum()
    return (keys > bar) | (tied & (tied.cumsum(0) <= missing - before))


def _keys(values: Float[Tensor, "N"]) -> tuple[Int[Tensor, "N"], int]:
    """Integers in the order of the values, and how many bits they have."""
    values = values.masked_fill(values.isnan(), torch.inf)
    if values.dtype == torch.float64:
        return values.view(torch.int64), 63
    return values.float().view(torch.int32).long(), 31
