"""A request at work: its streams in the engine, read as one."""

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from ....sae.language_model.model import LanguageModel
from ....steering.config import Sampling
from ....steering.interventions.intervention import Intervention
from ....steering.serving import Engine, GenerationRequest, TokenEvent, TokenStream
from ..playground_settings import require_few_tokens, require_short_prompt
from ..saved_interventions import applied
from ..session import Session
from .body import Body
from .errors import UnknownModel
from .metrics import Metrics
from .steering import asked_intervention


@dataclass(eq=False)
class Work:
    """What is being generated for a request."""

    body: Body
    model: LanguageModel
    model_name: str
    prompts: list[list[int]]
    sampling: Sampling
    intervention: Intervention | None
    streams: list[TokenStream]
    metrics: Metrics
    began: float
    n_generated: int = 0
    created: int = dataclasses.field(default_factory=lambda: int(time.time()))

    @classmethod
    def begin(
        cls,
        session: Session,
        body: Body,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int | None,
        metrics: Metrics,
    ) -> "Work":
        """Ask the engine.

        Args:
            session: what the server has open; its engine is there.
            body: of the request.
            prompts: token ids of each prompt.
            max_new_tokens: of each text; None for as many as the server and the model allow.
            metrics: told of tokens and times.

        Raises:
            InputError: something of the request is wrong.
            QueueFull: too many are waiting.
        """
        began, engine = time.monotonic(), session.engine
        longest = max(map(len, prompts))
        require_short_prompt(session, longest)
        limit = session.config.token_limit
        if max_new_tokens is None:
            room = engine.model.max_context - longest
            max_new_tokens = max(1, min(limit, room))
        require_few_tokens(max_new_tokens, limit)
        sampling = body.sampling(max_new_tokens)
        intervention = asked_intervention(session, body)
        streams = _submitted(engine, body, prompts, sampling, intervention)
        metrics.prompt_tokens.inc(sum(map(len, prompts)))
        return cls(
            body=body,
            model=engine.model,
            model_name=session.model_name,
            prompts=[list(prompt) for prompt in prompts],
            sampling=sampling,
            intervention=intervention,
            streams=streams,
            metrics=metrics,
            began=began,
        )

    @property
    def n_choices(self) -> int:
        """Texts that are generated, n for each prompt."""
        return len(self.prompts) * self.body.n_texts

    @property
    def usage(self) -> dict[str, int]:
        """Tokens so far, in OpenAI's words."""
        n_prompt = sum(map(len, self.prompts))
        return {
            "prompt_tokens": n_prompt,
            "completion_tokens": self.n_generated,
            "total_tokens": n_prompt + self.n_generated,
        }

    @property
    def applied(self) -> dict[str, Any]:
        """What repeats the answer: the seed, and how it was steered if it was."""
        values: dict[str, Any] = {"sparsteer": {"seed": self.sampling.seed}}
        if self.intervention is not None:
            values["steering"] = applied(self.body.steering, self.intervention)
        return values

    def cancel(self) -> None:
        """End it after the token in hand."""
        for stream in self.streams:
            if not stream.ended:
                stream.cancel()

    async def events(self) -> AsyncIterator[tuple[int, TokenEvent]]:
        """The events of all its texts as they come, each with the number of its choice.

        Raises what went wrong with any of them. Closed early, it cancels the rest.
        """
        come: asyncio.Queue[tuple[int, TokenEvent] | Exception | None] = asyncio.Queue()

        async def read(number: int, stream: TokenStream) -> None:
            try:
                async for event in stream:
                    come.put_nowait((number * self.body.n_texts + event.choice, event))
                come.put_nowait(None)
            except Exception as error:
                come.put_nowait(error)

        readers = [asyncio.create_task(read(*each)) for each in enumerate(self.streams)]
        n_running = len(readers)
        try:
            while n_running:
                got = await come.get()
                if isinstance(got, Exception):
                    raise got
                if got is None:
                    n_running -= 1
                    continue
                self._note(got[1])
                yield got
        finally:
            self.cancel()
            for reader in readers:
                reader.cancel()

    def _note(self, event: TokenEvent) -> None:
        if event.token is not None:
            if not self.n_generated:
                self.metrics.first_token_seconds.observe(time.monotonic() - self.began)
            self.n_generated += 1
            self.metrics.generated_tokens.inc()


def _submitted(
    engine: Engine,
    body: Body,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    intervention: Intervention | None,
) -> list[TokenStream]:
    """The streams of all prompts; none is left if one is refused."""
    streams: list[TokenStream] = []
    try:
        for prompt in prompts:
            request = GenerationRequest(
                prompt=tuple(prompt),
                sampling=sampling,
                intervention=intervention,
                n=body.n_texts,
                logprobs=body.top_logprobs_of_tokens,
                watch=tuple(dict.fromkeys(body.watch or ())),
            )
            streams.append(engine.submit(request))
    except Exception:
        for stream in streams:
            stream.cancel()
        raise
    return streams


def require_model(session: Session, body: Body) -> None:
    """Raise UnknownModel if the request names another model than the one that is served."""
    served = session.model_name
    if body.model not in (None, served, served.rstrip("/").rpartition("/")[2]):
        raise UnknownModel(
            f"the model {body.model!r} is not served here; this server has {served!r}",
            field="model",
        )
