"""Edits of latents: what the autoencoder would decode to with another activation, its error kept.

Only the latents that are edited are looked at in the codes: h + (a' - a) W_dec / input_scale is the
decoding of the changed codes plus what the autoencoder misses of h, without decoding.
"""

from abc import abstractmethod
from typing import ClassVar

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from ....kernels.numerics import at_least_float32
from ....sae.autoencoder import SparseAutoencoder
from ....sae.common.errors import InputError
from .. import queued
from ..few_latents import few_activations, has_own_thresholds
from ..rules import Context, require_latent
from ..spec import Edit, Unit
from .base import EditRule


def latent_activations(
    sae: SparseAutoencoder, h_BLD: Float[Tensor, "B L D"], latents_P: Int[Tensor, "P"]
) -> tuple[Float[Tensor, "B L P"], Float[Tensor, "B L 1"] | None]:
    """Activations of some latents as encode gives them, in scaled units, and by what the decoded
    row is multiplied where the autoencoder normalizes each row."""
    h_BLD = h_BLD.to(sae.W_enc.device)
    if (
        queued.is_queued(h_BLD.device)
        and sae.config.normalize_activations == "none"
        and has_own_thresholds(sae)
    ):
        latents_1P = rearrange(latents_P, "p -> 1 p")
        rows_1ND = rearrange(h_BLD, "b l d -> 1 (b l) d")
        acts_1NP = few_activations(sae, rows_1ND, latents_1P)
        return acts_1NP.view(*h_BLD.shape[:2], len(latents_P)), None
    codes = sae.encode(h_BLD)
    n_asked = len(latents_P)
    columns_F = latents_P.new_full((sae.config.n_latents,), n_asked)
    columns_F[latents_P] = torch.arange(n_asked, device=columns_F.device)
    # The last column takes the latents that nobody asks for.
    acts_BLQ = codes.values.new_zeros(*codes.values.shape[:-1], n_asked + 1)
    acts_BLQ = acts_BLQ.scatter_add(-1, columns_F[codes.indices], codes.values)
    return acts_BLQ[..., :-1], codes.row_scale


class LatentEdit(EditRule):
    """Gives latents another activation than they have."""

    adds_features: ClassVar[bool] = False
    needs_autoencoder: ClassVar[bool] = True

    @abstractmethod
    def target(self, acts_BLP: Float[Tensor, "B L P"]) -> Float[Tensor, "B L P"]:
        """The activations that the latents are to have, in scaled units."""

    def latents(self) -> Int[Tensor, "P"]:
        """The numbers of the latents."""
        return torch.tensor([feature.index for feature in self.edit.features])

    def vectors(self) -> Float[Tensor, "P D"]:
        """Along which vector each latent's activation changes h, in scaled units."""
        return self.push.vectors_PD

    def __init__(self, edit: Edit, context: Context) -> None:
        super().__init__(edit, context)
        self.latents_P = self.latents().to(self.sae.W_enc.device)
        self.vectors_PD = self.vectors() / self.sae.input_scale

    def change(self, h_BLD: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """(a' - a) times the vectors, in the units of h."""
        acts_BLP, scale_BL1 = latent_activations(self.sae, h_BLD, self.latents_P)
        acts_BLP = acts_BLP.to(self.vectors_PD.dtype)
        change_BLD = (self.target(acts_BLP) - acts_BLP) @ self.vectors_PD
        if scale_BL1 is not None:
            change_BLD = change_BLD * scale_BL1
        return change_BLD.to(h_BLD.device)


class Clamp(LatentEdit):
    """Give each feature the activation strength * unit, whatever it has; 0 is ablation."""

    needs_features: ClassVar[bool] = True
    units: ClassVar[tuple[Unit, ...]] = ("max_activation", "p99", "raw")

    def target(self, acts_BLP: Float[Tensor, "B L P"]) -> Float[Tensor, "B L P"]:
        return self.push.amounts_P.to(acts_BLP).expand_as(acts_BLP)


class MinClamp(Clamp):
    """Raise each feature's activation to strength * unit where it is below."""

    def target(self, acts_BLP: Float[Tensor, "B L P"]) -> Float[Tensor, "B L P"]:
        return torch.maximum(acts_BLP, self.push.amounts_P.to(acts_BLP))


class Ablate(LatentEdit):
    """Take each feature's activation away; the strengths of features count for nothing."""

    needs_features: ClassVar[bool] = True

    def target(self, acts_BLP: Float[Tensor, "B L P"]) -> Float[Tensor, "B L P"]:
        return torch.zeros_like(acts_BLP)


class LatentMap(LatentEdit):
    """Give each of some latents the activation w * a + b, as fitted.

    Where `low` and `high` are given, in scaled units, a latent whose activation is outside of them
    keeps it. Without autoencoder this is `Diagonal` (arXiv 2410.23054, 2503.10679).
    """

    needs: ClassVar = {"latents": "P", "w": "P", "b": "P"}
    may_have: ClassVar = {"low": "P", "high": "P"}
    may_be_infinite: ClassVar = ("low", "high")

    def latents(self) -> Int[Tensor, "P"]:
        latents_P = self.tensors["latents"]
        if latents_P.is_floating_point():
            raise InputError("the vector latents holds no whole numbers; give numbers of latents")
        seen: set[int] = set()
        for index in map(int, latents_P):
            require_latent(index, self.sae)
            if index in seen:
                raise InputError(f"latent {index} is mapped twice; give each once")
            seen.add(index)
        return latents_P

    def vectors(self) -> Float[Tensor, "P D"]:
        rows_PD = self.sae.W_dec.detach()[self.latents_P]
        return rows_PD.to(at_least_float32(rows_PD.dtype))

    def target(self, acts_BLP: Float[Tensor, "B L P"]) -> Float[Tensor, "B L P"]:
        mapped_BLP = self.tensor("w", acts_BLP) * acts_BLP + self.tensor("b", acts_BLP)
        if "low" in self.tensors:
            is_low_BLP = acts_BLP < self.tensor("low", acts_BLP)
            mapped_BLP = torch.where(is_low_BLP, acts_BLP, mapped_BLP)
        if "high" in self.tensors:
            is_high_BLP = acts_BLP > self.tensor("high", acts_BLP)
            mapped_BLP = torch.where(is_high_BLP, acts_BLP, mapped_BLP)
        return mapped_BLP
