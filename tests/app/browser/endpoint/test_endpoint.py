"""The endpoint's answers: OpenAI's shapes, what is refused, and the extensions."""

import dataclasses
import json
import math
from typing import Any
from unittest.mock import patch

import pytest
from starlette.testclient import TestClient

from sparsteer.app.browser.session import Session
from sparsteer.steering.interventions.intervention import Intervention
from sparsteer.steering.serving import GenerationRequest

from ....tiny_runs import SITE

CHAT_TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}:{% endif %}"
)


@pytest.fixture
def latent(session: Session) -> int:
    """A feature that fires."""
    firing: Any = session.index.statistics["max_activation"] > 0
    return int(firing.nonzero()[0][0])


def post(client: TestClient, path: str, **body: Any) -> Any:
    return client.post(f"/v1/{path}", json=body)


def completion(client: TestClient, **body: Any) -> dict[str, Any]:
    answer = post(client, "completions", **{"prompt": "cats", "seed": 1, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def chunks(client: TestClient, path: str, **body: Any) -> list[dict[str, Any]]:
    answer = post(client, path, stream=True, **body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    *events, end, rest = answer.text.split("\n\n")
    assert (end, rest) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


def test_a_completion_has_openais_shape_and_repeats(client: TestClient, session: Session) -> None:
    found = completion(client, max_tokens=6)
    (choice,) = found["choices"]
    assert found["object"] == "text_completion" and found["model"] == session.model_name
    assert choice["index"] == 0 and choice["finish_reason"] in ("stop", "length")
    assert choice["logprobs"] is None
    usage = found["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["prompt_tokens"] == 5 and usage["completion_tokens"] <= 6
    assert completion(client, max_tokens=6)["choices"] == found["choices"]
    drawn = completion(client, max_tokens=6, seed=None)
    again = completion(client, max_tokens=6, seed=drawn["sparsteer"]["seed"])
    assert again["choices"] == drawn["choices"]


def test_a_stream_has_the_text_of_the_unary_answer(client: TestClient) -> None:
    whole = completion(client, max_tokens=9, n=2)
    pieces = chunks(
        client,
        "completions",
        prompt="cats",
        seed=1,
        max_tokens=9,
        n=2,
        stream_options={"include_usage": True},
    )
    assert pieces[-1]["choices"] == [] and pieces[-1]["usage"] == whole["usage"]
    assert {piece["id"] for piece in pieces} == {pieces[0]["id"]}
    for number in range(2):
        own = [p["choices"][0] for p in pieces[:-1] if p["choices"][0]["index"] == number]
        expected = whole["choices"][number]
        assert "".join(piece["text"] for piece in own) == expected["text"]
        assert [p["finish_reason"] for p in own] == [None] * (len(own) - 1) + [
            expected["finish_reason"]
        ]


def test_chat_has_openais_shape(
    client: TestClient, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session.loaded.model.tokenizer, "chat_template", CHAT_TEMPLATE)
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
    ]
    asked = {"messages": messages, "max_completion_tokens": 5, "seed": 2, "logprobs": True}
    found = post(client, "chat/completions", **asked, top_logprobs=2).json()
    (choice,) = found["choices"]
    assert found["object"] == "chat.completion"
    assert choice["message"]["role"] == "assistant"
    assert len(choice["logprobs"]["content"]) == found["usage"]["completion_tokens"]
    for token in choice["logprobs"]["content"]:
        assert token["logprob"] <= 0 and len(token["top_logprobs"]) == 2
        assert token["bytes"] is None or bytes(token["bytes"]).decode() == token["token"]
    pieces = chunks(client, "chat/completions", **asked)
    assert pieces[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    text = "".join(piece["choices"][0]["delta"].get("content", "") for piece in pieces)
    assert text == choice["message"]["content"]
    assert pieces[-1]["choices"][0]["finish_reason"] == choice["finish_reason"]
    # The prompt is what the template makes of the messages.
    n_prompt = len(session.loaded.model.tokenize("<system>be brief<user>hi:"))
    assert found["usage"]["prompt_tokens"] == n_prompt


def test_logprobs_of_completions_are_by_token(client: TestClient) -> None:
    found = completion(client, max_tokens=4, logprobs=3, temperature=0)
    values = found["choices"][0]["logprobs"]
    n = found["usage"]["completion_tokens"]
    assert {len(each) for each in values.values()} == {n}
    for logprob, top in zip(values["token_logprobs"], values["top_logprobs"], strict=True):
        assert len(top) == 3 and logprob == max(top.values())
        assert sum(map(math.exp, top.values())) <= 1


def test_steering_takes_its_units_from_the_index_and_is_echoed(
    client: TestClient, session: Session, latent: int
) -> None:
    steering = {"features": [{"index": latent, "strength": 6.0}], "tier": "per_input"}
    found = completion(client, max_tokens=12, steering=steering, temperature=0)
    applied = Intervention.from_dict(found["steering"])
    assert applied.site == SITE and applied.tier == "per_input"
    assert applied.features[0].max_activation == session.index.max_activation(latent)
    again = completion(client, max_tokens=12, steering=found["steering"], temperature=0)
    assert again["choices"] == found["choices"]
    constant = {**steering, "tier": "constant"}
    steered = completion(client, max_tokens=12, steering=constant, temperature=0)
    base = completion(client, max_tokens=12, temperature=0)
    assert steered["choices"][0]["text"] != base["choices"][0]["text"] and "steering" not in base
    last = chunks(client, "completions", prompt="cats", steering=constant, temperature=0)[-1]
    assert last["steering"] == steered["steering"]


def test_picks_steer_by_all_star_label_and_number(client: TestClient, session: Session) -> None:
    firing: Any = session.index.statistics["max_activation"] > 0
    one, two, three = map(int, firing.nonzero()[0][:3])
    session.picks.change(one, label="Cats", strength=3.0)
    session.picks.change(two, starred=True, strength=-2.0)
    session.picks.change(three, verdict="reject")
    cases: list[tuple[Any, dict[int, float]]] = [
        ("all", {one: 3.0, two: -2.0}),
        ("starred", {two: -2.0}),
        ("cats", {one: 3.0}),
        (f"{one},{two}", {one: 3.0, two: -2.0}),
        ([two], {two: -2.0}),
        (three, {three: 1.0}),
    ]
    for picks, expected in cases:
        found = completion(client, picks=picks, max_tokens=1, steering={"tier": "per_token"})
        applied = Intervention.from_dict(found["steering"])
        assert {each.index: each.strength for each in applied.features} == expected
        assert applied.tier == "per_token"
    wrong = post(client, "completions", prompt="a", picks="dogs")
    assert wrong.status_code == 400 and "no pick is that" in wrong.json()["error"]["message"]


def test_watched_activations_are_those_of_the_engine(
    client: TestClient, session: Session, latent: int
) -> None:
    asked = {"prompt": "cats", "max_tokens": 5, "seed": 1, "watch": [latent, 0, latent]}
    engine = session.engine
    prompt = tuple(client_tokens(session, "cats"))
    from sparsteer.steering.config import Sampling

    sampling = Sampling(max_new_tokens=5, temperature=1.0, seed=1)
    watch = tuple(dict.fromkeys((latent, 0)))
    events = list(engine.submit(GenerationRequest(prompt=prompt, sampling=sampling, watch=watch)))
    expected = [
        {
            "token": event.token,
            "activations": dict(zip(map(str, watch), event.activations, strict=True)),
            "steered": False,
        }
        for event in events
        if event.token is not None
    ]
    pieces = chunks(client, "completions", **asked)
    found = [p["choices"][0]["sparsteer"] for p in pieces if "sparsteer" in p["choices"][0]]
    assert found == expected
    assert completion(client, **asked)["choices"][0]["sparsteer"] == {"tokens": expected}


def client_tokens(session: Session, text: str) -> list[int]:
    return [1, *session.loaded.model.tokenize(text)]


def test_prompts_may_be_several_or_token_ids(client: TestClient, session: Session) -> None:
    ids = client_tokens(session, "cats")
    one = completion(client, max_tokens=4, temperature=0)["choices"][0]
    assert completion(client, prompt=ids, max_tokens=4, temperature=0)["choices"] == [one]
    both = completion(client, prompt=["dogs", "cats"], max_tokens=4, temperature=0)["choices"]
    assert both[1] == {**one, "index": 1} and both[0]["index"] == 0


WRONG: list[tuple[dict[str, Any], int, str, str | None]] = [
    ({"prompt": "a", "max_tokens": 0}, 400, "max_new_tokens|max_tokens", None),
    ({"prompt": "a", "max_tokens": 2000}, 400, "at most 1024", "max_tokens"),
    ({"prompt": "a", "temperature": 2.5}, 400, "temperature is 2.5; give one from 0 to 2", None),
    ({"prompt": "a", "temperature": "hot"}, 400, "temperature: Input should be", "temperature"),
    ({"prompt": "a", "top_p": 1.5}, 400, "top_p", "top_p"),
    ({"prompt": "a", "frequency_penalty": 0.5}, 400, "frequency_penalty is not supported", None),
    ({"prompt": "a", "echo": True}, 400, "echo is not supported here; leave it out", "echo"),
    ({"prompt": "a", "tempratur": 1}, 400, "no field 'tempratur' here; leave it out", None),
    ({"prompt": "a", "n": 17}, 400, "n is 17; at most 16", "n"),
    ({"prompt": "a", "logprobs": 99}, 400, "logprobs", "logprobs"),
    ({"prompt": "a", "model": "gpt-9"}, 404, "'gpt-9' is not served here; this server", "model"),
    ({"prompt": [999999]}, 400, "999999", None),
    ({"prompt": [5, -1]}, 400, "token id -1; ids are whole numbers from 0", None),
    ({"prompt": [10**30]}, 400, "with id 1000000", None),
    ({"prompt": []}, 400, "prompt has 0 texts", None),
    ({"prompt": "a", "stop": ["x"] * 17}, 400, "stop has 17 strings", "stop"),
    ({}, 400, "prompt: Field required|prompt", None),
    ({"prompt": "a", "steering": {"features": [{"index": 4800}]}}, 400, "no feature 4800", None),
    ({"prompt": "a", "steering": {"tier": "constant"}}, 400, "list of features", None),
    (
        {"prompt": "a", "steering": {"edits": [{"kind": "diagonal", "vectors": "ab"}]}},
        400,
        "which a request cannot bring",
        None,
    ),
    ({"prompt": "a", "steering": {"edits": 3}}, 400, "give a list of edits", None),
    ({"prompt": "a", "watch": [4800]}, 400, "no feature 4800 to watch", None),
    ({"prompt": "a" * 30_000}, 400, "prompt", None),
    ({"prompt": "a", "temperature": 1e-300}, 400, "temperature is 1e-300", "temperature"),
    ({"prompt": "a", "picks": "9" * 5000}, 400, "no pick is that", "picks"),
    (
        {"prompt": "a", "steering": {"features": [{"index": 3, "strength": 10**400}]}},
        400,
        "strength is a number of hundreds of digits",
        "strength",
    ),
]


@pytest.mark.parametrize(("body", "status", "sentence", "param"), WRONG)
def test_what_is_wrong_is_a_sentence_in_openais_json(
    client: TestClient, body: dict[str, Any], status: int, sentence: str, param: str | None
) -> None:
    import re

    answer = post(client, "completions", **body)
    error = answer.json()["error"]
    assert answer.status_code == status, error
    assert re.search(sentence, error["message"]) and "\n" not in error["message"]
    assert param is None or error["param"] == param
    assert error["type"] == "invalid_request_error"


def test_what_says_nothing_to_a_model_is_taken(client: TestClient) -> None:
    harmless = {"user": "me", "frequency_penalty": 0, "presence_penalty": None, "echo": False}
    assert completion(client, max_tokens=2, **harmless)


def test_a_broken_body_is_refused(client: TestClient) -> None:
    answer = client.post(
        "/v1/completions", content="{nope", headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 400 and "not valid JSON" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/completions", "/api/sweep", "/api/searches"])
def test_json_of_many_levels_is_refused(client: TestClient, path: str) -> None:
    headers = {"Content-Type": "application/json"}
    for n_levels in (100_000, 960):
        body = '{"steering": ' + "[" * n_levels + "]" * n_levels + "}"
        answer = client.post(path, content=body, headers=headers)
        assert answer.status_code == 400 and answer.json()["error"]["message"]


def test_the_largest_top_k_takes_all(client: TestClient) -> None:
    whole = completion(client, max_tokens=4)["choices"]
    assert completion(client, max_tokens=4, top_k=2**63 - 1)["choices"] == whole


def test_a_strength_beyond_numbers_fails_in_the_stream_and_the_server_goes_on(
    client: TestClient, latent: int
) -> None:
    steering = {"features": [{"index": latent, "strength": 1e38}]}
    refused = post(client, "completions", prompt="cats", steering=steering)
    assert refused.status_code == 400
    assert "lower the strength" in refused.json()["error"]["message"]
    streamed = post(client, "completions", prompt="cats", steering=steering, stream=True)
    (event,) = [line for line in streamed.text.split("\n\n") if line]
    assert "lower the strength" in json.loads(event.removeprefix("data: "))["error"]["message"]
    assert completion(client, max_tokens=2)


def test_a_full_queue_is_429_with_a_time(client: TestClient, session: Session) -> None:
    engine = session.engine
    waiting: list[Any] = []
    with engine.exclusive():
        from sparsteer.steering.serving import QueueFull

        with pytest.raises(QueueFull):
            for _ in range(1000):
                waiting.append(engine.submit(GenerationRequest(prompt=(1, 40))))
        answer = post(client, "completions", prompt="cats")
        for stream in waiting:
            stream.cancel()
    assert answer.status_code == 429 and answer.headers["retry-after"] == "1"
    assert answer.json()["error"]["code"] == "queue_full"
    assert len(waiting) == session.config.slots + session.config.queue
    assert completion(client, max_tokens=2)


def test_metrics_count_what_was_answered(client: TestClient) -> None:
    found = completion(client, max_tokens=5)
    post(client, "completions", prompt="a", echo=True)
    text = client.get("/metrics").text
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")
    assert lines['sparsteer_requests_total{route="/v1/completions",status="200"}'] == "1.0"
    assert lines['sparsteer_requests_total{route="/v1/completions",status="400"}'] == "1.0"
    n_generated = found["usage"]["completion_tokens"]
    assert float(lines["sparsteer_generated_tokens_total"]) == n_generated
    assert float(lines["sparsteer_first_token_seconds_count"]) == 1
    assert float(lines["sparsteer_slots"]) == 16 and float(lines["sparsteer_slots_in_use"]) == 0
    assert float(lines["sparsteer_queue_depth"]) == 0


def test_models_lists_the_one(client: TestClient, session: Session) -> None:
    (model,) = client.get("/v1/models").json()["data"]
    assert model["id"] == session.model_name and model["object"] == "model"


def test_a_prompt_over_the_limit_is_refused(client: TestClient, session: Session) -> None:
    short = dataclasses.replace(session.config, prompt_limit=2)
    with patch.object(session, "config", short):
        answer = post(client, "completions", prompt="cats and dogs and birds", max_tokens=1)
    assert answer.status_code == 400
    assert "this server reads at most 2; shorten it" in answer.json()["error"]["message"]
