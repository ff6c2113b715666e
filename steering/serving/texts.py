"""One of a request's texts while it is generated."""

import dataclasses

from ..config import Sampling
from ..interventions.row_steering import SteeredRow
from ..text_stream import TextStream
from .request import FinishReason, TokenEvent
from .stream import TokenStream


@dataclasses.dataclass(eq=False)
class RunningText:
    """What the engine keeps of a row."""

    stream: TokenStream
    choice: int
    prompt: list[int]
    sampling: Sampling
    steered: SteeredRow
    text: TextStream
    stop_ids: frozenset[int]
    n_tokens: int = 0
    waiting: TokenEvent | None = None
    """An event whose token the model has not read, which is when its watched latents are known."""
    ended: bool = False
    """Whether nothing comes any more, but for an event that waits."""

    @property
    def done(self) -> bool:
        """Whether the row is to leave the batch."""
        return self.ended and self.waiting is None

    def read(self, activations: tuple[float, ...], steered: bool) -> None:
        """Told of the token that the model has read last."""
        if self.waiting is not None:
            event, self.waiting = self.waiting, None
            self.stream.put(dataclasses.replace(event, activations=activations, steered=steered))

    def choose(
        self, token: int, logprob: float | None, top_logprobs: tuple[tuple[int, float], ...]
    ) -> None:
        """Told of the token that was chosen next."""
        if self.stream.cancelled:
            self.waiting = None
            self._end(TokenEvent(choice=self.choice, token=None, text=""), "cancelled")
            return
        if token in self.stop_ids:
            text = self.text.finish()
            reason = "stop" if self.text.stopped else "eos"
            self._end(TokenEvent(choice=self.choice, token=None, text=text), reason)
            return
        self.n_tokens += 1
        text, reason = self.text.add(token), None
        if self.text.stopped:
            reason = "stop"
        elif self.n_tokens == self.sampling.max_new_tokens:
            text += self.text.finish()
            reason = "stop" if self.text.stopped else "length"
        event = TokenEvent(
            choice=self.choice, token=token, text=text, logprob=logprob, top_logprobs=top_logprobs
        )
        if self.steered.watched:
            self.waiting = dataclasses.replace(event, finish_reason=reason)
            self.ended = reason is not None
        elif reason is not None:
            self._end(event, reason)
        else:
            self.stream.put(event)

    def fail(self, error: Exception) -> None:
        """End it, and the other texts of its request, with what went wrong."""
        self.ended, self.waiting = True, None
        self.stream.fail(error)

    def end_if_failed(self) -> None:
        """End it if another text of its request has failed."""
        if self.stream.failed:
            self.ended, self.waiting = True, None

    def _end(self, event: TokenEvent, reason: FinishReason) -> None:
        self.ended = True
        self.stream.put(dataclasses.replace(event, finish_reason=reason))
