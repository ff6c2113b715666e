"""How activations change with a score of their texts: the slope of the activation in the score.

v = sum_i (s_i - mean s) z_i / sum_i (s_i - mean s)^2, what the activation gains with one more of
the score. For scores 0 and 1 this is the difference of means. Entropic activation steering (EAST,
arXiv 2406.00244) has the same direction for the entropy of an agent's actions as the score, and
another length: sum_i s_i (z_i - mean z) / sum_i s_i. Here the entropy of the next token can be the
score.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ....sae.common.errors import InputError
from ..config import FitConfig
from ..examples import Examples
from ..site_fit import SiteFit, along
from ..site_method import SiteMethod


def fit_covariance(examples: Examples, config: FitConfig) -> SiteFit:
    """The slope over all texts, or within groups: then what all texts of a group share, in the
    activation and in the score, takes no part.

    Raises:
        InputError: all scores are the same (within every group), or nothing goes with them.
    """
    scores_N = examples.scores_N
    centered_N = scores_N - scores_N.mean()
    if config.center == "group":
        centered_N = scores_N - _group_means(scores_N, examples.groups_N)
    squares = float(centered_N @ centered_N)
    _require_spread(centered_N, scores_N)
    direction_D = centered_N @ examples.rows_ND / squares
    # By this the direction has the length that EAST gives it.
    factor = squares / float(scores_N.sum()) if float(scores_N.sum()) > 0 else None
    return along(
        direction_D,
        score_mean=float(scores_N.mean()),
        score_deviation=float(scores_N.std()),
        east_factor=factor,
    )


def _group_means(values_N: Float[Tensor, "N"], groups_N: Tensor) -> Float[Tensor, "N"]:
    """For each row the mean over its group."""
    group_N = torch.as_tensor(np.unique(groups_N.numpy(), return_inverse=True)[1])
    counts_G = torch.bincount(group_N)
    sums_G = torch.zeros(len(counts_G), dtype=values_N.dtype).index_add(0, group_N, values_N)
    return (sums_G / counts_G)[group_N]


def _require_spread(centered_N: Tensor, scores_N: Tensor) -> None:
    if float(centered_N.abs().max()) <= 1e-12 * float(scores_N.abs().max()):
        raise InputError(
            "the scores of the texts that are fitted to are all the same, or the same within each "
            "group, so nothing goes with them; give texts whose scores differ"
        )


METHOD = SiteMethod(
    name="covariance",
    takes=("scored", "sets", "texts"),
    settings=("pool", "edit_kind", "score", "center"),
    pools=("last", "texts"),
    fit_site=fit_covariance,
)
