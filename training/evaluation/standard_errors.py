"""How sure held-out figures are: standard errors of ratios of sums over what is independent.

Rows of one document are alike, and so are tokens of one context, so that a standard error over
rows or tokens would be far too small. Documents and contexts are the clusters here (Miller,
"Adding Error Bars to Evals", arXiv 2411.00640).
"""

import math

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

_ROWS_AT_ONCE = 4096


def ratio_standard_error(
    numerators_G: Shaped[Tensor, "G"], denominators_G: Shaped[Tensor, "G"]
) -> float | None:
    """The standard error of sum(numerators) / sum(denominators) over G independent clusters.

    By the delta method, as the error of a sum of numerator - ratio * denominator (Cochran, Sampling
    Techniques, 3rd ed. 1977, chapter 6). It says nothing of clusters that were not drawn at random,
    and of few it is itself unsure.

    Returns:
        None of a single cluster, which has no spread, and where the denominators add up to 0.
    """
    numerators_G, denominators_G = numerators_G.double(), denominators_G.double()
    total, n_clusters = float(denominators_G.sum()), len(denominators_G)
    if n_clusters < 2 or not total:
        return None
    ratio = float(numerators_G.sum()) / total
    left_G = numerators_G - ratio * denominators_G
    squares = float(left_G.square().sum())
    return math.sqrt(squares * n_clusters / (n_clusters - 1)) / abs(total)


def fvu_standard_error(
    residual_squares_N: Float[Tensor, "N"],
    rows_ND: Float[Tensor, "N D"],
    documents_N: Int[Tensor, "N"],
) -> float | None:
    """The standard error of the FVU, the rows of a document being one cluster.

    Args:
        residual_squares_N: ||x - x_hat||^2 of each row x.
        rows_ND: the rows; that their mean is an estimate, too, changes the error in second order.
        documents_N: of which document each is.

    Returns:
        None of a single document.
    """
    parts = torch.split(rows_ND, _ROWS_AT_ONCE)
    mean_D = torch.stack([part_BD.double().sum(0) for part_BD in parts]).sum(0) / len(rows_ND)
    squares_N = torch.cat([(part_BD.double() - mean_D).square().sum(-1) for part_BD in parts])
    names, clusters = np.unique(documents_N.numpy(), return_inverse=True)
    sums_2G = torch.zeros(2, len(names), dtype=torch.float64)
    sums_2G.index_add_(
        1, torch.as_tensor(clusters), torch.stack([residual_squares_N.double(), squares_N])
    )
    return ratio_standard_error(*sums_2G)
