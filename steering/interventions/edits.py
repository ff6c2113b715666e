"""What an intervention does to an activation h: h' = h + edit(h, push), where its gate is open."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from ...kernels.numerics import at_least_float32
from ...sae.autoencoder import SparseAutoencoder
from ...sae.config import NormalizeActivations
from ...sae.row_normalization import normalize_rows
from ..registries import DIRECTIONS
from .intervention import Intervention


@dataclass(frozen=True, eq=False)
class Push:
    """Along which vectors an intervention pushes, and how far; float32 at least."""

    vectors_PD: Float[Tensor, "P D"]
    """One vector for each feature, in the autoencoder's scaled units; a decoder row has norm 1."""
    strengths_P: Float[Tensor, "P"]
    """strength * sign of each feature; 0 must change nothing."""
    amounts_P: Float[Tensor, "P"]
    """strength * sign * max_activation: how far along the vectors, in scaled units."""
    input_scale: Float[Tensor, ""]
    """Scaled units are raw ones times this."""
    normalize_activations: NormalizeActivations = "none"
    """What the autoencoder does to each row; then scaled units are those of the normalized row."""

    @cached_property
    def raw_D(self) -> Float[Tensor, "D"]:
        """The sum of amount * vector, in units of raw activations, or of normalized rows."""
        return self.amounts_P @ self.vectors_PD / self.input_scale

    def raw_at(self, h_BLD: Float[Tensor, "B L D"]) -> Float[Tensor, "..."]:
        """The sum of amount * vector in the units of raw activations h: [D], or [B, L, D] where
        each row has units of its own, as its normalization gives it."""
        if self.normalize_activations == "none":
            return self.raw_D
        _, scale_BL1, _ = normalize_rows(h_BLD.to(self.raw_D.dtype), self.normalize_activations)
        return scale_BL1 * self.raw_D


Edit = Callable[[Float[Tensor, "B L D"], Push], Float[Tensor, "..."]]
"""From raw activations as they were before any intervention, and the push, to what is added to
them: [B, L, D], or [D] if it is the same everywhere. Several interventions' changes add up."""


def add(h_BLD: Float[Tensor, "B L D"], push: Push) -> Float[Tensor, "..."]:
    """Add the push, whatever the activation is, as in arXiv 2505.14536."""
    return push.raw_at(h_BLD)


def push_of(intervention: Intervention, sae: SparseAutoencoder) -> Push:
    """Along which vectors an intervention pushes, and how far, with the features of `sae`.

    Raises:
        InputError: there is no such direction, or it has no vector for a feature.
        ValueError: the direction gave something else than a vector for each feature.
    """
    features = intervention.features
    vectors_PD = DIRECTIONS.get(intervention.direction)(sae, features, intervention.seed)
    if vectors_PD.shape != (len(features), sae.config.d_model):
        raise ValueError(
            f"the direction {intervention.direction} gave {list(vectors_PD.shape)}; it must give "
            f"{[len(features), sae.config.d_model]}"
        )
    dtype = at_least_float32(vectors_PD.dtype)
    vectors_PD = vectors_PD.to(sae.W_dec.device, dtype)

    def numbers(values: list[float]) -> Float[Tensor, "P"]:
        return torch.tensor(values, dtype=dtype, device=vectors_PD.device)

    return Push(
        vectors_PD=vectors_PD,
        strengths_P=numbers([feature.sign * feature.strength for feature in features]),
        amounts_P=numbers([feature.amount for feature in features]),
        input_scale=sae.input_scale.to(dtype),
        normalize_activations=sae.config.normalize_activations,
    )


def change(intervention: Intervention, sae: SparseAutoencoder) -> Float[Tensor, "D"]:
    """What an intervention that adds changes a raw activation by: the sum of amount * vector /
    input_scale."""
    return push_of(intervention, sae).raw_D
