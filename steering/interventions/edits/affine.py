"""Affine edits: `diagonal`, coordinate by coordinate, and `lowrank`, in a few directions."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ..rules import wide
from .base import EditRule


class Diagonal(EditRule):
    """Map each coordinate by itself: w * h + b, as Lin-AcT and LinEAS do.

    Where `low` and `high` are given, a coordinate outside of them stays as it is (arXiv 2410.23054,
    2503.10679).
    """

    needs: ClassVar = {"w": "D", "b": "D"}
    may_have: ClassVar = {"low": "D", "high": "D"}
    may_be_infinite: ClassVar = ("low", "high")

    def change(self, h_BLD: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """(w - 1) * h + b within the support, else 0."""
        h_BLD = wide(h_BLD)
        change_BLD = (self.tensor("w", h_BLD) - 1) * h_BLD + self.tensor("b", h_BLD)
        if "low" in self.tensors:
            change_BLD = torch.where(h_BLD >= self.tensor("low", h_BLD), change_BLD, 0.0)
        if "high" in self.tensors:
            change_BLD = torch.where(h_BLD <= self.tensor("high", h_BLD), change_BLD, 0.0)
        return change_BLD


class LowRank(EditRule):
    """Lead h in the rows of R to W h + b: h + R^T (W h + b - R h), as LoReFT (arXiv 2404.03592)."""

    needs: ClassVar = {"R": "r D", "W": "r D", "b": "r"}

    def change(self, h_BLD: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """R^T (W h + b - R h)."""
        h_BLD = wide(h_BLD)
        R_RD, W_RD = self.tensor("R", h_BLD), self.tensor("W", h_BLD)
        return (h_BLD @ (W_RD - R_RD).T + self.tensor("b", h_BLD)) @ R_RD
