"""How well one number for each text, such as its projection, tells two sets of texts apart."""

import math
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from ..features.ranking import area


def auroc(scores_N: Float[Tensor, "N"], is_positive_N: Bool[Tensor, "N"]) -> float:
    """The chance that a random positive text has the larger score, half of it where they are equal.

    NaN where one side has no text.
    """
    if not bool(is_positive_N.any()) or bool(is_positive_N.all()):
        return math.nan
    return area(scores_N, is_positive_N)


def d_prime(scores_N: Float[Tensor, "N"], is_positive_N: Bool[Tensor, "N"]) -> float:
    """The difference of the two mean scores in units of the root of the mean of the two variances.

    NaN where a side has fewer than two texts; infinite where both sides are constant and differ.
    """
    positive_P, negative_M = scores_N[is_positive_N], scores_N[~is_positive_N]
    if min(len(positive_P), len(negative_M)) < 2:
        return math.nan
    difference = float(positive_P.mean() - negative_M.mean())
    spread = math.sqrt(float(positive_P.var() + negative_M.var()) / 2)
    if spread == 0:
        return math.copysign(math.inf, difference) if difference else 0.0
    return difference / spread


def separation(
    scores_N: Float[Tensor, "N"], is_positive_N: Bool[Tensor, "N"]
) -> dict[str, float] | None:
    """`auroc`, `d_prime`, and how many rows they are of; None where one side has none.

    `d_prime` is left out where it is not defined.
    """
    n_positive = int(is_positive_N.sum())
    n_negative = len(scores_N) - n_positive
    if not n_positive or not n_negative:
        return None
    found = {
        "auroc": auroc(scores_N, is_positive_N),
        "d_prime": d_prime(scores_N, is_positive_N),
        "n_positive": n_positive,
        "n_negative": n_negative,
    }
    return {name: value for name, value in found.items() if math.isfinite(value)}


def published_layer_score(
    positive_PD: Float[Tensor, "P D"], negative_MD: Float[Tensor, "M D"]
) -> float:
    """The score of a layer by which the code of arXiv 2311.09433 chooses one, for comparison only.

    Activations are made probabilities by a softmax over their coordinates, p and n, with the mean
    M of the two, and half the sum of kl_div(p, M) and kl_div(n, M) is taken, where PyTorch's
    `kl_div` wants logarithms in place of p and n. What is computed then is the mean over texts and
    coordinates of M log M - M (p + n) / 2: it is not 0 of two equal sets, and says where a few
    coordinates are huge rather than where the sets differ.

    Args:
        positive_PD, negative_MD: rows in pairs; of unlike numbers the first so many are taken.
    """
    n = min(len(positive_PD), len(negative_MD))
    p_ND, n_ND = positive_PD[:n].softmax(dim=-1), negative_MD[:n].softmax(dim=-1)
    m_ND = (p_ND + n_ND) / 2
    logs_ND = m_ND.log().nan_to_num(neginf=0.0)  # a probability of 0 adds 0
    return float((m_ND * logs_ND - m_ND * m_ND).mean())


def best_f1_threshold(
    scores_N: Float[Tensor, "N"], is_positive_N: Bool[Tensor, "N"]
) -> tuple[float, dict[str, float]]:
    """The threshold above which a text is called positive that has the largest F1.

    All thresholds between two neighboring scores are tried, each in the middle; of equal ones that
    with the most room around it is taken, and where all texts are best called positive one below
    all scores, by as much as the scores span.

    Returns:
        The threshold, and `f1`, `precision`, `recall` and `false_positive_rate` at it.
    """
    values_V = np.unique(scores_N.numpy())
    gaps = np.diff(values_V)
    lowest = float(values_V[0])
    span = float(values_V[-1]) - lowest or 1.0
    choices = [(0.0, lowest - span)]
    choices += [(float(gap), float(low) + float(gap) / 2) for low, gap in zip(values_V, gaps)]  # noqa: B905 - one gap fewer
    _, _, threshold = max(
        (figures(scores_N > middle, is_positive_N)["f1"], room, middle) for room, middle in choices
    )
    return threshold, figures(scores_N > threshold, is_positive_N)


def figures(said_N: Bool[Tensor, "N"], is_positive_N: Bool[Tensor, "N"]) -> dict[str, Any]:
    """`f1`, `precision`, `recall` and `false_positive_rate` of a yes-or-no answer; 0 of no text."""
    hits = int((said_N & is_positive_N).sum())
    n_said, n_positive = int(said_N.sum()), int(is_positive_N.sum())
    return {
        "f1": 2 * hits / max(1, n_said + n_positive),
        "precision": hits / max(1, n_said),
        "recall": hits / max(1, n_positive),
        "false_positive_rate": (n_said - hits) / max(1, len(said_N) - n_positive),
    }
