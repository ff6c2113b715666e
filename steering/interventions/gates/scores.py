"""What gates have in common that read a score from the activation with fitted vectors.

Nothing here waits for the device.
"""

from abc import abstractmethod
from typing import ClassVar

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ....sae.common.errors import InputError
from ..rules import Context, wide
from ..spec import Gate
from ..token_watch import SeenTokens
from .base import GateRule

CHOICES = {
    "scope": ("per_token", "per_input"),
    "pool": ("mean", "last"),
    "side": ("above", "below"),
}


class ScoreGate(GateRule):
    """Open where a score of the activation is above or below the threshold.

    Settings: `scope` is `per_token`, where each content token is asked by itself and no other token
    is steered, or `per_input`, where the prompt is asked once and all its tokens and all that
    follow are steered or none is; `pool` is what is asked then, the `mean` of the prompt's content
    tokens or its `last` token; `side` is `above` or `below`. Each row of a batch is on its own.
    """

    settings: ClassVar = {"scope": "per_token", "pool": "mean", "side": "above"}

    def __init__(self, gate: Gate, context: Context) -> None:
        super().__init__(gate, context)
        for name, choices in CHOICES.items():
            if (value := self.setting(name)) not in choices:
                raise InputError(
                    f"the setting {name} of {gate.kind} is {value!r}; choose {' or '.join(choices)}"
                )
        self._on_B: Tensor | None = None

    @abstractmethod
    def score(self, h: Float[Tensor, "*B D"]) -> Float[Tensor, "*B"]:
        """The score of each activation."""

    def opened(self, scores: Float[Tensor, "*B"]) -> Tensor:
        """How far scores open the gate."""
        if self.setting("side") == "above":
            return scores > self.gate.threshold
        return scores < self.gate.threshold

    def open(
        self, h_BLD: Float[Tensor, "B L D"], seen: SeenTokens
    ) -> Bool[Tensor, "B L"] | Float[Tensor, "B L"]:
        """By the scores of the pass, or of the prompt that was read first."""
        content_BL = seen.content_BL.to(h_BLD.device)
        if self.setting("scope") == "per_token":
            return self.open_tokens(h_BLD, content_BL)
        if not (seen.continues and self._on_B is not None):
            self._on_B = self._of_prompt(h_BLD, content_BL, seen)
        return repeat(self._on_B, "b -> b l", l=h_BLD.shape[1])

    @property
    def asks_each_token(self) -> bool:
        """Whether it remembers nothing, so that rows of any texts can be asked together."""
        return self.setting("scope") == "per_token" and type(self).open is ScoreGate.open

    def open_tokens(
        self, h_BLD: Float[Tensor, "B L D"], content_BL: Bool[Tensor, "B L"]
    ) -> Bool[Tensor, "B L"] | Float[Tensor, "B L"]:
        """Where content tokens open it, each by itself."""
        opened_BL = self.opened(self.score(wide(h_BLD)))
        return torch.where(content_BL, opened_BL, torch.zeros_like(opened_BL))

    def _of_prompt(
        self, h_BLD: Float[Tensor, "B L D"], content_BL: Bool[Tensor, "B L"], seen: SeenTokens
    ) -> Tensor:
        """How far each row's prompt opens the gate: not at all if it has no content token."""
        n_prompt = seen.n_prompt if not seen.continues else h_BLD.shape[1]
        content_BL = content_BL[:, :n_prompt]
        h_BLD = wide(h_BLD[:, :n_prompt])
        if self.setting("pool") == "mean":
            # Padding may hold anything, also what is no number.
            kept_BLD = torch.where(rearrange(content_BL, "b l -> b l 1"), h_BLD, 0.0)
            n_B1 = content_BL.sum(dim=1, keepdim=True).clamp(min=1)
            pooled_BD = kept_BLD.sum(dim=1) / n_B1
        else:
            last_B = last_prompt_column(seen.positions_BL[:, :n_prompt]).to(h_BLD.device)
            pooled_BD = h_BLD[torch.arange(len(h_BLD), device=h_BLD.device), last_B]
        opened_B = self.opened(self.score(pooled_BD))
        return torch.where(content_BL.any(dim=1), opened_B, torch.zeros_like(opened_B))


class SoftGate(ScoreGate):
    """As `ScoreGate`, of log-odds; with `soft`, edits apply by the probability itself, which no
    threshold cuts."""

    settings: ClassVar = {**ScoreGate.settings, "soft": False}

    def __init__(self, gate: Gate, context: Context) -> None:
        super().__init__(gate, context)
        if self.setting("soft") and gate.threshold != 0:
            raise InputError(
                f"threshold is {gate.threshold}, which a soft {gate.kind} has no use for; leave "
                "it out, or set soft to false",
                field="threshold",
            )

    def opened(self, scores: Float[Tensor, "*B"]) -> Tensor:
        if not self.setting("soft"):
            return super().opened(scores)
        return (scores if self.setting("side") == "above" else -scores).sigmoid()


def last_prompt_column(positions_BL: Int[Tensor, "B L"]) -> Int[Tensor, "B"]:
    """Of each row, the column of its last token; padding stands before or behind the row, and has
    the position of the token before it."""
    return positions_BL.argmax(dim=1)
