"""Matrices in int8: a row q of whole numbers and one scale s, read as s * q in float32.

q is the row over its largest magnitude, times 127, rounded to the nearest whole number; s is the
norm of the row over the norm of q. So a row keeps its norm, and unit rows of a decoder are unit
rows again; an error of direction of about 0.4 % of the row's largest element stays in each element.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int8
from torch import Tensor

from ...kernels.numerics import row_norms
from ..common.errors import InputError

ROUNDED = ("W_enc", "W_dec")
"""The matrices that are stored so; all else of an autoencoder stays as it is."""
_LARGEST = 127


def scale_name(name: str) -> str:
    """What the scales of a matrix are called in a file."""
    return f"{name}_scale"


def round_rows(
    matrix_FD: Float[Tensor, "F D"],
) -> tuple[Int8[Tensor, "F D"], Float[Tensor, "F"]]:
    """The whole numbers and the scales (float32) of the rows; of a row of zeros all are 0."""
    wide_FD = matrix_FD.detach().double()
    largest_F1 = wide_FD.abs().amax(1, keepdim=True)
    rounded_FD = (wide_FD / largest_F1.clamp(min=1e-300) * _LARGEST).round()
    norms_F = row_norms(rounded_FD).clamp(min=1)
    return rounded_FD.to(torch.int8), (row_norms(wide_FD) / norms_F).float()


def rows_from(rounded_FD: Int8[Tensor, "F D"], scale_F: Float[Tensor, "F"]) -> Float[Tensor, "F D"]:
    """The matrix in float32: every element is one product, rounded once."""
    return rounded_FD.float() * scale_F.float()[:, None]


def rounded(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an autoencoder with its two matrices in int8, and their scales beside them."""
    found = dict(tensors)
    for name in ROUNDED:
        found[name], found[scale_name(name)] = round_rows(found[name])
    return found


def widened(tensors: Mapping[str, Tensor], where: object) -> dict[str, Tensor]:
    """The tensors in float32 that `rounded` made of an autoencoder's.

    Raises:
        InputError: a matrix or its scales are missing, or not of their dtypes and shapes; `where`
            names the file.
    """
    found = dict(tensors)
    for name in ROUNDED:
        rows_FD, scale_F = found.get(name), found.pop(scale_name(name), None)
        right = (
            rows_FD is not None
            and scale_F is not None
            and rows_FD.dtype == torch.int8
            and scale_F.dtype == torch.float32
            and rows_FD.ndim == 2
            and list(scale_F.shape) == [len(rows_FD)]
        )
        if rows_FD is None or scale_F is None or not right:
            raise InputError(
                f"{where}: {name} is not there in int8 with a float32 scale of each row, as the "
                "configuration beside it says; copy the whole folder again"
            )
        found[name] = rows_from(rows_FD, scale_F)
    return found
