"""The strength at which steering has a given dose, from few evaluations.

Doses such as KL, and the logarithm of a perplexity ratio, grow with a power of the strength while
it is small (KL with its square) and more slowly or in jumps beyond. So the secant method is run on
log dose over log strength, kept inside what is known to be too weak and too strong.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...sae.common.errors import InputError
from ...sae.common.validation import require_finite, require_positive, require_positive_integer
from ..errors import NoDose, TooStrong

_LARGEST_STEP = math.log(16)
"""Between two strengths, while nothing is known to be too strong, as a logarithm."""
_EXPONENTS = (0.5, 8.0)
"""Local exponents of dose over strength that a secant is believed; noise gives any."""


@dataclass(frozen=True)
class Evaluation:
    """What one strength came to."""

    strength: float
    dose: float | None
    """None where the model broke: the strength is too large."""


@dataclass(frozen=True)
class Calibration:
    """The strength that was found, and how."""

    strength: float
    """That of the evaluation whose dose is nearest to the target, as a ratio."""
    dose: float
    met: bool
    """Whether the dose is within the tolerance of the target."""
    evaluations: tuple[Evaluation, ...]
    """All of them, in the order in which they were made."""


def calibrate(
    dose: Callable[[float], float],
    target: float,
    *,
    start: float = 1.0,
    largest: float | None = None,
    exponent: float = 2.0,
    tolerance: float = 0.1,
    most: int = 6,
    report: Callable[[Evaluation], None] = lambda evaluation: None,
) -> Calibration:
    """The strength at which a dose is the target.

    It begins at `start`, goes on by the power law with `exponent`, then along the secant through
    the two evaluations whose doses are nearest to the target. Where that leaves the interval that
    is known to be neither too weak nor too strong, its geometric middle is taken. Three to five
    evaluations are usual.

    Args:
        dose: of a strength; never falling as its size grows, but for noise. Where the steered model
            breaks it raises `TooStrong`, or gives NaN or infinity.
        target: above 0.
        start: a first guess, whose sign all strengths have.
        largest: size that no strength exceeds, such as 1 for an edit that leads to a value; where
            the dose at it is too small, that is the answer, unmet. None is no limit.
        exponent: of the dose over the strength where that is small.
        tolerance: a dose from target / (1 + tolerance) to target * (1 + tolerance) is near enough.
        most: evaluations.
        report: told of each evaluation.

    Raises:
        InputError: a setting is out of its range.
        NoDose: no strength that was tried has a dose above 0 without breaking the model.
    """
    for name, value in (("target", target), ("exponent", exponent), ("tolerance", tolerance)):
        require_positive(name, value)
    require_positive_integer("most", most)
    require_finite("start", start)
    if start == 0:
        raise InputError("start is 0, but must be a strength; give 1", field="start")
    if largest is not None:
        require_positive("largest", largest)
    made: list[Evaluation] = []
    log_largest = math.inf if largest is None else math.log(largest)
    log_strength = min(math.log(abs(start)), log_largest)
    while True:
        strength = math.exp(log_strength)
        strength = math.copysign(strength if largest is None else min(strength, largest), start)
        made.append(Evaluation(strength, _measured(dose, strength)))
        report(made[-1])
        found = made[-1].dose
        if found and abs(math.log(found / target)) <= math.log1p(tolerance):
            break
        is_too_weak = found is not None and found <= target
        if len(made) == most or (is_too_weak and log_strength == log_largest):
            break
        log_strength = min(_next(made, target, exponent), log_largest)
    return _best(made, target, tolerance)


def _measured(dose: Callable[[float], float], strength: float) -> float | None:
    try:
        found = float(dose(strength))
    except TooStrong:
        return None
    return found if math.isfinite(found) else None


def _best(made: Sequence[Evaluation], target: float, tolerance: float) -> Calibration:
    usable = [(each.strength, each.dose) for each in made if each.dose]
    if not usable:
        tried = ", ".join(f"{each.strength:g}" for each in made)
        why = "broke the model" if any(each.dose is None for each in made) else "changed nothing"
        raise NoDose(
            f"no strength of {tried} has a dose to go by, for each {why}; give another start, or "
            "check that the gate ever opens"
        )
    strength, found = min(usable, key=lambda each: abs(math.log(each[1] / target)))
    met = abs(math.log(found / target)) <= math.log1p(tolerance)
    return Calibration(strength, found, met, tuple(made))


def _next(made: Sequence[Evaluation], target: float, exponent: float) -> float:
    """The logarithm of the next strength's size."""
    weak, strong = _bounds(made, target)
    points = sorted(
        (
            (math.log(abs(each.strength)), math.log(each.dose / target))
            for each in made
            if each.dose
        ),
        key=lambda point: abs(point[1]),
    )
    guess = None
    if points:
        slope = exponent
        if len(points) > 1:
            run = points[0][0] - points[1][0]
            slope = (points[0][1] - points[1][1]) / run if run else exponent
            slope = min(max(slope, _EXPONENTS[0]), _EXPONENTS[1])
        guess = points[0][0] - points[0][1] / slope
    if weak is None or strong is None:
        edge = weak if strong is None else strong
        assert edge is not None  # something has been evaluated
        furthest = edge + (_LARGEST_STEP if strong is None else -_LARGEST_STEP)
        low, high = min(edge, furthest), max(edge, furthest)
        if guess is None or not low < guess < high:
            return (edge + furthest) / 2 if guess is None else furthest
        return guess
    if guess is None or not weak < guess < strong:
        return (weak + strong) / 2
    return guess


def _bounds(made: Sequence[Evaluation], target: float) -> tuple[float | None, float | None]:
    """Logarithms of the largest size known to be too weak and the smallest known to be too strong;
    noise can turn them around, and then what is too strong is believed."""
    above = [math.log(abs(one.strength)) for one in made if one.dose is None or one.dose > target]
    strong = min(above, default=None)
    below = [
        math.log(abs(one.strength)) for one in made if one.dose is not None and one.dose <= target
    ]
    below = [size for size in below if strong is None or size < strong]
    return max(below, default=None), strong
