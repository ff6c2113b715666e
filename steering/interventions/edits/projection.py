"""The edit `project_out`: the component along some directions is taken away, or set to a value."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ....kernels.numerics import row_norms
from ....sae.common.errors import InputError
from ..rules import Context, wide
from ..spec import Edit
from .base import EditRule

_LEAST = 1e-6
"""A direction that the earlier ones leave so little of is none of its own."""


class ProjectOut(EditRule):
    """Take away the part along directions: h - (h.u) u, as directional ablation (arXiv 2406.11717).

    `u` is one direction or several rows, of any length; they need not be orthogonal. In their
    place features give their decoder rows, and their strengths count for nothing. With
    `projection`, one number or one for each direction, h.u becomes that instead of 0; directions
    must then be orthogonal.
    """

    needs: ClassVar = {"u": "D|K D"}
    may_have: ClassVar = {"projection": "|K"}
    may_take_features: ClassVar[bool] = True
    adds_features: ClassVar[bool] = False

    def __init__(self, edit: Edit, context: Context) -> None:
        super().__init__(edit, context)
        if edit.features and "u" in self.tensors:
            raise InputError("project_out has features and the vector u; give one of them")
        given_KD = (
            self.push.vectors_PD if edit.features else self.tensors["u"].view(-1, context.width)
        )
        self.tensors["basis"] = orthonormal(given_KD, "project_out")
        if "projection" in self.tensors:
            unit_KD = given_KD / row_norms(given_KD)[:, None]
            if not bool((unit_KD.double() - self.tensors["basis"]).abs().amax() < _LEAST):
                raise InputError(
                    "project_out sets projections along directions that are not orthogonal; give "
                    "orthogonal ones, or one for each edit"
                )

    def change(self, h_BLD: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """The part along the directions, taken away, and the wanted one added."""
        h_BLD = wide(h_BLD)
        basis_KD = self.tensor("basis", h_BLD)
        along_BLK = h_BLD @ basis_KD.T
        if "projection" in self.tensors:
            along_BLK = along_BLK - self.tensor("projection", h_BLD)
        return -(along_BLK @ basis_KD)


def orthonormal(rows_KD: Float[Tensor, "K D"], kind: str) -> Float[Tensor, "K D"]:
    """Rows made orthogonal and of norm 1, in float64, each without what is along the earlier ones.

    Raises:
        InputError: one is 0 or along the others.
    """
    rows_KD = rows_KD.detach().double()
    found: list[Tensor] = []
    for row_D in rows_KD:
        left_D = row_D
        for _ in range(2):  # twice, so that rounding leaves nothing along the others
            for other_D in found:
                left_D = left_D - (left_D @ other_D) * other_D
        norm, before = float(row_norms(left_D)), float(row_norms(row_D))
        if not norm > _LEAST * before:
            raise InputError(
                f"a direction of {kind} is 0 or along the others; give directions that are "
                "independent"
            )
        found.append(left_D / norm)
    return torch.stack(found)
