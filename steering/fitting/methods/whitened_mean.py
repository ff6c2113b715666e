"""The mean difference in whitened coordinates: Sigma^-1 (mean+ - mean-), Fisher's discriminant.

Sigma is the covariance within the two sides, made regular by a ridge. The direction is the one in
whose projection the sides differ most beside their spread; it is given the length of the mean
difference. What detects best need not steer best: along it the activation gains little of what the
sides differ in where that varies much within them.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ....kernels.numerics import row_norms
from ..config import FitConfig
from ..examples import Examples, unit
from ..logistic_regression import sklearn
from ..site_fit import SiteFit, along, require_direction
from ..site_method import SiteMethod


def fit_whitened_mean(examples: Examples, config: FitConfig) -> SiteFit:
    """The discriminant, as long as the mean difference.

    Raises:
        InputError: one side has no text, both means are the same, or scikit-learn is missing where
            no ridge is given.
    """
    positive_PD, negative_MD = examples.sides()
    mean_D = positive_PD.mean(dim=0) - negative_MD.mean(dim=0)
    require_direction(mean_D)
    within_ND = torch.cat(
        [positive_PD - positive_PD.mean(dim=0), negative_MD - negative_MD.mean(dim=0)]
    )
    ridge = _ledoit_wolf_ridge(within_ND) if config.ridge is None else config.ridge
    covariance_DD = within_ND.T @ within_ND / max(1, len(within_ND) - 2)
    level = float(covariance_DD.diagonal().mean())
    if level == 0:  # each side is a point
        return along(mean_D, ridge=ridge, cosine_to_mean_difference=1.0)
    covariance_DD.diagonal().add_(ridge * level)
    linalg: Any = torch.linalg  # untyped
    whitened_D = unit(linalg.solve(covariance_DD, mean_D))
    cosine = float(whitened_D @ unit(mean_D))
    return along(whitened_D * row_norms(mean_D), ridge=ridge, cosine_to_mean_difference=cosine)


def _ledoit_wolf_ridge(within_ND: Float[Tensor, "N D"]) -> float:
    """The ridge that is Ledoit and Wolf's shrinkage s: s / (1 - s) of the mean variance."""
    shrinkage = float(
        sklearn("sklearn.covariance").ledoit_wolf_shrinkage(within_ND.numpy(), assume_centered=True)
    )
    return shrinkage / max(1 - shrinkage, 1e-6)


METHOD = SiteMethod(
    name="whitened_mean",
    takes=("sets", "pairs"),
    settings=("pool", "edit_kind", "ridge"),
    pools=("texts", "last", "each"),
    fit_site=fit_whitened_mean,
)
