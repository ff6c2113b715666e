"""The rows' work of `screening`, compiled: which latents can be among the largest, and which are.

Products arrive in bfloat16, as the upper half of float32's bits. Latents are looked at in groups:
group g of n is the latents g, g + n, g + 2n, ..., so that neighbors in memory are of neighboring
groups, and the maxima of all groups are taken together.
"""

import numpy as np
import numpy.typing as npt

from ..compiled import compiled
from ..gathered_rows import gathered_row_dots
from ..marked import list_marked, marks_for

Matrix = Vector = npt.NDArray[np.float32]
Bits = npt.NDArray[np.uint16]
Indices = npt.NDArray[np.int64]

RESULT_ROUNDING = 2.0**-8
"""Of a product given in bfloat16, relative."""

_LARGER, _NEARER = np.float32(1 + RESULT_ROUNDING), np.float32(1 - RESULT_ROUNDING)
_BIAS_ROUNDING = np.float32(2.0**-18)  # of sums with a bias, relative
_MOST_OF_A_GROUP, _GROUPS_OF_KEPT = 16, 8
# Beyond it float32 sums may overflow, and a bound is then not a number.
_LARGEST_BOUND = np.float32(1e30)
# Squares of entries below 1e-19 vanish from a norm in float32, and products below 1e-38 from a sum.
_UNDERFLOW = np.float32(1e-15)


@compiled
def round_rows(
    start: int,
    stop: int,
    rows_ND: Matrix,
    rounded_ND: Bits,  # (out)
    norms_N: Vector,  # (out) which neither the rows nor the rounded ones exceed
    errors_N: Vector,  # (out) norms of the differences
) -> None:
    """Rows in bfloat16, to nearest even."""
    for n in range(start, stop):
        squares = np.float32(0)
        errors = np.float32(0)
        for d in range(rows_ND.shape[1]):
            value = rows_ND[n, d]
            bits = np.float32(value).view(np.uint32)
            odd = np.uint32((bits >> np.uint32(16)) & np.uint32(1))
            upper = np.uint32(np.uint32(bits + np.uint32(0x7FFF) + odd) >> np.uint32(16))
            rounded_ND[n, d] = upper
            difference = np.uint32(upper << np.uint32(16)).view(np.float32) - value
            squares += value * value
            errors += difference * difference
        errors_N[n] = np.sqrt(errors) + _UNDERFLOW
        norms_N[n] = np.sqrt(squares) + errors_N[n]


@compiled
def bounds(bits: np.uint16, bias: np.float32, doubt: np.float32) -> tuple[np.float32, np.float32]:
    """The lower and the upper bound of a pre-activation, from the bits of its bfloat16 product, its
    bias, and by how much the rounding of row and weights may have changed the product."""
    product = np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)
    # A positive product may be larger by its rounding, a negative one nearer to 0.
    one, other = product * _LARGER, product * _NEARER
    upper = one if one > other else other
    lower = other if one > other else one
    doubt += abs(bias) * _BIAS_ROUNDING
    return lower + bias - doubt, upper + bias + doubt


