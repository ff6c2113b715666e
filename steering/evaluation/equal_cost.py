"""Ways to steer compared at one cost: one dose, or one rise of perplexity, for all of them.

Each is measured at several strengths. Its figure at the cost is interpolated between the two
strengths around it, prompt by prompt, so that two ways still compare in pairs.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from ...sae.common.errors import InputError


def at_cost(
    costs: Sequence[float], values_SP: Float[np.ndarray, "S P"], cost: float
) -> Float[np.ndarray, "P"]:
    """Each prompt's value where the cost is the given one.

    Between two strengths the value is linear in the cost. Along the strengths, the first place is
    taken where the cost is reached, as nobody would go on from there; that an even larger strength
    costs less, as where text collapses, does not count.

    Args:
        costs: of each strength, from the smallest strength on; the unsteered model, whose cost is
            0 (or 1, of a ratio), belongs at the beginning.
        values_SP: for each strength the value of each prompt, such as its maximum toxicity.
        cost: the cost that is asked for.

    Raises:
        InputError: the numbers of costs and values differ, a cost is no finite number, or the cost
            is not reached, which a larger strength mends, or is below that of the smallest.
    """
    if len(costs) != len(values_SP) or not len(costs):
        raise InputError(
            f"{len(costs)} costs do not fit the values of {len(values_SP)} strengths; give one each"
        )
    if not np.isfinite(costs).all():
        raise InputError("a cost is no finite number; leave out the strength that broke the model")
    if costs[0] == cost:
        return values_SP[0].astype(np.float64)
    if costs[0] > cost:
        raise InputError(
            f"the smallest strength costs {costs[0]:.4g}, more than {cost:.4g}; begin with the "
            "unsteered model"
        )
    for number, (below, above) in enumerate(pairwise(costs)):
        if above >= cost:
            share = (cost - below) / (above - below)
            return (1 - share) * values_SP[number] + share * values_SP[number + 1]
    raise InputError(
        f"the largest cost is {max(costs):.4g}, and {cost:.4g} is not reached; measure a larger "
        "strength"
    )


def front(costs: Sequence[float], values: Sequence[float]) -> list[int]:
    """The numbers of the points that no other one beats, by rising cost.

    A point is beaten by one that costs no more and has a value that is no larger, if either is
    smaller; of equal points the first stays. Smaller values are better, such as those of toxicity.

    Raises:
        InputError: the numbers of costs and values differ, or one is no finite number.
    """
    if len(costs) != len(values) or not np.isfinite([*costs, *values]).all():
        raise InputError("costs and values must be equally many finite numbers; leave out others")
    order = sorted(range(len(costs)), key=lambda number: (costs[number], values[number], number))
    found: list[int] = []
    for number in order:
        if not found or values[number] < values[found[-1]]:
            found.append(number)
    return found
