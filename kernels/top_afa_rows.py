"""A row's work of top-AFA on a CPU, compiled: where its prefix ends, and which latents it has.

With g = relu(pre) * decoder norm, a threshold t keeps the latents with g >= t; their sum of squares
falls as t rises. A threshold whose sum just exceeds the target's square is found by bisection with
sums in float32, checked in float64, and only the latents that reach it are put in order.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from .compiled import compiled
from .marked import list_marked, marks_for

Matrix = Vector = npt.NDArray[np.floating]
Doubles = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Number = Any  # of the rows' dtype, or an integer

_MOST_TURNS = 60
_FEW = 12  # latents more than needed cost less to sort than another turn
_MAXIMA = 256  # taken side by side
_MARGIN = 1.001  # of sums in float32, beyond which they are not trusted


@compiled
def find_thresholds(
    start: int,
    stop: int,
    pre_BF: Matrix,
    norms_F: Vector,
    target_B: Doubles,
    least_B: Vector,  # (out) the threshold
    widths_B: Indices,  # (out) how many positive g reach it; 1 of a row of NaN
) -> None:
    """For rows `start` to `stop` a threshold low enough that all of the kept prefix reaches it and,
    where there is one, the next latent too."""
    scaled_F = np.empty(pre_BF.shape[1], pre_BF.dtype)
    guess = pre_BF.dtype.type(0)
    for b in range(start, stop):
        largest = _scale(pre_BF[b], norms_F, scaled_F)
        least_B[b], widths_B[b] = 0, 1
        if not largest < np.inf:
            continue
        square = target_B[b] * target_B[b]
        if not square < np.inf:  # no prefix is nearer than another, and the first is kept
            least_B[b] = largest
            widths_B[b] = max(1, _exact_mass(scaled_F, largest)[1])
            continue
        guess = _bisect(scaled_F, largest, square, guess)
        mass, count = _exact_mass(scaled_F, guess)
        if not mass > square:
            guess = pre_BF.dtype.type(0)
            mass, count = _exact_mass(scaled_F, guess)
        least_B[b], widths_B[b] = guess, max(1, count)


@compiled
def _scale(pre_F: Vector, norms_F: Vector, scaled_F: Vector) -> Number:
    """scaled = relu(pre) * norms; gives the largest, infinity if one is not finite."""
    zero = scaled_F.dtype.type(0)
    nothing = zero
    for f in range(len(pre_F)):
        scaled_F[f] = (zero if pre_F[f] <= 0 else pre_F[f]) * norms_F[f]
        nothing += scaled_F[f] * zero  # NaN of NaN and infinity
    if nothing != 0:
        return scaled_F.dtype.type(np.inf)
    maxima_N = np.zeros(min(_MAXIMA, len(scaled_F)), scaled_F.dtype)
    for begin in range(0, len(scaled_F), _MAXIMA):
        _raise(scaled_F[begin : begin + _MAXIMA], maxima_N)
    return maxima_N.max()


@compiled
def _raise(values_N: Vector, maxima_N: Vector) -> None:
    """Each maximum with one more value."""
    for n in range(len(values_N)):
        maxima_N[n] = values_N[n] if values_N[n] > maxima_N[n] else maxima_N[n]


@compiled
def _bisect(scaled_F: Vector, largest: Number, square: float, guess: Number) -> Number:
    """A threshold whose sum of squares exceeds `square`, and few latents above the largest such;
    0 if there is none. The search begins at `guess`."""
    if largest <= 0:
        return scaled_F.dtype.type(0)
    factor = scaled_F.dtype.type(1 / largest)  # squares then neither overflow nor vanish
    needed = square * (factor * np.float64(factor)) * _MARGIN
    low, high = scaled_F.dtype.type(0), largest
    below, above = len(scaled_F), 0
    middle = guess if low < guess < high else scaled_F.dtype.type(0.5) * largest
    step = scaled_F.dtype.type(0.9)
    for _ in range(_MOST_TURNS):
        if not low < middle < high or below - above <= _FEW:
            break
        mass, count = _mass(scaled_F, middle, factor)
        if mass > needed:
            low, below = middle, count
        else:
            high, above = middle, count
        if low == 0:
            middle = middle * step
            step *= step
        elif high == largest:
            middle = middle / step
            step *= step
        if low > 0 and (high < largest or not middle < high):
            middle = scaled_F.dtype.type(0.5) * (low + high)
    return low


@compiled
def _mass(scaled_F: Vector, least: Number, factor: Number) -> tuple[Number, Number]:
    """The sum of squares of factor * g over g >= least, and their number."""
    mass = scaled_F.dtype.type(0)
    count = np.int32(0)
    for f in range(len(scaled_F)):
        kept = scaled_F[f] if scaled_F[f] >= least else scaled_F.dtype.type(0)
        mass += (kept * factor) * (kept * factor)
        count += np.int32(scaled_F[f] >= least)
    return mass, count


@compiled
def _exact_mass(scaled_F: Vector, least: Number) -> tuple[Number, Number]:
    """The sum of squares of positive g >= least in float64, and their number."""
    mass = 0.0
    count = 0
    for f in range(len(scaled_F)):
        kept = np.float64(scaled_F[f]) if scaled_F[f] >= least else 0.0
        mass += kept * kept
        count += np.int64(kept > 0)
    return mass, count


@compiled
def keep_prefixes(
    start: int,
    stop: int,
    pre_BF: Matrix,
    norms_F: Vector,
    target_B: Doubles,
    least_B: Vector,
    indices_BM: Indices,  # (out) as wide as the widest row of `find_thresholds`
    values_BM: Matrix,  # (out)
    counts_B: Indices,  # (out)
) -> None:
    """The nearest prefix of each row, in descending order of g, of equal ones by index."""
    zero = pre_BF.dtype.type(0)
    n_latents = len(norms_F)
    scaled_F = np.empty(n_latents, pre_BF.dtype)
    marks_F = marks_for(n_latents)
    for b in range(start, stop):
        indices_BM[b] = 0
        values_BM[b] = 0
        counts_B[b] = 1
        if not _scale(pre_BF[b], norms_F, scaled_F) < np.inf:
            for f in range(n_latents):
                value = max(pre_BF[b, f], zero) * norms_F[f]
                if not value < np.inf:
                    indices_BM[b, 0] = f
                    values_BM[b, 0] = pre_BF[b, f]
                    break
            continue
        _mark_kept(scaled_F, least_B[b], marks_F)
        n = min(list_marked(marks_F, indices_BM[b]), indices_BM.shape[1])
        if n == 0:  # every norm is 0 where something is positive
            values_BM[b, 0] = max(pre_BF[b, 0], zero)
        order = np.argsort(-scaled_F[indices_BM[b, :n]], kind="mergesort")
        candidates = indices_BM[b, :n][order]
        mass, nearest = 0.0, np.inf
        for m in range(n):
            value = np.float64(scaled_F[candidates[m]])
            mass += value * value
            distance = abs(np.sqrt(mass) - target_B[b])
            if distance < nearest:
                nearest, counts_B[b] = distance, m + 1
        indices_BM[b] = 0
        for m in range(min(n, counts_B[b])):
            indices_BM[b, m] = candidates[m]
            values_BM[b, m] = pre_BF[b, candidates[m]]


@compiled
def _mark_kept(scaled_F: Vector, least: Number, marks_F: npt.NDArray[np.bool_]) -> None:
    for f in range(len(scaled_F)):
        marks_F[f] = (scaled_F[f] >= least) & (scaled_F[f] > 0)
