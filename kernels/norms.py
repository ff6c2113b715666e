"""Row norms, differentiable, with gradient 0 where the row is 0."""

import torch
from jaxtyping import Float
from torch import Tensor


def row_norms(x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B"]:
    """The Euclidean norm over the last dimension."""
    return torch.linalg.vector_norm(x, dim=-1)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - untyped builtin
