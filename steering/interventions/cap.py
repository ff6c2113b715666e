"""How far a change may go so that the activation stays among ordinary ones, in closed form.

After in-distribution steering (IDS, arXiv 2510.13285), of which no code was published: the largest
factor a in [0, 1] with d(h + a * change) <= budget, where d is the Mahalanobis distance from a mean
in some principal components, d^2(x) = sum_k ((x - mean) . basis_k)^2 / variance_k. For the edit
`add` of a vector v at strength s, s * a is the largest strength in [0, s].
"""

from typing import ClassVar

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from ...sae.common.errors import InputError
from .rules import Context, Rule, wide
from .spec import Cap


class CapRule(Rule):
    """A cap at work."""

    needs: ClassVar = {"mean": "D", "basis": "K D", "variances": "K"}

    def __init__(self, cap: Cap, context: Context) -> None:
        """Take the specification and where it is to work.

        Raises:
            InputError: a vector is missing or of a wrong shape, or a variance is not above 0.
        """
        super().__init__("cap", cap.vectors, {}, (), context)
        variances_K = self.tensors["variances"]
        if not bool((variances_K > 0).all()):
            raise InputError(
                f"the least of the variances of cap is {float(variances_K.min())}, but must be "
                "above 0; leave components without variance out"
            )
        self._budget = cap.budget
        self.tensors["rows"] = self.tensors["basis"] / rearrange(variances_K.sqrt(), "k -> k 1")

    def distance(self, h: Float[Tensor, "*B D"]) -> Float[Tensor, "*B"]:
        """The Mahalanobis distance of activations, in float32 at least."""
        h = wide(h)
        return ((h - self.tensor("mean", h)) @ self.tensor("rows", h).T).square().sum(-1).sqrt()

    def factor(
        self, h: Float[Tensor, "*B D"], change: Float[Tensor, "*B D"]
    ) -> Float[Tensor, "*B"]:
        """The largest a in [0, 1] with h + a * change within the budget; 0 where h is not.

        Where the change does not move h within the components, it is 1.
        """
        h, change = wide(h), wide(change)
        rows_KD = self.tensor("rows", h)
        from_mean, moved = (h - self.tensor("mean", h)) @ rows_KD.T, change @ rows_KD.T
        # a^2 A + 2 a B + C = 0, with C <= 0 within the budget, so that one root is not below 0.
        A, B = moved.square().sum(-1), (from_mean * moved).sum(-1)
        C = from_mean.square().sum(-1) - self._budget**2
        root = (B.square() - A * C).clamp(min=0).sqrt()
        # Of the two forms of the larger root, the one that subtracts no near equals.
        sum_of_both = torch.where(B > 0, B + root, 1.0)
        larger = torch.where(B > 0, -C / sum_of_both, (root - B) / torch.where(A > 0, A, 1.0))
        larger = torch.where(A > 0, larger.clamp(0.0, 1.0), 1.0)
        return torch.where(C <= 0, larger, 0.0)
