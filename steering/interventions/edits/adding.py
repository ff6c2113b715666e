"""The edit `add`: a vector, or the decoder rows of features, whatever the activation is."""

from typing import ClassVar

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from ....kernels.numerics import row_norms
from ....sae.common.errors import InputError
from ..rules import Context, wide
from ..spec import Edit, Unit
from .base import EditRule


class Add(EditRule):
    """Add the push, whatever the activation is, as in arXiv 2505.14536.

    Of features that is the sum of strength * unit * decoder row; else it is the vector `v`. In the
    unit `norm` each vector is as long as the strength times the activation's norm at that token.
    """

    needs: ClassVar = {"v": "D"}
    units: ClassVar[tuple[Unit, ...]] = ("max_activation", "p99", "norm", "raw")
    may_take_features: ClassVar[bool] = True

    def __init__(self, edit: Edit, context: Context) -> None:
        super().__init__(edit, context)
        if edit.features and self.tensors:
            raise InputError("add has features and the vector v; give one of them")
        if self.tensors and self.unit == "norm" and not bool(self.tensors["v"].any()):
            raise InputError("v of add is 0 and has no direction for the unit norm; fit it again")

    @property
    def is_one_vector(self) -> bool:
        """Whether the same is added to every activation."""
        if self.unit == "norm":
            return False
        in_row_units = self.edit.features and self.unit != "raw"
        return not in_row_units or self.push.normalize_activations == "none"

    def change(self, h_BLD: Float[Tensor, "B L D"]) -> Float[Tensor, "..."]:
        """The push, [D] where it is one vector."""
        if self.unit in ("max_activation", "p99"):
            return self.push.raw_at(h_BLD)
        if self.unit == "raw":
            return self.push.unit_D if self.edit.features else self.tensor("v", h_BLD)
        h_BLD = wide(h_BLD)
        norms_BL1 = rearrange(row_norms(h_BLD), "b l -> b l 1")
        if self.edit.features:
            return norms_BL1 * self.push.unit_D.to(h_BLD)
        v_D = self.tensor("v", h_BLD)
        return norms_BL1 * (v_D / row_norms(v_D))
