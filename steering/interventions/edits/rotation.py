"""The edit `rotate`: h is turned within a plane, which keeps its norm."""

import math
from typing import ClassVar

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from ....kernels.numerics import row_norms
from ..rules import Context, wide
from ..spec import Edit
from .base import EditRule
from .projection import orthonormal


class Rotate(EditRule):
    """Turn h in the plane of `b1` and `b2` by `angle` degrees, from b1 towards b2.

    The part of h in the plane is turned (selective steering, arXiv 2601.19375); with `absolute` it
    is led to that angle from b1, whatever it was (angular steering, arXiv 2510.26243). With
    `adaptive` only tokens with h.b1 > 0 are turned. b2 is made orthogonal to b1. The norm of h
    stays as it is at strength 1; between 0 and 1 h goes along the chord.
    """

    needs: ClassVar = {"b1": "D", "b2": "D"}
    settings: ClassVar = {"angle": 0.0, "absolute": False, "adaptive": False}

    def __init__(self, edit: Edit, context: Context) -> None:
        super().__init__(edit, context)
        plane_2D = torch.stack([self.tensors["b1"], self.tensors["b2"]])
        self.tensors["plane"] = orthonormal(plane_2D, "rotate")
        angle = math.radians(self.number("angle"))
        cos, sin = math.cos(angle), math.sin(angle)
        dtype = self.tensors["plane"].dtype
        self.tensors["turned"] = torch.tensor([[cos, sin], [-sin, cos]], dtype=dtype)

    def change(self, h_BLD: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """What the part in the plane becomes, less what it is."""
        h_BLD = wide(h_BLD)
        plane_2D, turned_22 = self.tensor("plane", h_BLD), self.tensor("turned", h_BLD)
        inside_BL2 = h_BLD @ plane_2D.T
        if self.setting("absolute"):
            become_BL2 = rearrange(row_norms(inside_BL2), "b l -> b l 1") * turned_22[0]
        else:
            become_BL2 = inside_BL2 @ turned_22
        change_BLD = (become_BL2 - inside_BL2) @ plane_2D
        if self.setting("adaptive"):
            change_BLD = torch.where(inside_BL2[..., :1] > 0, change_BLD, 0.0)
        return change_BLD
