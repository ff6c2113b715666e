"""The routes of the OpenAI-compatible endpoint: models, completions and chat completions."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from ....sae.common.errors import InputError
from ....steering.serving import TokenEvent
from ....steering.texts import chat_tokens, prompt_tokens
from ..rendering import session_of
from ..session import Session
from .answers import ChatDialect, CompletionDialect, Dialect
from .body import ChatBody, CompletionBody, checked
from .errors import error_response, error_status, error_values
from .metrics import Metrics, metrics_of
from .work import Work, require_model

router = APIRouter()

COMPLETION_TOKENS = 16
"""Of a plain completion where the request does not say how many, as OpenAI has it."""


@router.get("/v1/models")
async def models(request: Request) -> Response:
    """The one model that is served, and the interventions that requests can name."""
    session = session_of(request)
    model = {
        **{"id": session.model_name, "object": "model", "created": 0, "owned_by": "sparsteer"},
        **({"interventions": session.saved.names} if session.saved.names else {}),
    }
    metrics_of(request).requests.labels("/v1/models", "200").inc()
    return JSONResponse({"object": "list", "data": [model]})


@router.post("/v1/completions")
async def completions(request: Request) -> Response:
    """Continue texts."""

    def begin(session: Session, values: object, metrics: Metrics) -> Dialect:
        body = checked(CompletionBody, values)
        require_model(session, body)
        model = session.engine.model
        prompts = [
            prompt_tokens(model, prompt) if isinstance(prompt, str) else prompt
            for prompt in body.prompts
        ]
        asked = COMPLETION_TOKENS if body.max_tokens is None else body.max_tokens
        return CompletionDialect(Work.begin(session, body, prompts, asked, metrics))

    return await _answered(request, "/v1/completions", begin)


@router.post("/v1/chat/completions")
async def chat_completions(request: Request) -> Response:
    """Answer a conversation in the model's chat template."""

    def begin(session: Session, values: object, metrics: Metrics) -> Dialect:
        body = checked(ChatBody, values)
        require_model(session, body)
        prompt = chat_tokens(session.engine.model, [message.plain for message in body.messages])
        asked = body.max_completion_tokens
        asked = body.max_tokens if asked is None else asked
        return ChatDialect(Work.begin(session, body, [prompt], asked, metrics))

    return await _answered(request, "/v1/chat/completions", begin)


_Begin = Callable[[Session, object, Metrics], Dialect]


async def _answered(request: Request, route: str, begin: _Begin) -> Response:
    """The answer to a request, streamed if it asks for that."""
    metrics = metrics_of(request)
    try:
        values = await _json(request)
        dialect = await run_in_threadpool(begin, session_of(request), values, metrics)
        if dialect.work.body.stream:
            metrics.requests.labels(route, "200").inc()
            return StreamingResponse(_streamed(request, dialect), media_type="text/event-stream")
        response: Response = JSONResponse(await _unary(request, dialect))
    except Exception as error:  # Whatever it is, the client gets the JSON that it can read.
        metrics.requests.labels(route, str(error_status(error))).inc()
        return error_response(error)
    metrics.requests.labels(route, "200").inc()
    return response


async def _json(request: Request) -> object:
    try:
        return json.loads(await request.body())
    except ValueError as error:
        raise InputError(f"the request is not valid JSON ({error}); send an object") from None


async def _unary(request: Request, dialect: Dialect) -> dict[str, object]:
    """All of it, unless the client goes away meanwhile."""
    work = dialect.work
    events: list[list[TokenEvent]] = [[] for _ in range(work.n_choices)]

    async def cancel_when_gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        work.cancel()

    watching = asyncio.create_task(cancel_when_gone())
    try:
        async for number, event in work.events():
            events[number].append(event)
    finally:
        watching.cancel()
    return dialect.answer(events)


async def _streamed(request: Request, dialect: Dialect) -> AsyncIterator[str]:
    """Server-sent events; an error in between is one, too."""
    work = dialect.work
    try:
        for chunk in dialect.opening():
            yield _event(chunk)
        async for number, event in work.events():
            if await request.is_disconnected():
                return
            yield _event(dialect.chunk(number, event))
        if work.body.include_usage:
            yield _event(dialect.usage_chunk())
        yield "data: [DONE]\n\n"
    except Exception as error:
        yield _event(error_values(error))
    finally:
        work.cancel()


def _event(values: dict[str, object]) -> str:
    return f"data: {json.dumps(values)}\n\n"
