"""Logistic regression on rows of activations, by scikit-learn."""

from importlib import import_module
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...sae.common.errors import InputError
from ..errors import NotDefined


def fit_logistic(
    rows_ND: Float[Tensor, "N D"], is_positive_N: Bool[Tensor, "N"], penalty: float
) -> tuple[Float[Tensor, "D"], float]:
    """Weights and intercept of P(positive | h) = sigmoid(w.h + b), in the units of the rows.

    Coordinates are brought to mean 0 and deviation 1 first, so that the penalty means the same for
    all of them; a constant one has weight 0. Both sides weigh alike, however many rows they have.

    Args:
        rows_ND: float64.
        is_positive_N: the sides, neither empty.
        penalty: coefficient of half the squared weights beside the summed loss.

    Raises:
        InputError: scikit-learn is not installed.
        NotDefined: all rows are the same.
    """
    mean_D, scale_D = rows_ND.mean(dim=0), rows_ND.std(dim=0)
    varies_D = scale_D > 1e-9 * rows_ND.abs().max(dim=0).values
    if not bool(varies_D.any()):
        raise NotDefined(
            "the two sides have the same activations here, so nothing tells them apart; give other "
            "texts, or a later --site"
        )
    scale_D = torch.where(varies_D, scale_D, torch.inf)
    standard_ND = (rows_ND - mean_D) / scale_D
    # The weights lie in the span of the rows, in which there are no more coordinates than rows.
    linalg: Any = torch.linalg  # untyped
    svd: tuple[Tensor, Tensor, Tensor] = linalg.svd(standard_ND, full_matrices=False)
    left_NK, values_K, right_KD = svd
    kept_K = values_K > 1e-12 * values_K[0]
    regression = sklearn("sklearn.linear_model").LogisticRegression(
        C=1 / penalty, class_weight="balanced", solver="newton-cholesky", tol=1e-10, max_iter=1000
    )
    regression.fit((left_NK * values_K)[:, kept_K].numpy(), is_positive_N.numpy())
    weights_K = torch.as_tensor(regression.coef_[0], dtype=torch.float64)
    weights_D = (weights_K @ right_KD[kept_K]) / scale_D
    return weights_D, float(regression.intercept_[0]) - float(weights_D @ mean_D)


def sklearn(module: str) -> Any:
    """A module of scikit-learn, which has no types, imported when it is first asked for.

    Raises:
        InputError: scikit-learn is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError:
        raise InputError(
            "this method needs scikit-learn, which is not installed; pip install 'sparsteer[eval]'"
        ) from None
