"""The three tiers of steering with features (arXiv 2505.14536)."""

from abc import abstractmethod
from typing import ClassVar

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from .. import queued
from ..rules import Context
from ..spec import Gate
from ..token_watch import SeenTokens
from .base import GateRule


class Constant(GateRule):
    """Open everywhere."""

    always_open: ClassVar[bool] = True

    def open(self, h_BLD: Float[Tensor, "B L D"], seen: SeenTokens) -> Bool[Tensor, "B L"]:
        """True everywhere."""
        del h_BLD
        return torch.ones_like(seen.content_BL)


class FiringGate(GateRule):
    """A gate that looks at nothing but where the features fire, so that many can be asked at
    once."""

    needs_features: ClassVar[bool] = True

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

    def __init__(self, gate: Gate, context: Context) -> None:
        super().__init__(gate, context)
        self._on_B: Tensor | None = None

    def stays_open(self, seen: SeenTokens) -> bool:
        """Once every row is switched on; a device that would be waited for is not asked."""
        if not seen.continues or self._on_B is None or queued.is_queued(self._on_B.device):
            return False
        return bool(self._on_B.all())

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
