"""The strength sweep: rows are sent as they are known, and it ends when nobody reads them."""

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import StreamingResponse

from ....sae.common.errors import InputError
from ....sae.common.text import error_sentence
from ....steering.config import Sampling
from ....steering.interventions.intervention import Intervention
from ....steering.sweep import STRENGTHS, SweepRow, strength_sweep
from ..playground_settings import Beginning, Chosen, intervention_of
from ..rendering import session_of
from ..session import Session

router = APIRouter()

_MOST_STRENGTHS = 41
_ONE_AT_A_TIME = threading.Lock()


class SweepRequest(BaseModel):
    """What to continue, and how to steer it at which strengths."""

    model_config = ConfigDict(extra="forbid")
    beginning: Beginning
    steering: dict[str, Any]
    chosen: Chosen = Chosen()
    strengths: Annotated[list[float], Field(min_length=1, max_length=_MOST_STRENGTHS)] = list(
        STRENGTHS
    )


@router.post("/api/sweep")
async def sweep(request: Request, asked: SweepRequest) -> StreamingResponse:
    """Server-sent events: `row` for each strength as it is known, then `[DONE]`; `error` where it
    fails. One sweep runs at a time; another is answered with status 429."""
    session = session_of(request)
    intervention = intervention_of(session, asked.steering)
    sampling = asked.chosen.sampling(session.config.token_limit)
    prompt = await run_in_threadpool(lambda: asked.beginning.tokens(session))
    if not _ONE_AT_A_TIME.acquire(blocking=False):
        raise HTTPException(429, "another sweep is running; stop it or wait", {"Retry-After": "5"})
    events = Sweep(session, intervention, prompt, asked.strengths, sampling)
    events.start(_ONE_AT_A_TIME.release)
    return StreamingResponse(events.lines(), media_type="text/event-stream")


class Sweep:
    """A sweep in a thread of its own, and its events for the loop that sends them."""

    def __init__(
        self,
        session: Session,
        intervention: Intervention,
        prompt: list[int],
        strengths: list[float],
        sampling: Sampling,
    ) -> None:
        """Take what is swept; in a running loop."""
        self._session, self._intervention = session, intervention
        self._prompt, self._strengths, self._sampling = prompt, strengths, sampling
        self._stop = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

    def start(self, ended: Callable[[], None]) -> None:
        """Begin; `ended` is called when it is over, however it ends."""
        threading.Thread(target=self._run, args=(ended,), name="sweep", daemon=True).start()

    async def lines(self) -> AsyncIterator[str]:
        """The events as they come; closed early, it stops the sweep after the token in hand."""
        try:
            while (event := await self._queue.get()) is not None:
                yield f"data: {json.dumps(event)}\n\n"
            yield "data: [DONE]\n\n"
        finally:
            self._stop.set()

    def _put(self, event: dict[str, Any] | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the server has ended
            self._loop.call_soon_threadsafe(self._queue.put_nowait, event)

    def _run(self, ended: Callable[[], None]) -> None:
        def report(row: SweepRow) -> None:
            self._put({"row": row.to_dict()})

        try:
            strength_sweep(
                self._session.loaded,
                self._intervention,
                [self._prompt],
                self._strengths,
                self._sampling,
                report=report,
                stopped=self._stop.is_set,
                turn=self._session.using_model,
            )
        except InputError as error:
            self._put({"error": {"message": error_sentence(str(error))}})
        except Exception as error:
            sentence = f"the sweep failed ({type(error).__name__}: {error})"
            self._put({"error": {"message": error_sentence(sentence)}})
        finally:
            ended()
            self._put(None)
