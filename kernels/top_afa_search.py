"""How a GPU finds where top-AFA cuts a row: the search that `top_afa_kernels` runs.

A threshold t keeps the mass C(t) = sum of g^2 over g >= t, which falls as t rises. The smallest t
with C(t) <= target^2 is found by bisecting the bits of g with masses in float32, and corrected with
masses in float64; of the next lower value as many copies follow as come nearest.
"""

from .dispatch import Block, Pointer, Scalar, constexpr, jit, tl
from .topk_keys import column_at, row_keys


@jit
def power_of_two(largest: Scalar) -> Scalar:
    """A factor, exact in float32, that brings the value of this key near 1.

    Its square and sums of squares of smaller values then neither overflow nor vanish.
    """
    exponent = tl.minimum(tl.maximum(254 - (largest >> 23), 1), 253)
    return (exponent << 23).to(tl.float32, bitcast=True)


@jit
def squares(keys: Block, scale: Scalar, dtype: constexpr) -> Block:
    """The squares of scale times the values whose bits the keys are."""
    values = (keys.to(tl.float32, bitcast=True) * scale).to(dtype)
    return values * values


@jit
def _survey_of(
    keys: Block, threshold: Scalar, scale: Scalar, dtype: constexpr
) -> tuple[Scalar, Scalar, Scalar, Scalar]:
    """`_survey` of keys in registers."""
    above = keys >= threshold
    # Squares of what is kept, not what is kept of the squares: those would stay in registers, too.
    mass = tl.sum(squares(tl.where(above, keys, 0), scale, dtype), 0)
    count = tl.sum(above.to(tl.int32), 0)
    least = tl.min(tl.where(above, keys, 0x7FFFFFFF), 0)
    below = tl.max(tl.where(above, 0, keys), 0)
    return mass, count, least, below


@jit
def _survey(
    keys: Block,  # all of the row's that matter, looked at if HELD
    pre_ptr: Pointer,  # [F] one row
    norms_ptr: Pointer,  # [F]
    groups_ptr: Pointer,  # [G] one row
    n_positions: Scalar,
    F: Scalar,
    threshold: Scalar,
    scale: Scalar,
    dtype: constexpr,
    HELD: constexpr,
    GROUP: constexpr,
    EMIT: constexpr,
) -> tuple[Scalar, Scalar, Scalar, Scalar]:
    """(mass, count, least, below) of a row: the sum of squares, number and smallest of the keys
    that are at least the threshold, and the largest key below it (0 if there is none)."""
    if HELD:
        mass, count, least, below = _survey_of(keys, threshold, scale, dtype)
    else:
        mass = tl.sum(tl.zeros([EMIT], dtype), 0)
        count = threshold * 0
        least = threshold * 0 + 0x7FFFFFFF
        below = threshold * 0
        for start in range(0, n_positions, EMIT):
            positions = start + tl.arange(0, EMIT)
            inside = positions < n_positions
            columns = column_at(positions, groups_ptr, inside, True, GROUP)
            found = row_keys(pre_ptr, norms_ptr, columns, inside & (columns < F), True, 0)
            more, n, smallest, next_below = _survey_of(found, threshold, scale, dtype)
            mass += more
            count += n
            least = tl.minimum(least, smallest)
            below = tl.maximum(below, next_below)
    return mass, count, least, below


