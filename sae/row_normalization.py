"""Normalization of each row before it is encoded, as some libraries train their autoencoders."""

import torch
from jaxtyping import Float
from torch import Tensor

from .config import NormalizeActivations

_EPSILON = 1e-5


def normalize_rows(
    x: Float[Tensor, "*B D"], how: NormalizeActivations
) -> tuple[Float[Tensor, "*B D"], Float[Tensor, "*B 1"], Float[Tensor, "*B 1"]]:
    """Rows as the encoder takes them, and what undoes it: x = normalized * scale + shift.

    The formulas are those of SAELens 6 and of OpenAI's autoencoders (arXiv 2406.04093): the 1e-5
    that `layer_norm` adds to the deviation is not undone. A row of zeros stays one under
    `constant_norm_rescale`, where SAELens gives NaN.

    Args:
        x: [..., D] rows.
        how: see `NormalizeActivations`; not `none`.
    """
    if how == "constant_norm_rescale":
        scale = x.square().sum(dim=-1, keepdim=True).sqrt() / x.shape[-1] ** 0.5
        return x / torch.where(scale > 0, scale, 1), scale, torch.zeros_like(scale)
    mean = x.mean(dim=-1, keepdim=True)
    centered = x - mean
    deviation = centered.std(dim=-1, keepdim=True)
    return centered / (deviation + _EPSILON), deviation, mean
