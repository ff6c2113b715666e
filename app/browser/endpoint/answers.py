"""Tokens as the objects of OpenAI's two dialects, unary and streamed."""

import secrets
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, cast

from ....steering.serving import TokenEvent
from .work import Work


class Dialect(ABC):
    """How one of the routes writes what was generated."""

    prefix: str
    """Of the answer's id."""
    kind: str
    """The `object` of a unary answer."""
    chunk_kind: str
    """The `object` of a streamed piece."""

    def __init__(self, work: Work) -> None:
        """Take the request."""
        self.work = work
        self._id = self.prefix + secrets.token_hex(12)
        self._offsets = [0] * work.n_choices

    @abstractmethod
    def piece(self, number: int, event: TokenEvent) -> dict[str, Any]:
        """What a streamed choice has of an event, but for index and finish_reason."""

    @abstractmethod
    def whole(self, text: str) -> dict[str, Any]:
        """What a unary choice has of its text."""

    @abstractmethod
    def logprobs(self, number: int, events: Sequence[TokenEvent]) -> dict[str, Any] | None:
        """The log-probabilities of some tokens of a choice; None where none were asked for."""

    def opening(self) -> list[dict[str, Any]]:
        """Chunks that come before the first token."""
        return []

    def chunk(self, number: int, event: TokenEvent) -> dict[str, Any]:
        """An event as a chunk of the stream."""
        reason = finish_reason(event)
        choice = {
            "index": number,
            **self.piece(number, event),
            "logprobs": self.logprobs(number, [event]),
            "finish_reason": reason,
        }
        if self.work.body.watch is not None and event.token is not None:
            choice["sparsteer"] = self._watched(event)
        applied = {} if reason is None else self.work.applied
        return self._object(self.chunk_kind, [choice]) | applied

    def usage_chunk(self) -> dict[str, Any]:
        """The last chunk where usage was asked for."""
        return self._object(self.chunk_kind, []) | {"usage": self.work.usage}

    def answer(self, events: Sequence[Sequence[TokenEvent]]) -> dict[str, Any]:
        """The unary answer, from the events of each choice."""
        choices: list[dict[str, Any]] = []
        for number, own in enumerate(events):
            choice = {
                "index": number,
                **self.whole("".join(event.text for event in own)),
                "logprobs": self.logprobs(number, own),
                "finish_reason": finish_reason(own[-1]),
            }
            if self.work.body.watch is not None:
                tokens = [self._watched(event) for event in own if event.token is not None]
                choice["sparsteer"] = {"tokens": tokens}
            choices.append(choice)
        usage = {"usage": self.work.usage}
        return self._object(self.kind, choices) | usage | self.work.applied

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        values: dict[str, Any] = {
            "id": self._id,
            "object": kind,
            "created": self.work.created,
            "model": self.work.model_name,
            "choices": choices,
        }
        if kind == self.chunk_kind and self.work.body.include_usage:
            values["usage"] = None
        return values

    def _watched(self, event: TokenEvent) -> dict[str, Any]:
        """A token's id and the activations of the watched latents at it."""
        watched = dict.fromkeys(self.work.body.watch or ())
        return {
            "token": event.token,
            "activations": {
                str(latent): value
                for latent, value in zip(watched, event.activations, strict=bool(watched))
            },
            "steered": bool(event.steered),
        }

    def _token(self, token: int) -> str:
        """A token's own text; by its id where that is no whole character."""
        tokenizer = cast(Any, self.work.model.tokenizer)
        text: str = tokenizer.decode([token], clean_up_tokenization_spaces=False)
        return f"token_id:{token}" if "\ufffd" in text else text


class CompletionDialect(Dialect):
    """Of `/v1/completions`."""

    prefix, kind, chunk_kind = "cmpl-", "text_completion", "text_completion"

    def piece(self, number: int, event: TokenEvent) -> dict[str, Any]:
        """Text."""
        return {"text": event.text}

    def whole(self, text: str) -> dict[str, Any]:
        """Text."""
        return {"text": text}

    def logprobs(self, number: int, events: Sequence[TokenEvent]) -> dict[str, Any] | None:
        """Four lists; offsets are counted in characters from the text's beginning."""
        if self.work.body.top_logprobs_of_tokens is None:
            return None
        values: dict[str, list[Any]] = {
            name: [] for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset")
        }
        for event in events:
            if event.token is not None:
                values["tokens"].append(self._token(event.token))
                values["token_logprobs"].append(event.logprob)
                top = {self._token(token): value for token, value in event.top_logprobs}
                values["top_logprobs"].append(top)
                values["text_offset"].append(self._offsets[number])
            self._offsets[number] += len(event.text)
        return values


class ChatDialect(Dialect):
    """Of `/v1/chat/completions`."""

    prefix, kind, chunk_kind = "chatcmpl-", "chat.completion", "chat.completion.chunk"

    def opening(self) -> list[dict[str, Any]]:
        """The role of each choice."""
        delta = {"role": "assistant", "content": ""}
        return [
            self._object(
                self.chunk_kind,
                [{"index": number, "delta": delta, "logprobs": None, "finish_reason": None}],
            )
            for number in range(self.work.n_choices)
        ]

    def piece(self, number: int, event: TokenEvent) -> dict[str, Any]:
        """A delta."""
        empty = event.finish_reason is not None and not event.text
        return {"delta": {} if empty else {"content": event.text}}

    def whole(self, text: str) -> dict[str, Any]:
        """A message."""
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def logprobs(self, number: int, events: Sequence[TokenEvent]) -> dict[str, Any] | None:
        """A list with an object for each token."""
        if self.work.body.top_logprobs_of_tokens is None:
            return None
        content = [
            self._with_bytes(event.token, event.logprob)
            | {"top_logprobs": [self._with_bytes(*each) for each in event.top_logprobs]}
            for event in events
            if event.token is not None
        ]
        return {"content": content, "refusal": None}

    def _with_bytes(self, token: int, logprob: float | None) -> dict[str, Any]:
        text = self._token(token)
        whole = not text.startswith("token_id:")
        return {
            "token": text,
            "logprob": logprob,
            "bytes": list(text.encode(errors="replace")) if whole else None,
        }


def finish_reason(event: TokenEvent) -> str | None:
    """OpenAI's word for why a text ends: `stop` or `length`; None while it goes on."""
    if event.finish_reason is None:
        return None
    return "length" if event.finish_reason == "length" else "stop"
