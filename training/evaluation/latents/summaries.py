"""A sample of values in a few numbers: how many, the mean with its interval, and quantiles."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

_Z = 1.959964
"""Standard errors on either side of a 95 percent interval."""

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


def mean_with_interval(values_N: Float[Tensor, "N"]) -> dict[str, Any]:
    """How many values, their mean, and its 95 percent interval over independent draws.

    Returns:
        `count`, `mean`, `low` and `high`, by the normal distribution; the mean is None of no value,
        the ends are of fewer than two. NaN are left out.
    """
    known_N = values_N[~values_N.isnan()].double()
    count = len(known_N)
    mean = float(known_N.mean()) if count else None
    if mean is None or count < 2:
        return {"count": count, "mean": mean, "low": None, "high": None}
    half = _Z * float(known_N.std()) / math.sqrt(count)
    return {"count": count, "mean": mean, "low": mean - half, "high": mean + half}


def summary(values_N: Float[Tensor, "N"]) -> dict[str, Any]:
    """As `mean_with_interval`, and `quantiles` by name: p10, p25, p50, p75 and p90, None of no
    value."""
    known_N = values_N[~values_N.isnan()].double()
    found: dict[str, float | None] = {f"p{round(100 * q)}": None for q in QUANTILES}
    if len(known_N):
        at_Q = torch.quantile(known_N, torch.tensor(QUANTILES, dtype=torch.float64))
        found = dict(zip(found, (float(value) for value in at_Q), strict=True))
    return {**mean_with_interval(known_N), "quantiles": found}
