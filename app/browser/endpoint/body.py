"""The body of a request as OpenAI's clients send it, checked field by field."""

import secrets
from abc import ABC, abstractmethod
from typing import Annotated, Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ....sae.common.errors import InputError
from ....steering.config import Sampling
from ....steering.serving.request import MOST_TOP_LOGPROBS
from ..playground_settings import MOST_CHARACTERS, require_temperature

_MOST_TEXTS = 16
_Text = Annotated[str, Field(max_length=MOST_CHARACTERS)]
_Top = Annotated[int, Field(ge=0, le=MOST_TOP_LOGPROBS)]

_IGNORED = {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}
"""Fields of OpenAI's that say something to its own service, and nothing to a model."""
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "echo": (None, False),
    "suffix": (None, ""),
    "best_of": (None, 1),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "logit_bias": (None, {}),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
    "tools": (None, []),
    "tool_choice": (None, "none"),
    "parallel_tool_calls": (None, True, False),
}
"""Fields that are not supported, with the values that ask for nothing."""


class StreamOptions(BaseModel):
    """Of a streamed answer."""

    include_usage: bool = False


class Body(BaseModel, ABC):
    """What both kinds of completions take; null is as if it were left out."""

    model_config = ConfigDict(extra="allow", strict=True)
    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    steering: dict[str, Any] | None = None
    picks: str | int | list[int] | None = None
    watch: Annotated[list[int], Field(max_length=256)] | None = None

    @property
    def n_texts(self) -> int:
        """n."""
        return self.n or 1

    @property
    def include_usage(self) -> bool:
        """Whether the stream ends with the number of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    @abstractmethod
    def top_logprobs_of_tokens(self) -> int | None:
        """How many alternatives each token is given with; None for no log-probabilities."""

    def sampling(self, max_new_tokens: int) -> Sampling:
        """How tokens are chosen: temperature 1 by default, as OpenAI's. A seed is drawn where none
        is given; at temperature 0 what chooses among tokens has no effect.

        Raises InputError for a value out of range.
        """
        temperature = 1.0 if self.temperature is None else self.temperature
        require_temperature(temperature)
        choosing: dict[str, Any] = {}
        if temperature:
            given = {"top_k": self.top_k, "top_p": self.top_p, "min_p": self.min_p}
            # vLLM's clients ask for all tokens with -1.
            choosing = {n: v for n, v in given.items() if v is not None and (n, v) != ("top_k", -1)}
        penalty = self.repetition_penalty
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        if len(stop) > _MOST_TEXTS or any(len(text) > 500 for text in stop):
            raise InputError(
                f"stop has {len(stop)} strings; give at most {_MOST_TEXTS}, each of at most 500 "
                "characters",
                field="stop",
            )
        return Sampling(
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            repetition_penalty=1.0 if penalty is None else penalty,
            stop=tuple(text for text in stop if text),
            seed=secrets.randbelow(2**31) if self.seed is None else self.seed,
            **choosing,
        )


class CompletionBody(Body):
    """Of `/v1/completions`."""

    prompt: _Text | list[_Text] | list[int] | list[list[int]]
    logprobs: _Top | None = None

    @property
    def top_logprobs_of_tokens(self) -> int | None:
        """By `logprobs`."""
        return self.logprobs

    @property
    def prompts(self) -> "list[str] | list[list[int]]":
        """Every prompt, as text or as token ids.

        Raises InputError if there is none, or more than a request may have.
        """
        given: Any = self.prompt
        if isinstance(given, str) or (given and isinstance(given[0], int)):
            given = [given]
        if not given or len(given) > _MOST_TEXTS:
            raise InputError(
                f"prompt has {len(given)} texts; give 1 to {_MOST_TEXTS}", field="prompt"
            )
        return given


class TextPart(BaseModel):
    """A part of a message."""

    type: Annotated[str, Field(pattern="^text$")]
    text: _Text


class ChatMessage(BaseModel):
    """A message; its name is not looked at."""

    role: Annotated[str, Field(pattern="^(system|developer|user|assistant)$")]
    content: _Text | list[TextPart]

    @property
    def plain(self) -> dict[str, str]:
        """As a chat template takes it."""
        content = self.content
        if not isinstance(content, str):
            content = "".join(part.text for part in content)
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


class ChatBody(Body):
    """Of `/v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=200)]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: _Top | None = None

    @property
    def top_logprobs_of_tokens(self) -> int | None:
        """By `logprobs` and `top_logprobs`."""
        if self.top_logprobs and not self.logprobs:
            raise InputError(
                "top_logprobs needs logprobs; add logprobs: true", field="top_logprobs"
            )
        return (self.top_logprobs or 0) if self.logprobs else None


_Kind = TypeVar("_Kind", bound=Body)


def checked(kind: type[_Kind], values: object) -> _Kind:
    """The body of a request.

    Raises:
        InputError: a field is missing, wrong or not supported.
    """
    try:
        body = kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = next((str(part) for part in first["loc"]), None)
        where = ".".join(str(part) for part in first["loc"]) or "the request"
        raise InputError(f"{where}: {first['msg']}", field=name) from None
    for name, value in cast(dict[str, object], body.model_extra or {}).items():
        if name in _IGNORED:
            continue
        if name not in _NEUTRAL:
            raise InputError(f"there is no field {name[:100]!r} here; leave it out", field=name)
        if value not in _NEUTRAL[name]:
            raise InputError(f"{name} is not supported here; leave it out", field=name)
    return body
