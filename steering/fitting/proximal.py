"""Proximal steps of the sparse group lasso, which set coordinates and whole groups to 0."""

import torch
from jaxtyping import Float
from torch import Tensor

from ...kernels.numerics import row_norms


def soft_threshold(u_D: Float[Tensor, "D"], threshold: float) -> Float[Tensor, "D"]:
    """The minimum over z of 1/2 |z - u|^2 + threshold |z|_1: each value moves to 0 by at most so
    much."""
    return u_D.sign() * (u_D.abs() - threshold).clamp(min=0)


def sparse_group_step(
    u_D: Float[Tensor, "D"], *, step: float, l1: float, group: float
) -> Float[Tensor, "D"]:
    """The minimum over z of 1/2 |z - u|^2 + step (l1 |z|_1 + group sqrt(D) |z|_2), exactly.

    It is the soft threshold followed by a shrinking of the whole vector (Simon et al. 2013, "A
    sparse-group lasso"). `group` is weighted by sqrt(D), so that it means the same for groups of
    any size.

    Args:
        u_D: one group.
        step: length of the gradient step that led to u, the learning rate.
        l1: weight of the absolute values; `inf` gives 0.
        group: weight of the norm; `inf` gives 0.
    """
    if torch.inf in (l1, group) and step > 0:
        return torch.zeros_like(u_D)
    if l1:
        u_D = soft_threshold(u_D, step * l1)
    if group:
        threshold = step * group * len(u_D) ** 0.5
        size = float(row_norms(u_D))
        u_D = u_D * (1 - threshold / size if size > threshold else 0.0)
    return u_D
