"""A row's work of top-k on a CPU, compiled: a threshold by bisection, then what reaches it.

The bits of positive floats order them as integers. A turn of the bisection counts how many of a row
reach the middle; it ends once k do, or a few more.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from .compiled import compiled
from .marked import list_marked, marks_for

Keys = npt.NDArray[np.signedinteger]
Values = npt.NDArray[np.floating]
Indices = npt.NDArray[np.int64]
Integer = Any  # Python's, or one of NumPy's

_FEW = 8  # beyond k, which then leave one by one


@compiled
def keep_largest(
    start: int,
    stop: int,
    values_BF: Values,
    bits_BF: Keys,  # of the same
    infinity: Integer,  # its bits
    indices_BK: Indices,  # (out)
    values_BK: Values,  # (out)
) -> None:
    """The k largest positive entries of each row, of equal ones the first; NaN is the largest."""
    n_latents, k = values_BF.shape[1], indices_BK.shape[1]
    keys_F = np.empty(n_latents, bits_BF.dtype)
    marks_F = marks_for(n_latents)
    found_N = np.empty(k + _FEW, np.int64)
    for b in range(start, stop):
        top = _keys(bits_BF[b], infinity, keys_F)
        least, n = _threshold(keys_F, k, top)
        if n <= len(found_N):
            _mark(keys_F, least, marks_F)
            n = list_marked(marks_F, found_N)
            while n > k:
                n = _without_smallest(keys_F, found_N[:n])
        else:  # many tie at the threshold
            n = _above_and_first_ties(keys_F, least, found_N[:k])
        for slot in range(k):
            if slot < n:
                indices_BK[b, slot] = found_N[slot]
                values_BK[b, slot] = values_BF[b, found_N[slot]]
            else:
                indices_BK[b, slot] = 0
                values_BK[b, slot] = 0


@compiled
def _keys(bits_F: Keys, infinity: Integer, keys_F: Keys) -> Integer:
    """Integers in the order of the values: 0 of those that are not positive, NaN above all. Gives
    a number that none exceeds."""
    bits_of_any = keys_F.dtype.type(0)
    for f in range(len(bits_F)):
        size = bits_F[f] & np.iinfo(keys_F.dtype).max
        keys_F[f] = size if bits_F[f] > 0 or size > infinity else 0
        bits_of_any |= keys_F[f]
    return bits_of_any


@compiled
def _threshold(keys_F: Keys, k: int, top: Integer) -> tuple[Integer, Integer]:
    """A positive key that k entries reach, or all positive ones if they are fewer, and how many
    reach it: at most a few more than k, unless the next key is reached by fewer than k."""
    one = keys_F.dtype.type(1)
    low, high = one, top
    reached = _reaching(keys_F, low)
    if reached <= k:
        return low, reached
    # k or more reach low, fewer than k reach high + 1.
    while low < high and reached > k + _FEW:
        middle = keys_F.dtype.type(low + (high - low + one) // 2)
        more = _reaching(keys_F, middle)
        if more >= k:
            low, reached = middle, more
        else:
            high = keys_F.dtype.type(middle - one)
    return low, reached


@compiled
def _reaching(keys_F: Keys, least: Integer) -> Integer:
    count = np.int32(0)
    for f in range(len(keys_F)):
        count += np.int32(keys_F[f] >= least)
    return count


@compiled
def _mark(keys_F: Keys, least: Integer, marks_F: npt.NDArray[np.bool_]) -> None:
    for f in range(len(keys_F)):
        marks_F[f] = keys_F[f] >= least


@compiled
def _without_smallest(keys_F: Keys, found_N: Indices) -> int:
    """Take out the smallest, of equal ones the last; gives how many are left."""
    smallest = 0
    for n in range(1, len(found_N)):
        if keys_F[found_N[n]] <= keys_F[found_N[smallest]]:
            smallest = n
    for n in range(smallest, len(found_N) - 1):
        found_N[n] = found_N[n + 1]
    return len(found_N) - 1


@compiled
def _above_and_first_ties(keys_F: Keys, least: Integer, found_K: Indices) -> int:
    """All above the threshold, fewer than k, and of those equal to it the first."""
    ties = len(found_K)
    for f in range(len(keys_F)):
        ties -= np.int64(keys_F[f] > least)
    n = 0
    for f in range(len(keys_F)):
        tied = keys_F[f] == least and ties > 0
        if keys_F[f] > least or tied:
            found_K[n] = f
            n += 1
            ties -= np.int64(tied)
    return n
