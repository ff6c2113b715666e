"""The stock `openai` client against a server in this process: unary, streamed, left early."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from sparsteer.app.browser import server
from sparsteer.app.browser.config import ServeConfig
from sparsteer.app.browser.session import Session


@pytest.fixture(scope="module")
def running(built_run: Path) -> Iterator[tuple[openai.OpenAI, Session]]:
    """A client of a server on a port that was free, and what the server has open."""
    opened: list[Session] = []

    class Kept(Session):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            opened.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "Session", Kept)
        answering = server.start(
            ServeConfig(run=str(built_run), port=0, device="cpu", slots=2, queue=1)
        )
    with openai.OpenAI(
        base_url=f"{answering.url}/v1", api_key=answering.token, max_retries=0, timeout=60
    ) as client:
        yield client, opened[0]
    answering.stop()
    opened[0].close()


def firing(session: Session) -> int:
    return int((session.index.statistics["max_activation"] > 0).nonzero()[0][0])


def test_unary_and_streamed_answers_are_the_same(running: tuple[openai.OpenAI, Session]) -> None:
    client, session = running
    (model,) = client.models.list().data
    asked: dict[str, Any] = {
        "model": model.id,
        "prompt": "cats",
        "max_tokens": 8,
        "seed": 3,
        "extra_body": {
            "top_k": 50,
            "steering": {"features": [{"index": firing(session), "strength": 4}]},
        },
    }
    create: Any = client.completions.create
    whole: Any = create(**asked)
    pieces: list[Any] = list(create(**asked, stream=True))
    assert "".join(piece.choices[0].text for piece in pieces) == whole.choices[0].text
    assert whole.usage is not None and whole.usage.prompt_tokens == 5
    extra: Any = whole.model_extra
    last: Any = pieces[-1].model_extra
    assert extra["steering"]["features"][0]["index"] == firing(session)
    assert last["steering"] == extra["steering"]
    assert pieces[-1].choices[0].finish_reason == whole.choices[0].finish_reason


def test_log_probabilities_are_read_by_the_client(running: tuple[openai.OpenAI, Session]) -> None:
    client, session = running
    found = client.completions.create(
        model=session.model_name, prompt="cats", max_tokens=3, logprobs=2, temperature=0
    )
    logprobs = found.choices[0].logprobs
    assert logprobs is not None and logprobs.token_logprobs is not None
    assert found.usage is not None
    assert len(logprobs.token_logprobs) == found.usage.completion_tokens


def test_a_wrong_key_and_a_wrong_field_are_the_clients_own_errors(
    running: tuple[openai.OpenAI, Session],
) -> None:
    client, session = running
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()
    with pytest.raises(openai.BadRequestError, match="not supported here"):
        client.completions.create(model=session.model_name, prompt="a", frequency_penalty=1)
    with pytest.raises(openai.NotFoundError, match="not served here"):
        client.completions.create(model="gpt-9", prompt="a")
    with pytest.raises(openai.BadRequestError, match="no chat template"):
        client.chat.completions.create(
            model=session.model_name, messages=[{"role": "user", "content": "hi"}]
        )


def test_a_client_that_leaves_frees_its_slot(running: tuple[openai.OpenAI, Session]) -> None:
    client, session = running
    asked: dict[str, Any] = {
        "model": session.model_name,
        "prompt": "cats",
        "max_tokens": 400,
        "temperature": 0,
        "extra_body": {"repetition_penalty": 1.01},
    }
    stream = client.completions.create(**asked, stream=True)
    next(iter(stream))
    assert session.engine.state.slots_in_use == 1
    stream.close()
    require_soon_idle(session)
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.15).completions.create(**asked)
    require_soon_idle(session)


def require_soon_idle(session: Session) -> None:
    begun, before = time.monotonic(), session.engine.state.tokens_generated
    while session.engine.state.slots_in_use and time.monotonic() < begun + 5:
        time.sleep(0.01)
    assert session.engine.state.slots_in_use == 0
    assert session.engine.state.tokens_generated - before < 300


def test_a_full_queue_is_the_clients_rate_limit_error(
    running: tuple[openai.OpenAI, Session],
) -> None:
    client, session = running
    engine = session.engine
    from sparsteer.steering.serving import GenerationRequest

    with engine.exclusive():
        waiting = [engine.submit(GenerationRequest(prompt=(1, 40))) for _ in range(3)]
        with pytest.raises(openai.RateLimitError, match="try again in a moment"):
            client.completions.create(model=session.model_name, prompt="a")
        for stream in waiting:
            stream.cancel()
