"""Sparse codes: the one type from the encoder to the decoder, steering and selection."""

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor


class Codes(NamedTuple):
    """The active latents of a batch of rows.

    Shapes are written for rows [B]; any number of leading dimensions may stand in their place.
    An unused slot holds index 0 and value 0, so it changes no sum; within a row no other index
    occurs twice. The order of a row's slots is up to the operator that made it.
    """

    indices: Int[Tensor, "*B M"]
    """int64: the latent of each slot."""
    values: Float[Tensor, "*B M"]
    """The latent's activation, in the dtype of the pre-activations; positive in a used slot."""
    counts: Int[Tensor, "*B"] | None = None
    """int64: used slots of each row, which come first; None where all M slots are meant."""

    def dense(self, n_latents: int) -> Float[Tensor, "*B F"]:
        """The codes as a dense [..., F] tensor, for tests and small things."""
        dense = self.values.new_zeros(*self.values.shape[:-1], n_latents)
        return dense.scatter_add(-1, self.indices, self.values)
