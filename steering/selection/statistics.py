"""How scores are spread, and whether they only measure length."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_QUANTILES = {
    "min": 0.0,
    "p5": 0.05,
    "p25": 0.25,
    "median": 0.5,
    "p75": 0.75,
    "p95": 0.95,
    "max": 1.0,
}


def spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Spearman's rank correlation, ties at their mean rank; None where one side is constant."""
    ranks_x, ranks_y = _ranks(x), _ranks(y)
    if len(ranks_x) < 2:
        return None
    ranks_x, ranks_y = ranks_x - ranks_x.mean(), ranks_y - ranks_y.mean()
    scale = math.sqrt(float(ranks_x @ ranks_x) * float(ranks_y @ ranks_y))
    return float(ranks_x @ ranks_y) / scale if scale else None


def quantiles(values: Sequence[float]) -> dict[str, float] | None:
    """Mean, extremes and quantiles (linear between neighbors); None without values."""
    if not values:
        return None
    ordered = sorted(values)
    found = {"mean": math.fsum(ordered) / len(ordered)}
    for name, fraction in _QUANTILES.items():
        place = fraction * (len(ordered) - 1)
        low, part = ordered[math.floor(place)], place - math.floor(place)
        found[name] = low + part * (ordered[math.ceil(place)] - low)
    return found


def _ranks(values: Sequence[float]) -> npt.NDArray[np.float64]:
    _, inverse, counts = np.unique(
        np.asarray(values, dtype=np.float64), return_inverse=True, return_counts=True
    )
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]
