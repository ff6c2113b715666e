"""Means over seeds, and how far from them others might lie."""

from collections.abc import Sequence

import numpy as np

from .matching import scipy


def over_seeds(values: Sequence[float]) -> dict[str, float | None]:
    """The mean over seeds, their standard deviation, and the 95% interval of the mean by Student's
    t; of a single seed no spread is known: None."""
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return {"mean": mean, "sd": None, "low": None, "high": None}
    sd = float(np.std(values, ddof=1))
    half = float(scipy("scipy.special").stdtrit(n - 1, 0.975)) * sd / n**0.5
    return {"mean": mean, "sd": sd, "low": mean - half, "high": mean + half}
