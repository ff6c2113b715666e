"""Fronts of a study: the score of what is written against what steering costs."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..evaluation.equal_cost import front
from .rows import StudyRow

AXES = {
    "perplexity": "perplexity of the continuations (unsteered model)",
    "neutral_ratio": "perplexity of neutral text, steered / unsteered",
    "kl": "mean KL of the continuations (nats)",
}
"""What stands on the horizontal axis of a plot, by the name of the figure in a row."""


def fronts(rows: Sequence[StudyRow], unsteered: StudyRow) -> list[dict[str, Any]]:
    """For each figure of `AXES` and each scorer the points, and which of them no other one beats.

    Random ways are one point for each method and cost, the mean over draws. Rows that lack the
    figure are left out.

    Returns:
        For each front `axis`, `scorer` and `points`, each with `arm`, `method`, `family`, `cost`
        (None of what has none), `x`, `y` (the expected maximum score) and `on_front`.
    """
    found: list[dict[str, Any]] = []
    for axis in AXES:
        for scorer in unsteered.scorers:
            points = _points([unsteered, *rows], axis, scorer)
            steered = [point for point in points if point["family"] != "none"]
            if not steered:
                continue
            best = front([point["x"] for point in points], [point["y"] for point in points])
            for number, point in enumerate(points):
                point["on_front"] = number in best
            found.append({"axis": axis, "scorer": scorer, "points": points})
    return found


def _points(rows: Sequence[StudyRow], axis: str, scorer: str) -> list[dict[str, Any]]:
    together: dict[tuple[str, str | None], list[StudyRow]] = {}
    for row in rows:
        value = row.values[axis]
        if value is None or not np.isfinite(value):
            continue
        name = row.method if row.family == "random" else row.arm
        cost = None if row.cost is None else row.cost.name
        together.setdefault((name, cost), []).append(row)
    return [
        {
            "arm": name,
            "method": of_point[0].method,
            "family": of_point[0].family,
            "cost": cost,
            "x": float(np.mean([row.values[axis] for row in of_point])),
            "y": float(np.mean([row.maxima(scorer).mean() for row in of_point])),
        }
        for (name, cost), of_point in together.items()
    ]
