"""What the engine is asked for, and what it answers token by token."""

from dataclasses import dataclass, field
from typing import Literal

from ...sae.common.errors import InputError
from ...sae.common.validation import require_integer, require_positive_integer
from ..config import Sampling
from ..interventions.intervention import Intervention

FinishReason = Literal["eos", "stop", "length", "cancelled"]
"""Why a text ends: the end-of-text token, a stop string, `max_new_tokens`, or nobody waits."""

MOST_TOP_LOGPROBS = 20
"""Alternatives that are given for a token at most."""


class QueueFull(Exception):
    """No more requests are taken until others have ended."""

    def __init__(self, waiting: int) -> None:
        super().__init__(f"{waiting} requests are waiting already; try again in a moment")


class EngineClosed(Exception):
    """The engine takes and answers no requests any more."""

    def __init__(self) -> None:
        super().__init__("the server is ending; start it again")


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """A prompt to be continued, in its own way."""

    prompt: tuple[int, ...]
    """Token ids, BOS included."""

    sampling: Sampling = field(default_factory=Sampling)
    """How tokens are chosen; its batch_size is not looked at."""

    intervention: Intervention | None = None
    """How to steer; None generates what the model would."""

    n: int = 1
    """So many texts; text i is drawn with the seed plus i."""

    logprobs: int | None = None
    """Give the log-probability of each token, and of so many of the likeliest; None gives none."""

    watch: tuple[int, ...] = ()
    """Latents whose activations are given at each token."""

    def __post_init__(self) -> None:
        if not self.prompt:
            raise InputError("a prompt has no token; give at least a word")
        require_positive_integer("n", self.n)
        if self.logprobs is not None:
            require_integer("logprobs", self.logprobs, least=0)
            if self.logprobs > MOST_TOP_LOGPROBS:
                raise InputError(
                    f"logprobs is {self.logprobs}; give at most {MOST_TOP_LOGPROBS}",
                    field="logprobs",
                )
        for latent in self.watch:
            require_integer("watch", latent, least=0)


@dataclass(frozen=True, kw_only=True)
class TokenEvent:
    """A token of one of the texts, or the end of one."""

    choice: int
    """Which of the n texts."""
    token: int | None
    """Its id; None where the text ends without another token."""
    text: str
    """What the text grows by: nothing while a character or a stop string may be incomplete."""
    logprob: float | None = None
    """Natural logarithm of the token's probability, by the (steered) model's own logits: no
    temperature or penalty, nothing left out."""
    top_logprobs: tuple[tuple[int, float], ...] = ()
    """Ids and log-probabilities of the likeliest tokens, falling."""
    activations: tuple[float, ...] = ()
    """Of the watched latents at this token, in their order and in the autoencoder's scaled units,
    before anything is added; 0 at special tokens and at a text's first one, as for gates."""
    steered: bool | None = None
    """Whether the residual was changed at this token; None where nothing is watched."""
    finish_reason: FinishReason | None = None
    """Why the text ends with this event; None while it goes on."""
