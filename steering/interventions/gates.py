"""Where an intervention works: a gate is open at some positions of a text and closed at others."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from ...sae.autoencoder import SparseAutoencoder
from .firing import FiringLatents
from .intervention import Intervention
from .token_watch import SeenTokens


class Gate(ABC):
    """The gate of one intervention, which sees a batch of texts pass by pass.

    A pass that does not continue the texts of the one before begins new ones, each row a text.
    """

    always_open: ClassVar[bool] = False
    """Whether it is open everywhere, padding included. Then it is not asked, and the model may be
    called with embeddings in place of tokens."""

    def __init__(self, intervention: Intervention, sae: SparseAutoencoder) -> None:
        """Take the intervention that the gate is of, and the autoencoder of its features."""
        self.intervention = intervention
        self.firing = FiringLatents(
            sae,
            [feature.index for feature in intervention.features],
            [intervention.threshold * each.max_activation for each in intervention.features],
        )

    @abstractmethod
    def open(self, h_BLD: Float[Tensor, "B L D"], seen: SeenTokens) -> Bool[Tensor, "B L"]:
        """Where the gate is open in this pass.

        Args:
            h_BLD: raw activations at the site before any intervention.
            seen: the tokens of the pass, on any device.

        Returns:
            True where the activation is changed, on any device.
        """

    def fires(self, h_BLD: Float[Tensor, "B L D"], seen: SeenTokens) -> Bool[Tensor, "B L"]:
        """Where any of the features exceeds its threshold; padding, special tokens and a text's
        first token never do."""
        fires_BL = torch.zeros_like(seen.content_BL)
        rows_ND = h_BLD[seen.content_BL.to(h_BLD.device)]
        fires_BL[seen.content_BL] = self.firing.fires(rows_ND).to(fires_BL.device)
        return fires_BL


class Constant(Gate):
    """Open everywhere."""

    always_open: ClassVar[bool] = True

    def open(self, h_BLD: Float[Tensor, "B L D"], seen: SeenTokens) -> Bool[Tensor, "B L"]:
        """True everywhere."""
        del h_BLD
        return torch.ones_like(seen.content_BL)


class FiringGate(Gate):
    """A gate that looks at nothing but where the features fire, so that many can be asked at
    once."""

    @abstractmethod
    def open_where(self, fires_BL: Bool[Tensor, "B L"], seen: SeenTokens) -> Bool[Tensor, "B L"]:
        """Where the gate is open in this pass, from where `fires` is true."""

    def stays_open(self, seen: SeenTokens) -> bool:
        """Whether the gate is open in this pass wherever the features fire."""
        del seen
        return False

    def open(self, h_BLD: Float[Tensor, "B L D"], seen: SeenTokens) -> Bool[Tensor, "B L"]:
        """By `open_where` of the positions that fire."""
        return self.open_where(self.fires(h_BLD, seen), seen)


class PerToken(FiringGate):
    """Open where a feature fires."""

    def open_where(self, fires_BL: Bool[Tensor, "B L"], seen: SeenTokens) -> Bool[Tensor, "B L"]:
        """The positions that fire."""
        return fires_BL


class PerInput(FiringGate):
    """Open on the whole of a text whose prompt fires, else from the first token that fires on."""

    def __init__(self, intervention: Intervention, sae: SparseAutoencoder) -> None:
        super().__init__(intervention, sae)
        self._on_B: Tensor | None = None

    def stays_open(self, seen: SeenTokens) -> bool:
        """Once every row is switched on."""
        return seen.continues and self._on_B is not None and bool(self._on_B.all())

    def open_where(self, fires_BL: Bool[Tensor, "B L"], seen: SeenTokens) -> Bool[Tensor, "B L"]:
        """A prompt token switches its whole row on; a later one what follows it, itself included.

        Positions of earlier passes are never revisited: what the cache holds of them stands.
        """
        on_BL = fires_BL.cummax(dim=1).values
        on_BL[:, : seen.n_prompt] = fires_BL[:, : seen.n_prompt].any(dim=1, keepdim=True)
        if seen.continues and self._on_B is not None:
            on_BL |= rearrange(self._on_B, "b -> b 1")
        self._on_B = on_BL[:, -1]
        return on_BL
