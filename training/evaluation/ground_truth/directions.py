"""The directions of made-up features: random unit rows, pushed apart a little."""

import torch
from jaxtyping import Float
from torch import Tensor

from ....kernels.optimizer import adam_step_


def pushed_apart(
    directions_ND: Float[Tensor, "N D"], *, steps: int, lr: float
) -> Float[Tensor, "N D"]:
    """Unit rows after steps of Adam on the sum of squared products of different rows, with N times
    the sum of (||row||^2 - 1)^2 to hold their norms.

    The gradient, 4 (D D^T D - s D + N (s - 1) D) with s the squared norms, takes the D x D product
    of all rows in place of the N x N one.
    """
    rows_ND = torch.nn.functional.normalize(directions_ND, dim=-1)
    first_ND, second_ND = torch.zeros_like(rows_ND), torch.zeros_like(rows_ND)
    for step in range(1, steps + 1):
        squares_N1 = rows_ND.square().sum(-1, keepdim=True)
        weights_N1 = len(rows_ND) * (squares_N1 - 1) - squares_N1
        gradient_ND = 4 * (rows_ND @ (rows_ND.T @ rows_ND) + weights_N1 * rows_ND)
        adam_step_(rows_ND, gradient_ND, first_ND, second_ND, step=step, lr=lr)
    return torch.nn.functional.normalize(rows_ND, dim=-1)


def mean_largest_overlap(directions_ND: Float[Tensor, "N D"]) -> float:
    """The mean over rows of the largest |cosine| with another row: how much they are superposed."""
    largest: list[Tensor] = []
    for begin in range(0, len(directions_ND), 1024):
        products_BN = (directions_ND[begin : begin + 1024] @ directions_ND.T).abs()
        products_BN.diagonal(begin).fill_(0)
        largest.append(products_BN.amax(-1))
    return float(torch.cat(largest).double().mean())
