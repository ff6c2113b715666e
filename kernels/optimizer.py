"""Unit-norm decoder rows under a gradient method: projection before the step, scaling after it."""

import torch
from jaxtyping import Float
from torch import Tensor

from .norms import row_norms


def project_gradient_(
    gradient: Float[Tensor, "F D"], weights: Float[Tensor, "F D"]
) -> Float[Tensor, "F D"]:
    """Remove in place from each gradient row its part along the (unit) row of the weights.

    A step along a row only changes its length, which `normalize_rows_` takes back; without the
    projection that part would still fill the optimiser's moments.
    """
    along_F1 = torch.einsum("fd,fd->f", gradient, weights).unsqueeze(-1)
    return gradient.addcmul_(along_F1, weights, value=-1)


def normalize_rows_(weights: Float[Tensor, "F D"]) -> Float[Tensor, "F D"]:
    """Scale every row to norm 1 in place; a zero row stays zero."""
    norms_F1 = row_norms(weights).unsqueeze(-1)
    return weights.div_(norms_F1.clamp(min=torch.finfo(weights.dtype).tiny))
