"""Which latent stands for which known feature, by the directions of both."""

from importlib import import_module
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ....sae.common.errors import InputError


def absolute_cosines(
    rows_FD: Float[Tensor, "F D"], directions_ND: Float[Tensor, "N D"]
) -> Float[Tensor, "F N"]:
    """|cosine| of each row with each direction; a row of zeros has 0 with all."""
    normalize = torch.nn.functional.normalize
    return (normalize(rows_FD, dim=-1) @ normalize(directions_ND, dim=-1).T).abs()


def best_assignment(gain: Float[np.ndarray, "R C"]) -> Int[np.ndarray, "R"]:
    """For each row a column of its own, so that the sum of gains is largest; -1 for none.

    Raises:
        InputError: scipy is not installed.
    """
    linear_sum_assignment = scipy("scipy.optimize").linear_sum_assignment
    column_of = np.full(len(gain), -1, dtype=np.int64)
    rows, columns = linear_sum_assignment(gain, maximize=True)
    column_of[rows] = columns
    return column_of


def mean_correlation_coefficient(cosines_FN: Float[Tensor, "F N"]) -> float:
    """MCC: the mean |cosine| of latents and features that are given to each other, one to one, so
    that it is largest (arXiv 2505.20254). Of more features than latents the rest count nothing."""
    latent_features = best_assignment(cosines_FN.double().cpu().numpy())
    latents = np.flatnonzero(latent_features >= 0)
    chosen = cosines_FN.cpu()[latents, latent_features[latents]]
    return float(chosen.double().mean())


def chance_cosine(d_model: int, n_features: int) -> float:
    """The expected largest |cosine| of a random direction with N independent random ones.

    The integral over t from 0 to 1 of 1 - P(|cosine| < t)^N, where cosine^2 is a Beta variable
    with 1/2 and (D - 1)/2. An MCC of random latents, far fewer than features, is just below it.
    """
    nodes, weights = np.polynomial.legendre.leggauss(400)
    t = (nodes + 1) / 2
    if d_model == 1:
        return 1.0
    below = scipy("scipy.special").betainc(0.5, (d_model - 1) / 2, t**2)
    return float(1 - (weights / 2) @ below**n_features)


def scipy(module: str) -> Any:
    """A module of scipy, which is imported when it is first asked for.

    Raises:
        InputError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError:
        raise InputError(
            "measuring against known features needs scipy, which is not installed; pip install "
            "'sparsteer[eval]'"
        ) from None
