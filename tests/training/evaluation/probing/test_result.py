"""Means of probes over tasks and seeds, their intervals, and differences of pairs."""

import json
from collections.abc import Callable

import numpy as np
import pytest

from sparsteer.training.evaluation.probing.result import (
    Arm,
    ProbeScore,
    arm_figures,
    bootstrap,
    differences,
)


def scores_of(
    arm: Arm, accuracy: Callable[[int, int], float], *, k: int | None = 1, tasks: int = 6
) -> list[ProbeScore]:
    """Of so many tasks and two seeds."""
    return [
        ProbeScore(f"task {task}", arm, k, seed, accuracy(task, seed), 0.5, ())
        for task in range(tasks)
        for seed in range(2)
    ]


def test_a_mean_lies_in_its_interval_which_tasks_widen() -> None:
    generator = np.random.default_rng(1)
    values = generator.normal(0.7, 0.1, size=(40, 3))
    interval = bootstrap(values)
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low < interval.mean < interval.high
    assert bootstrap(values) == interval
    spread = values + np.linspace(-0.3, 0.3, 40)[:, None]
    assert bootstrap(spread).high - bootstrap(spread).low > 2 * (interval.high - interval.low)


def test_the_interval_is_as_wide_as_the_standard_error_says() -> None:
    values = np.random.default_rng(2).normal(size=(200, 1))
    interval = bootstrap(values)
    error = values.std(ddof=1) / 200**0.5
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_what_does_not_vary_has_no_width() -> None:
    interval = bootstrap(np.full((5, 2), 0.75))
    assert (interval.mean, interval.low, interval.high) == (0.75, 0.75, 0.75)


def test_arms_are_apart() -> None:
    figures = arm_figures(
        [
            *scores_of("latents", lambda task, seed: 0.9),
            *scores_of("latents", lambda task, seed: 0.95, k=2),
            *scores_of("random_latents", lambda task, seed: 0.5),
        ]
    )
    assert [(one.arm, one.k, one.accuracy.mean) for one in figures] == [
        ("latents", 1, 0.9),
        ("latents", 2, pytest.approx(0.95)),
        ("random_latents", 1, 0.5),
    ]


def test_differences_are_of_the_same_task_and_seed() -> None:
    """Tasks differ far more than the two do, which the interval of the difference does not see."""
    one = scores_of("latents", lambda task, seed: 0.5 + 0.05 * task + 0.01 * seed)
    other = scores_of("coordinates", lambda task, seed: 0.4 + 0.05 * task + 0.01 * seed)
    (found,) = differences(one, "latents", other, "coordinates")
    assert (found.arm, found.above, found.k) == ("latents", "coordinates", 1)
    assert found.accuracy.mean == pytest.approx(0.1)
    assert found.accuracy.high - found.accuracy.low < 1e-9
    (own,) = arm_figures(one)
    assert own.accuracy.high - own.accuracy.low > 0.1


def test_one_task_has_an_interval_over_its_seeds() -> None:
    (figures,) = arm_figures(scores_of("dense", lambda task, seed: seed / 2, k=None, tasks=1))
    assert (figures.accuracy.low, figures.accuracy.high) == (0.0, 0.5)
    assert json.dumps(figures.k) == "null"