@compiled
def best_candidates(
    start: int,
    stop: int,
    first: int,  # of the block among all rows
    products_bF: Bits,  # of a block of rows
    centered_BD: Matrix,
    weights_FD: Matrix,
    bias_F: Vector,
    norms_F: Vector,  # of the weights
    errors_F: Vector,
    norms_B: Vector,
    errors_B: Vector,  # including what rounding may change in dot products
    largest: float,  # the largest of norms_F and the largest size of a bias, added
    most: int,  # candidates of a row
    indices_BK: Indices,  # (out)
    values_BK: Matrix,  # (out)
    verified_B: npt.NDArray[np.bool_],  # (out)
) -> None:
    """Codes of a block's rows `start` to `stop`, see `screening.screened_topk`."""
    n_latents = products_bF.shape[1]
    k = indices_BK.shape[1]
    # Groups enough that few hold two of the largest.
    n_groups = -(-n_latents // max(1, min(_MOST_OF_A_GROUP, n_latents // (_GROUPS_OF_KEPT * k))))
    lower_G = np.empty(n_groups, np.float32)
    reaches_F = marks_for(n_latents)
    candidates_M = np.empty(most, np.int64)
    found_M = np.empty(most, np.float32)
    for row in range(start, stop):
        b = first + row
        verified_B[b] = False
        norm, error = norms_B[b], errors_B[b]
        if not (norm + 1) * largest < _LARGEST_BOUND:
            continue
        products_F = products_bF[row]
        lower_G[:] = -np.inf
        for begin in range(0, n_latents, n_groups):
            part = slice(begin, min(begin + n_groups, n_latents))
            _raise_lower(
                products_F[part], bias_F[part], norms_F[part], errors_F[part], norm, error, lower_G
            )
        # At least k latents are certainly as large as `least`, or it is 0 and only they are kept.
        least = _reached_by(lower_G, k)
        _mark_reaching(products_F, bias_F, norms_F, errors_F, norm, error, least, reaches_F)
        n = list_marked(reaches_F, candidates_M)
        if n <= most:
            gathered_row_dots(candidates_M[:n], centered_BD[b], weights_FD, found_M[:n])
            for m in range(n):
                found_M[m] += bias_F[candidates_M[m]]
            _keep_largest(candidates_M[:n], found_M[:n], indices_BK[b], values_BK[b])
            verified_B[b] = True


# In these two nothing but the loop over neighbors, so that the compiler takes several at once.
@compiled
def _raise_lower(
    products_G: Bits,
    bias_G: Vector,
    norms_G: Vector,
    errors_G: Vector,
    norm: np.float32,
    error: np.float32,
    lower_G: Vector,  # (in and out)
) -> None:
    """Each group's largest lower bound, with those of one more latent of each."""
    for g in range(len(products_G)):
        doubt = error * norms_G[g] + norm * errors_G[g]
        lower = bounds(products_G[g], bias_G[g], doubt)[0]
        lower_G[g] = lower if lower > lower_G[g] else lower_G[g]


@compiled
def _mark_reaching(
    products_F: Bits,
    bias_F: Vector,
    norms_F: Vector,
    errors_F: Vector,
    norm: np.float32,
    error: np.float32,
    least: np.float32,
    reaches_F: npt.NDArray[np.bool_],  # (out)
) -> None:
    """Whether the upper bound of each latent is at least `least`."""
    for f in range(len(products_F)):
        doubt = error * norms_F[f] + norm * errors_F[f]
        reaches_F[f] = bounds(products_F[f], bias_F[f], doubt)[1] >= least


@compiled
def _reached_by(values_G: Vector, k: int) -> np.float32:
    """A value that k or a few more of these reach; 0 where fewer are positive."""
    bits_G = values_G.view(np.int32)  # in the order of the positive values
    low = high = np.int32(0)
    count = 0
    for g in range(len(bits_G)):
        high = bits_G[g] if bits_G[g] > high else high
        count += np.int32(bits_G[g] > low)
    if count >= k:
        # k or more reach low + 1, fewer than k reach high + 1.
        while count > k + 1 and low + 1 < high:
            middle = np.int32(low + (high - low) // 2)
            reached = 0
            for g in range(len(bits_G)):
                reached += np.int32(bits_G[g] >= middle)
            if reached >= k:
                low, count = middle, reached
            else:
                high = middle
    return np.int32(low).view(np.float32)


@compiled
def _keep_largest(
    candidates_M: Indices,
    found_M: Vector,
    indices_K: Indices,  # (out)
    values_K: Vector,  # (out)
) -> None:
    """The largest positive values, of equal ones those of the lowest latents, largest first."""
    k = len(indices_K)
    n = 0
    for m in range(len(candidates_M)):
        f, value = candidates_M[m], found_M[m]
        if value <= 0:
            continue
        if n == k:
            last = values_K[k - 1]
            if value < last or (value == last and f > indices_K[k - 1]):
                continue
            n -= 1
        place = n
        while place > 0 and (
            values_K[place - 1] < value
            or (values_K[place - 1] == value and indices_K[place - 1] > f)
        ):
            values_K[place] = values_K[place - 1]
            indices_K[place] = indices_K[place - 1]
            place -= 1
        values_K[place] = value
        indices_K[place] = f
        n += 1
    values_K[n:] = 0
    indices_K[n:] = 0