@jit
def cut(
    keys: Block,
    pre_ptr: Pointer,
    norms_ptr: Pointer,
    groups_ptr: Pointer,
    n_positions: Scalar,
    F: Scalar,
    target: Scalar,
    low: Scalar,  # keys between which the threshold lies, the second the row's largest
    largest: Scalar,
    HELD: constexpr,
    GROUP: constexpr,
    EMIT: constexpr,
) -> tuple[Scalar, Scalar, Scalar]:
    """(threshold, ties, count): the row keeps the keys above it and `ties` equal to it."""
    target = target.to(tl.float64)
    square = target * target
    high = largest + 1
    scale = power_of_two(largest)
    scaled_square = square * scale.to(tl.float64) * scale.to(tl.float64)
    # C(t), the mass, is the sum of squares of the keys that are at least t: it falls as t rises.
    # A row with NaN keeps its first NaN; without a finite target no prefix is nearer than another.
    ordinary = (largest < 0x7F800000) & (square < float("inf"))
    low = tl.where(ordinary, low, high)
    # Invariant 1, in float32: C(high) <= target^2, and C(low - 1) > target^2 or low is the lower
    # end of the range. Each turn halves [low, high], so that high ends as the smallest threshold
    # whose mass does not exceed the target's, unless one key at most lies between, which stops it.
    heavy = scale * 0.0 + float("inf")  # C(low - 1)
    light = scale * 0.0  # C(high)
    while low < high:
        middle = low + (high - low) // 2
        mass, _, _, _ = _survey(
            keys,
            pre_ptr,
            norms_ptr,
            groups_ptr,
            n_positions,
            F,
            middle,
            scale,
            tl.float32,
            HELD,
            GROUP,
            EMIT,
        )
        if mass.to(tl.float64) <= scaled_square:
            high = middle
            light = mass
        else:
            low = middle + 1
            heavy = mass
        if heavy - light <= 1.5 * squares(low - 1, scale, tl.float32):
            low = high
    # The float32 sums may have led to a threshold a few keys too low or too high: from here on
    # masses are float64. Until C(t) <= target^2 a turn drops the smallest kept key with its copies;
    # then each takes in the next lower key with its copies, as long as the mass still fits. So
    # mass = C of the last threshold that fits, and the prefix ends among the copies of `below`,
    # which is 0 if no positive key is left.
    below = high
    mass = scale.to(tl.float64) * 0.0
    count = low * 0
    more_count = low * 0
    fits = low * 0
    searching = low * 0 + 1
    while searching > 0:
        found, more_count, least, lower = _survey(
            keys,
            pre_ptr,
            norms_ptr,
            groups_ptr,
            n_positions,
            F,
            below,
            1.0,
            tl.float64,
            HELD,
            GROUP,
            EMIT,
        )
        if (found > square) | ((fits > 0) & (ordinary == 0)):
            if fits > 0:
                searching = searching * 0
            else:
                below = least + 1
        else:
            fits = searching
            mass = found
            count = more_count
            below = lower
            searching = (lower > 0).to(tl.int32)
    one = below.to(tl.float32, bitcast=True).to(tl.float64)
    one *= one
    # The most copies of below that fit; a division would call a subroutine and spill.
    ties = count * 0
    most = tl.where(ordinary & (one > 0), more_count - count, 0)
    while ties < most:
        middle = most - (most - ties) // 2
        if mass + middle.to(tl.float64) * one <= square:
            ties = middle
        else:
            most = middle - 1
    # With a <= target^2 < b: sqrt(b) is nearer than sqrt(a) iff sqrt(a) + sqrt(b) < 2 * target.
    without = mass + ties * one
    with_one = mass + (ties + 1) * one
    rest = 4.0 * square - without - with_one
    nearer = (rest > 0) & (4.0 * without * with_one < rest * rest)
    another = nearer | (count + ties == 0)
    ties = tl.where((below > 0) & another & (count + ties < more_count), ties + 1, ties)
    return below, ties, tl.maximum(count + ties, 1)


@jit
def cut_held(
    pre_ptr: Pointer,
    norms_ptr: Pointer,
    groups_ptr: Pointer,
    n_positions: Scalar,
    F: Scalar,
    target: Scalar,
    low: Scalar,
    largest: Scalar,
    HELD: constexpr,
    GROUP: constexpr,
) -> tuple[Scalar, Scalar, Scalar]:
    """`cut` of at most HELD listed candidates, read once."""
    positions = tl.arange(0, HELD)
    inside = positions < n_positions
    columns = column_at(positions, groups_ptr, inside, True, GROUP)
    keys = row_keys(pre_ptr, norms_ptr, columns, inside & (columns < F), True, 0)
    return cut(
        keys,
        pre_ptr,
        norms_ptr,
        groups_ptr,
        n_positions,
        F,
        target,
        low,
        largest,
        True,
        GROUP,
        HELD,
    )
