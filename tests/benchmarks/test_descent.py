"""The search of the defaults' benchmark, on functions whose least place is known."""

import math
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
STEPS = ((0, 1), (1, 1))


@pytest.fixture
def descend(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))  # pyright: ignore[reportUnknownMemberType] - untyped
    return import_module("descent").descend


def bowl(place: tuple[int, int]) -> float:
    a, b = place
    return (a - 3) ** 2 + 0.5 * (b + 2 - 0.8 * (a - 3)) ** 2


@pytest.mark.parametrize("start", [(0, 0), (3, -2), (9, 7), (-5, 2)])
def test_the_least_place_is_found_from_anywhere(descend: Any, start: tuple[int, int]) -> None:
    found = descend(bowl, start, STEPS, most=1000)
    assert min(found, key=found.get) == (3, -2)
    assert next(iter(found)) == start


def test_no_place_is_measured_twice_nor_more_than_allowed(descend: Any) -> None:
    asked: list[tuple[int, int]] = []

    def measure(place: tuple[int, int]) -> float:
        asked.append(place)
        return bowl(place)

    found = descend(measure, (-20, 20), STEPS, most=7)
    assert len(asked) == len(set(asked)) == 7
    assert set(found) == set(asked)


def test_places_that_do_not_exist_are_walls(descend: Any) -> None:
    def walled(place: tuple[int, int]) -> float:
        return bowl(place) if place[0] <= 1 else math.inf

    found = descend(walled, (0, 0), STEPS, most=100)
    best = min(found, key=found.get)
    assert best[0] <= 1
    assert all(walled(best) <= walled((best[0], best[1] + d)) for d in (-1, 1))
