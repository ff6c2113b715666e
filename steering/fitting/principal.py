"""Principal components of rows of activations, with a sign that means something."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...kernels.numerics import row_norms
from ..errors import NotDefined
from .examples import unit

_linalg: Any = torch.linalg  # untyped

_LEAST = 1e-9
"""Of the largest singular value, or of a vector's length: less is nothing but rounding."""


@dataclass(frozen=True, eq=False)
class PrincipalDirection:
    """The first principal component of some rows, oriented."""

    direction_D: Float[Tensor, "D"]
    """Of unit length."""
    explained: float
    """Fraction of the rows' squared length (of their variance if they are centered) along it."""
    cosine: float
    """With the vector by which it was oriented; above 0."""


def principal_direction(
    rows_ND: Float[Tensor, "N D"], toward_D: Float[Tensor, "D"], *, centered: bool
) -> PrincipalDirection:
    """The unit vector along which the rows' mean square is largest, on the side of `toward_D`.

    Args:
        rows_ND: such as the differences of pairs.
        toward_D: its product with the direction is positive, which fixes the sign that a principal
            component does not have.
        centered: whether the rows' mean is taken off them first.

    Raises:
        NotDefined: there is no such direction: the rows are all 0 (after centering: all the same),
            two directions are equally long, or it is orthogonal to `toward_D`.
    """
    if centered:
        rows_ND = rows_ND - rows_ND.mean(dim=0)
    size = float(rows_ND.abs().max()) if len(rows_ND) else 0.0
    scale = max(size, float(toward_D.abs().max()))
    if size <= _LEAST * scale or size == 0:
        raise NotDefined(
            "the differences of the pairs are all the same, so centered on their mean nothing is "
            "left that has a principal component; leave --center out, or give mean_difference"
            if centered
            else "the differences of the pairs are all 0, so there is no direction; give other "
            "texts, or a later --site"
        )
    values_K, vectors_KD = _right_singular(rows_ND)
    if len(values_K) > 1 and float(values_K[0] - values_K[1]) <= _LEAST * float(values_K[0]):
        raise NotDefined(
            "the two largest principal components are equally large, so the first is not defined; "
            "give more texts, or another method"
        )
    direction_D = vectors_KD[0]
    product = float(direction_D @ toward_D)
    length = float(row_norms(toward_D))
    if abs(product) <= _LEAST * length or length == 0:
        raise NotDefined(
            "the principal component is orthogonal to the mean difference, which would tell its "
            "sign; give another method"
        )
    explained = float(values_K[0] ** 2 / values_K.square().sum())
    if product < 0:
        direction_D, product = -direction_D, -product
    return PrincipalDirection(unit(direction_D), explained, product / length)


def leading_components(
    centered_ND: Float[Tensor, "N D"],
) -> tuple[Float[Tensor, "K"], Float[Tensor, "K D"]]:
    """Variances (of N - 1 degrees of freedom) and directions of the principal components, largest
    first, without those that are nothing but rounding.

    Args:
        centered_ND: rows of mean 0.
    """
    values_K, vectors_KD = _right_singular(centered_ND)
    kept_K = values_K > _LEAST * values_K[0]
    return values_K[kept_K].square() / max(1, len(centered_ND) - 1), vectors_KD[kept_K]


def _right_singular(rows_ND: Tensor) -> tuple[Float[Tensor, "K"], Float[Tensor, "K D"]]:
    """Singular values, largest first, and right singular vectors; of many rows by their products,
    whose matrix is small."""
    if len(rows_ND) <= 2 * rows_ND.shape[1]:
        svd: tuple[Tensor, Tensor, Tensor] = _linalg.svd(rows_ND, full_matrices=False)
        return svd[1:]
    eigh: tuple[Tensor, Tensor] = _linalg.eigh(rows_ND.T @ rows_ND)
    squares_D, vectors_DD = eigh
    return squares_D.flip(0).clamp(min=0).sqrt(), vectors_DD.flip(1).T
