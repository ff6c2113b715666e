"""Ways to steer at one cost, in two senses: as their strengths were chosen, and as it was measured.

Strengths are chosen on other prompts than those that are reported, so that the cost on the latter
differs from what was asked for. So beside the rows as they are stands what each way comes to where
its measured cost is the same for all: between its strengths, from the unsteered model on. A
clamp's strength is a level, and a level of 0 is no unsteered model but an ablation; so a clamp is
followed from the smallest of its strengths on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from ..evaluation.equal_cost import at_cost
from .arm import Cost
from .rows import StudyRow

How = Literal["chosen", "measured"]
"""Whether the cost is the one that strengths were chosen for, or the one that was measured."""

_LEAST_SHARE = 0.7

NEARLY = 1.1
"""Times a cost is still that cost: as near as strengths are chosen by default."""


@dataclass(frozen=True, eq=False)
class Condition:
    """A way to steer at a cost."""

    row: StudyRow
    """Which it is; of a measured cost the row of its largest strength, for its names."""
    maxima: dict[str, Float[np.ndarray, "P"]]
    """By scorer, each prompt's largest score."""

    @property
    def name(self) -> str:
        """Of the way to steer."""
        return self.row.arm

    def mean(self, scorer: str) -> float:
        """The expected maximum score."""
        return float(self.maxima[scorer].mean())


@dataclass(frozen=True, eq=False)
class AtCost:
    """All ways to steer at one cost, with those that are not there."""

    how: How
    cost: Cost
    level: float
    """The cost at which they are compared: of measured costs the one that all of them have."""
    conditions: tuple[Condition, ...]
    excluded: tuple[str, ...]
    """Names of the ways that do not come near the cost, or cost more: of strengths as chosen at
    the nearest one that was tried, of measured costs at the smallest one."""

    def of_family(self, family: str) -> list[Condition]:
        """The conditions of a family of ways to steer."""
        return [one for one in self.conditions if one.row.family == family]

    def draws(self) -> dict[str, list[Condition]]:
        """The random ones, by method."""
        found: dict[str, list[Condition]] = {}
        for one in self.of_family("random"):
            found.setdefault(one.row.method, []).append(one)
        return found


def at_chosen_cost(rows: Sequence[StudyRow], cost: Cost) -> AtCost:
    """The rows whose strengths were chosen for a cost, those that cost more left out."""
    own = [row for row in rows if row.cost == cost]
    return AtCost(
        how="chosen",
        cost=cost,
        level=cost.target,
        conditions=tuple(_as_measured(row) for row in own if row.within_budget),
        excluded=tuple(row.arm for row in own if not row.within_budget),
    )


def at_measured_cost(
    rows: Sequence[StudyRow], unsteered: StudyRow, cost: Cost, *, least_share: float = _LEAST_SHARE
) -> AtCost | None:
    """Each way to steer where the cost that was measured is the same for all.

    That is the cost asked for, or, where some way stays below it, the largest that all of them
    come to. Each way's figure is interpolated, prompt by prompt, between its strengths around it.
    A clamp whose smallest strength costs more is left out, unless by no more than a tenth: then it
    stands as it is there.

    Args:
        rows: all rows but the unsteered one, of any cost.
        unsteered: the row of the unsteered model, at which each way begins.
        cost: what is asked for.
        least_share: ways whose largest measured cost is below so much of it are left out, so that
            one whose gate hardly opens does not take the others down with it.

    Returns:
        None where that cost is not measured, as of a strength.
    """
    paths = [_Path.of(own, unsteered, cost.kind) for own in _by_arm(rows)]
    known = [path for path in paths if path is not None]
    if not known:
        return None
    kept = [path for path in known if path.largest >= least_share * cost.target]
    level = min((cost.target, *(path.largest for path in kept)))
    # None of these has set the level, for its largest cost is above it.
    kept = [path for path in kept if path.costs[0] <= NEARLY * level]
    return AtCost(
        how="measured",
        cost=cost,
        level=level,
        conditions=tuple(path.at(level) for path in kept),
        excluded=tuple(path.rows[-1].arm for path in known if path not in kept),
    )


@dataclass(frozen=True, eq=False)
class _Path:
    """One way to steer over its strengths, from the unsteered model on, or of a clamp from its
    smallest one."""

    rows: list[StudyRow]
    costs: list[float]

    @classmethod
    def of(cls, own: Sequence[StudyRow], unsteered: StudyRow, kind: str) -> "_Path | None":
        start = unsteered.measured_cost(kind, unsteered)
        rows, costs = [unsteered], [0.0 if start is None else start]
        if any(row.is_level for row in own):
            rows, costs = [], []
        for row in sorted(own, key=lambda row: abs(row.strength)):
            cost = row.measured_cost(kind, unsteered)
            if cost is not None and np.isfinite(cost):
                rows.append(row)
                costs.append(cost)
        return cls(rows, costs) if any(row is not unsteered for row in rows) else None

    @property
    def largest(self) -> float:
        return max(self.costs)

    def at(self, level: float) -> Condition:
        level = max(level, self.costs[0])
        maxima = {
            scorer: at_cost(self.costs, np.stack([row.maxima(scorer) for row in self.rows]), level)
            for scorer in self.rows[0].scorers
        }
        return Condition(self.rows[-1], maxima)


def _by_arm(rows: Sequence[StudyRow]) -> list[list[StudyRow]]:
    found: dict[str, list[StudyRow]] = {}
    for row in rows:
        if row.cost is not None:
            found.setdefault(row.arm, []).append(row)
    return list(found.values())


def _as_measured(row: StudyRow) -> Condition:
    return Condition(row, {scorer: row.maxima(scorer) for scorer in row.scorers})
