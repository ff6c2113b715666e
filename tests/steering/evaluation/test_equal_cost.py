"""Values at one cost by hand, and the front against its definition."""

import numpy as np
import pytest

from sparsteer.sae.common.errors import InputError
from sparsteer.steering.evaluation.equal_cost import at_cost, front

COSTS = [1.0, 1.04, 1.12, 1.5]
VALUES_SP = np.array([[0.8, 0.4], [0.6, 0.4], [0.2, 0.3], [0.1, 0.0]])


def test_between_two_strengths_values_are_linear_in_the_cost():
    assert at_cost(COSTS, VALUES_SP, 1.1) == pytest.approx([0.3, 0.325])
    for cost, values in zip(COSTS, VALUES_SP, strict=True):
        assert at_cost(COSTS, VALUES_SP, cost) == pytest.approx(values)


def test_a_line_through_all_strengths_is_found_whatever_they_are():
    costs = np.cumsum(np.random.default_rng(0).random(6)) - 0.1
    slopes = np.array([[-0.2, 0.1, 0.0]])
    values = 1 + costs[:, None] * slopes
    assert at_cost(list(costs), values, 1.3) == pytest.approx((1 + 1.3 * slopes)[0])


def test_a_cost_that_falls_again_is_taken_where_it_is_reached_first():
    found = at_cost([0.0, 2.0, 0.5, 3.0], np.array([[1.0], [0.0], [0.9], [0.2]]), 1.0)
    assert found == pytest.approx([0.5])


def test_costs_out_of_reach_are_named():
    with pytest.raises(InputError, match=r"largest cost is 1\.5, and 2 is not reached"):
        at_cost(COSTS, VALUES_SP, 2.0)
    with pytest.raises(InputError, match="begin with the unsteered model"):
        at_cost(COSTS, VALUES_SP, 0.9)
    with pytest.raises(InputError, match="no finite number"):
        at_cost([1.0, float("inf")], VALUES_SP[:2], 1.1)
    with pytest.raises(InputError, match="3 costs do not fit"):
        at_cost(COSTS[:3], VALUES_SP, 1.1)


def test_the_front_is_what_nothing_beats():
    generator = np.random.default_rng(0)
    costs, values = generator.integers(6, size=(2, 25)).astype(float)
    found = front(list(costs), list(values))
    assert [costs[n] for n in found] == sorted(costs[n] for n in found)
    for point in range(25):
        beaten = any(
            costs[other] <= costs[point]
            and values[other] <= values[point]
            and (costs[other], values[other]) != (costs[point], values[point])
            for other in range(25)
        )
        same = any(
            (costs[point], values[point]) == (costs[other], values[other]) for other in found
        )
        assert same != beaten
    assert front([], []) == []
    with pytest.raises(InputError, match="equally many finite"):
        front([1.0], [float("nan")])
