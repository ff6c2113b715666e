"""A search on a lattice by coordinate descent: the least of a function that is dear to evaluate."""

import math
from collections.abc import Callable, Sequence

Place = tuple[int, ...]
"""Whole coordinates on the lattice."""


def descend(
    measure: Callable[[Place], float], start: Place, steps: Sequence[Place], *, most: int
) -> dict[Place, float]:
    """Evaluate places from the start on until no step leads lower.

    Each step is tried forwards and backwards, and taken again as long as it leads lower; then all
    are tried again, so that the place with the least value is the least among its neighbors.

    Args:
        measure: the value of a place, infinite where there is none; asked once for each.
        start: where the search begins.
        steps: what is added to a place, or taken from it.
        most: places after which the search ends as it is.

    Returns:
        The value of each place that was evaluated, in that order.
    """
    found: dict[Place, float] = {}

    def value(place: Place) -> float:
        if place not in found and len(found) < most:
            found[place] = measure(place)
        return found.get(place, math.inf)

    best, moved = start, True
    value(best)
    while moved:
        moved = False
        for step in steps:
            for sign in (1, -1):
                before = best
                while value(there := _plus(best, step, sign)) < found[best]:
                    best, moved = there, True
                if best != before:
                    break  # where it came from was worse
    return found


def _plus(place: Place, step: Place, sign: int) -> Place:
    return tuple(a + sign * b for a, b in zip(place, step, strict=True))
