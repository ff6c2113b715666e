"""Along which vectors the features of an edit push, and how far."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from ....kernels.numerics import at_least_float32, row_norms
from ....sae.autoencoder import SparseAutoencoder
from ....sae.config import NormalizeActivations
from ....sae.row_normalization import normalize_rows
from ...registries import DIRECTIONS
from ..spec import Edit


@dataclass(frozen=True, eq=False)
class Push:
    """Along which vectors features push, and how far; float32 at least."""

    vectors_PD: Float[Tensor, "P D"]
    """One vector for each feature, in the autoencoder's scaled units; a decoder row has norm 1."""
    strengths_P: Float[Tensor, "P"]
    """strength * sign of each feature; 0 must change nothing."""
    amounts_P: Float[Tensor, "P"]
    """strength * sign * unit, max_activation or p99: how far along the vectors, in scaled units."""
    input_scale: Float[Tensor, ""]
    """Scaled units are raw ones times this."""
    normalize_activations: NormalizeActivations = "none"
    """What the autoencoder does to each row; then scaled units are those of the normalized row."""

    @cached_property
    def raw_D(self) -> Float[Tensor, "D"]:
        """The sum of amount * vector, in units of raw activations, or of normalized rows."""
        return self.amounts_P @ self.vectors_PD / self.input_scale

    @cached_property
    def unit_D(self) -> Float[Tensor, "D"]:
        """The sum of strength * vector, each vector of norm 1."""
        return (self.strengths_P / row_norms(self.vectors_PD)) @ self.vectors_PD

    def raw_at(self, h_BLD: Float[Tensor, "B L D"]) -> Float[Tensor, "..."]:
        """The sum of amount * vector in the units of raw activations h: [D], or [B, L, D] where
        each row has units of its own, as its normalization gives it."""
        if self.normalize_activations == "none":
            return self.raw_D
        _, scale_BL1, _ = normalize_rows(h_BLD.to(self.raw_D.dtype), self.normalize_activations)
        return scale_BL1 * self.raw_D


def push_of(edit: Edit, sae: SparseAutoencoder) -> Push:
    """Along which vectors the features of an edit push, and how far.

    Raises:
        InputError: there is no such direction, or it has no vector for a feature.
        ValueError: the direction gave something else than a vector for each feature.
    """
    features = edit.features
    vectors_PD = DIRECTIONS.get(edit.direction)(sae, features, edit.seed)
    if vectors_PD.shape != (len(features), sae.config.d_model):
        raise ValueError(
            f"the direction {edit.direction} gave {list(vectors_PD.shape)}; it must give "
            f"{[len(features), sae.config.d_model]}"
        )
    dtype = at_least_float32(vectors_PD.dtype)
    vectors_PD = vectors_PD.to(sae.W_dec.device, dtype)

    def numbers(values: list[float]) -> Float[Tensor, "P"]:
        return torch.tensor(values, dtype=dtype, device=vectors_PD.device)

    return Push(
        vectors_PD=vectors_PD,
        strengths_P=numbers([feature.sign * feature.strength for feature in features]),
        amounts_P=numbers([feature.in_units(edit.unit or "raw") for feature in features]),
        input_scale=sae.input_scale.to(dtype),
        normalize_activations=sae.config.normalize_activations,
    )
