"""A step in bfloat16: products of rounded rows and weights, while the weights stay as they are."""

from collections.abc import Callable
from typing import TypeVar, cast

import torch
from jaxtyping import BFloat16, Float
from torch import Tensor, nn

from ..sae.autoencoder import SparseAutoencoder

T = TypeVar("T")

_ROUNDED = ("W_enc", "b_enc", "W_dec")

Rows = BFloat16[Tensor, "B D"]


def in_bfloat16(
    sae: SparseAutoencoder,
    scaled_BD: Float[Tensor, "B D"],
    target_BD: Float[Tensor, "B D"],
    compute: Callable[[SparseAutoencoder, Rows, Rows], T],
) -> T:
    """What `compute` makes of the autoencoder, the rows and their target rounded to bfloat16.

    Its gradients reach the weights in their own dtype. The encoder's center is subtracted from the
    rows and b_dec from the target before they are rounded, and the autoencoder given has zeros in
    their place, which carry the gradient: a row may have entries far from 0 that hardly vary, whose
    rounding would outweigh what they tell. An activation's own parameters stay as they are, too.

    Args:
        sae: its parameters are exchanged until `compute` returns.
        scaled_BD: [B, D] rows in scaled units.
        target_BD: [B, D] what a transcoder predicts from them; of an autoencoder the rows.
        compute: takes the autoencoder, the rows less its center, and the target less b_dec.
    """
    rounded = {
        f"sae.{name}": weights.to(torch.bfloat16)
        for name, weights in sae.named_parameters()
        if name in _ROUNDED
    }
    rounded["sae.b_dec"] = (sae.b_dec - sae.b_dec.detach()).to(torch.bfloat16)
    rows_BD = rest_BD = (scaled_BD - sae.center.detach()).to(torch.bfloat16)
    if sae.config.transcoder:
        rest_BD = (target_BD - sae.b_dec.detach()).to(torch.bfloat16)
    outcome = torch.func.functional_call(_Holder(sae), rounded, (compute, rows_BD, rest_BD))
    return cast(T, outcome)


class _Holder(nn.Module):
    """`functional_call` exchanges parameters for the time of a module's forward alone."""

    def __init__(self, sae: SparseAutoencoder) -> None:
        super().__init__()
        self.sae = sae

    def forward(
        self,
        compute: Callable[[SparseAutoencoder, Rows, Rows], T],
        rows_BD: Tensor,
        rest_BD: Tensor,
    ) -> T:
        return compute(self.sae, rows_BD, rest_BD)
