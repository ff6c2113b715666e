"""The gate of dynamically scaled activation steering (DSAS, arXiv 2512.03661): each token is
steered as much as a logistic regression takes it for one of the positive texts.

p(h) = sigmoid(w . C (h - mean) + b), where the rows of C are the first few principal components of
all rows. As published it is fitted to the mean activations of texts and then used on single tokens,
which differ from means; --pool each fits it to tokens. The report says how far it is open on both
sides' held-out rows.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..config import FitConfig
from ..examples import Examples
from ..logistic_regression import fit_logistic
from ..principal import leading_components
from ..site_fit import SiteFit, SiteGate, require_direction
from ..site_method import SiteMethod


def fit_dsas(examples: Examples, config: FitConfig) -> SiteFit:
    """Components, weights and intercept of the gate.

    Raises:
        InputError: one side has no text, both means are the same, or scikit-learn is missing.
    """
    require_direction(examples.mean_difference())
    mean_D = examples.rows_ND.mean(dim=0)
    variances_K, components_KD = leading_components(examples.rows_ND - mean_D)
    components_KD = components_KD[: config.components]
    columns_NK = (examples.rows_ND - mean_D) @ components_KD.T
    weights_K, intercept = fit_logistic(columns_NK, examples.is_positive_N, config.penalty or 1.0)

    def logits(rows_ND: Float[Tensor, "N D"]) -> Float[Tensor, "N"]:
        return (rows_ND - mean_D) @ components_KD.T @ weights_K + intercept

    def on_held_out(held_out: Examples) -> dict[str, Any]:
        return _openings(logits(held_out.rows_ND), held_out.is_positive_N)

    gate = SiteGate(
        kind="logistic",
        tensors={
            "mean": mean_D,
            "basis": components_KD,
            "w": weights_K,
            "b": torch.tensor(intercept, dtype=torch.float64),
        },
        opening=lambda rows_ND: logits(rows_ND).sigmoid(),
    )
    return SiteFit(
        scores=logits,
        gate=gate,
        details={
            "components": len(components_KD),
            "explained_variance": float(variances_K[: config.components].sum() / variances_K.sum()),
            "training": _openings(logits(examples.rows_ND), examples.is_positive_N),
        },
        on_held_out=on_held_out,
    )


def _openings(logits_N: Float[Tensor, "N"], is_positive_N: Tensor) -> dict[str, float]:
    """The share of rows on the right side of 1/2, and how far the gate is open on either side."""
    open_N = logits_N.sigmoid()
    sides = {"positive": is_positive_N, "negative": ~is_positive_N}
    means = {
        f"open_{name}": float(open_N[side].mean()) for name, side in sides.items() if side.any()
    }
    return {"accuracy": float(((logits_N > 0) == is_positive_N).double().mean()), **means}


METHOD = SiteMethod(
    name="dsas",
    takes=("sets", "pairs"),
    settings=("pool", "penalty", "components", "edits_of"),
    pools=("texts", "last", "each"),
    fit_site=fit_dsas,
)
