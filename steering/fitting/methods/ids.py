"""The cap of in-distribution steering (IDS, arXiv 2510.13285): an edit may go as far as the
activation stays where those of the positive texts are.

Their distribution is taken for a normal one in the first principal components, as many as hold a
given part of the variance. The distance of h is d(h)^2 = sum_k ((h - mean) . c_k)^2 / variance_k,
and the budget is the distance that 95 percent of the rows do not exceed. Steering by an addition v
at a token is then cut to the largest strength at which d(h + strength v) is within the budget.
"""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from ....sae.common.errors import InputError
from ..config import FitConfig
from ..examples import Examples
from ..principal import leading_components
from ..site_fit import SiteFit, SiteGate
from ..site_method import SiteMethod


def fit_ids(examples: Examples, config: FitConfig) -> SiteFit:
    """Mean, components, variances and budget of the positive texts' rows.

    Raises:
        InputError: there are fewer than two rows, or all are the same.
    """
    rows_ND = _target_rows(examples)
    if len(rows_ND) < 2 or not bool((rows_ND != rows_ND[0]).any()):
        raise InputError(
            "the positive texts have no two different activations, so there is no distribution to "
            "stay in; give more texts"
        )
    mean_D = rows_ND.mean(dim=0)
    variances_K, components_KD = leading_components(rows_ND - mean_D)
    share_K = variances_K.cumsum(0) / variances_K.sum()
    n_kept = min(len(share_K), int((share_K < config.variance).sum()) + 1)
    variances_K, components_KD = variances_K[:n_kept], components_KD[:n_kept]

    def distance(rows_ND: Float[Tensor, "N D"]) -> Float[Tensor, "N"]:
        places_NK = (rows_ND - mean_D) @ components_KD.T
        return (places_NK.square() / variances_K).sum(dim=-1).sqrt()

    budget = float(distance(rows_ND).quantile(config.coverage))

    def within(rows_ND: Float[Tensor, "N D"]) -> Float[Tensor, "N"]:
        return (distance(rows_ND) <= budget).double()

    def on_held_out(held_out: Examples) -> dict[str, Any]:
        target_ND = _target_rows(held_out)
        return {"within_budget": float(within(target_ND).mean())} if len(target_ND) else {}

    gate = SiteGate(
        kind="cap",
        tensors={"mean": mean_D, "basis": components_KD, "variances": variances_K},
        settings={"budget": budget},
        opening=within,
    )
    return SiteFit(
        gate=gate,
        details={
            "rows": len(rows_ND),
            "components": n_kept,
            "explained_variance": float(share_K[n_kept - 1]),
            "budget": budget,
        },
        on_held_out=on_held_out,
    )


def _target_rows(examples: Examples) -> Float[Tensor, "N D"]:
    """The rows of the positive texts; all rows where texts have no sides."""
    if examples.kind == "texts":
        return examples.rows_ND
    return examples.rows_ND[examples.is_positive_N]


METHOD = SiteMethod(
    name="ids",
    takes=("sets", "texts"),
    settings=("pool", "variance", "coverage", "edits_of"),
    pools=("each", "texts"),
    fit_site=fit_ids,
    at_edits=True,
)
