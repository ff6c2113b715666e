"""The condition of conditional activation steering (CAST, arXiv 2409.05907): steer a prompt only if
its activation is similar to a condition direction.

The direction is the first principal component of the differences of pairs, or of two sets' rows
around the middle between their means, on the side of the positive texts. The similarity is the
cosine. Published code takes cos(h, tanh(P h)) with P the projection on the direction instead, which
changes with the scale of the activations. The threshold is the one of the largest F1 on the texts
that are fitted to; published is a grid of 0.01.
"""

from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor

from ....kernels.numerics import row_norms
from ..config import FitConfig
from ..examples import Examples
from ..principal import PrincipalDirection, principal_direction
from ..separation import best_f1_threshold, figures
from ..site_fit import SiteFit, SiteGate, require_direction
from ..site_method import SiteMethod


def fit_cast(examples: Examples, config: FitConfig) -> SiteFit:
    """The condition direction and its threshold.

    Raises:
        InputError: one side has no text, both means are the same, or the component is not defined.
    """
    found = condition_direction(examples)
    similarity = _cosine_with(found.direction_D)
    threshold, at_threshold = best_f1_threshold(
        similarity(examples.rows_ND), examples.is_positive_N
    )

    def on_held_out(held_out: Examples) -> dict[str, Any]:
        fires_N = similarity(held_out.rows_ND) > threshold
        return figures(fires_N, held_out.is_positive_N)

    gate = SiteGate(
        kind="cosine",
        tensors={"c": found.direction_D},
        threshold=threshold,
        settings={
            "scope": "per_input",
            "side": "above",
            "pool": "last" if config.pool == "last" else "mean",
        },
        opening=lambda rows_ND: (similarity(rows_ND) > threshold).double(),
    )
    return SiteFit(
        scores=similarity,
        gate=gate,
        details={
            "threshold": threshold,
            "explained_variance": found.explained,
            "cosine_to_mean_difference": found.cosine,
            "training": at_threshold,
        },
        on_held_out=on_held_out,
    )


def condition_direction(examples: Examples) -> PrincipalDirection:
    """The principal component, toward the positive texts; see above."""
    mean_D = examples.mean_difference()
    require_direction(mean_D)
    if examples.kind == "pairs":
        return principal_direction(examples.pair_differences(), mean_D, centered=False)
    positive_PD, negative_MD = examples.sides()
    middle_D = (positive_PD.mean(dim=0) + negative_MD.mean(dim=0)) / 2
    return principal_direction(examples.rows_ND - middle_D, mean_D, centered=False)


def _cosine_with(
    direction_D: Float[Tensor, "D"],
) -> Callable[[Float[Tensor, "N D"]], Float[Tensor, "N"]]:
    """The cosine of each row with a unit vector; 0 of a row of zeros."""
    return lambda rows_ND: rows_ND @ direction_D / row_norms(rows_ND).clamp(min=1e-300)


METHOD = SiteMethod(
    name="cast",
    takes=("sets", "pairs"),
    settings=("pool", "edits_of"),
    pools=("texts", "last"),
    fit_site=fit_cast,
)
