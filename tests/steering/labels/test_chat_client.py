"""The chat client against a server that fails in every way."""

import email.utils
import time
from typing import Any

import pytest

from sparsteer.sae import InputError
from sparsteer.steering.labels.chat_client import ChatClient, EndpointError

from .chat_stand_in import ChatStandIn, Fault

MESSAGES = [{"role": "user", "content": "what is it?"}]
BUSY = Fault(429)


class Waits(list[float]):
    """The waits between tries, which take no time."""


def client_of(chat: ChatStandIn, waits: Waits | None = None, **settings: Any) -> ChatClient:
    settings = {"model": "stand-in-1", "timeout": 5.0, **settings}
    return ChatClient(chat.url, sleep=(Waits() if waits is None else waits).append, **settings)


def test_an_answer_with_its_tokens(chat: ChatStandIn) -> None:
    answer = client_of(chat, answer_tokens=99).ask(MESSAGES)
    assert (answer.text, answer.cut_off) == ("words of one letter", False)
    assert (answer.tokens_in, answer.tokens_out) == (100, 7)
    (request,) = chat.requests
    assert request == {
        "model": "stand-in-1",
        "messages": MESSAGES,
        "max_tokens": 99,
        "temperature": 0,
        "seed": 0,
    }


@pytest.mark.parametrize("end", ["", "/", "/chat/completions", "/chat/completions/"])
def test_the_address_may_end_in_any_usual_way(chat: ChatStandIn, end: str) -> None:
    client = ChatClient(chat.url + end, model="m")
    client.ask(MESSAGES)
    assert chat.paths == ["/v1/chat/completions"] and client.address == chat.url


def test_an_address_without_a_path_is_that_of_version_1(chat: ChatStandIn) -> None:
    assert ChatClient(chat.url.removesuffix("/v1"), model="m").address == chat.url


@pytest.mark.parametrize(
    "url", ["", "here", "ftp://host/v1", "http://", "http://u:p@host/v1", "http://h/v1?key=1"]
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(InputError, match="endpoint"):
        ChatClient(url, model="m")


def test_the_only_model_is_taken_and_of_several_none(chat: ChatStandIn) -> None:
    assert client_of(chat, model=None).model == "stand-in-1"
    chat.models = ["one", "two"]
    with pytest.raises(InputError, match="has one, two; give --model NAME"):
        client_of(chat, model=None)
    chat.models = []
    with pytest.raises(InputError, match="does not say which models"):
        client_of(chat, model=None)


def test_a_key_is_sent_and_a_wrong_one_refused_at_once(chat: ChatStandIn) -> None:
    chat.key = "right"
    assert client_of(chat, key="right").ask(MESSAGES).text
    for key in (None, "wrong"):
        with pytest.raises(InputError, match=r"refuses the key \(status 401: no such key\)") as no:
            client_of(chat, key=key).ask(MESSAGES)
        assert "wrong" not in str(no.value)
    assert len(chat.requests) == 3
    with pytest.raises(InputError, match="characters that no key has") as no:
        client_of(chat, key="a\nsecret")
    assert "secret" not in str(no.value)


@pytest.mark.parametrize(
    ("fault", "waits"),
    [
        (Fault(500), [1.0]),
        (Fault(503, b"<html>down</html>"), [1.0]),
        (Fault(429), [1.0]),
        (Fault(429, headers={"Retry-After": "7"}), [7.0]),
        (Fault(503, headers={"Retry-After": "0"}), [0.0]),
        (Fault(200, b"{]"), [1.0]),
        (Fault(200, b"[1]"), [1.0]),
        (Fault(200, b'{"choices": []}'), [1.0]),
        (Fault(200, b'{"choices": [{"message": {"content": 5}}]}'), [1.0]),
        (Fault(200, b"x" * 1000, cut_at=500), [1.0]),
        (Fault(200, b'{"choices"', headers={"Content-Encoding": "gzip"}), [1.0]),
        (Fault(200, b"[" * 100_000), [1.0]),
        (Fault(200, b" " * (5 << 20)), [1.0]),
    ],
    ids=lambda value: f"{value.status} {value.body[:12]!r}" if isinstance(value, Fault) else "",
)
def test_what_may_pass_is_asked_again(chat: ChatStandIn, fault: Fault, waits: list[float]) -> None:
    chat.faults[0] = fault
    waited = Waits()
    client = client_of(chat, waited)
    assert client.ask(MESSAGES).text == "words of one letter"
    assert waited == waits and client.repeated == 1


def test_a_date_to_wait_for(chat: ChatStandIn) -> None:
    chat.faults[0] = Fault(
        429, headers={"Retry-After": email.utils.formatdate(time.time() + 50, usegmt=True)}
    )
    waited = Waits()
    client_of(chat, waited).ask(MESSAGES)
    assert 40 < waited[0] <= 50


def test_waits_double_and_tries_end(chat: ChatStandIn) -> None:
    chat.faults = dict.fromkeys(range(100), Fault(500))
    waited, said = Waits(), list[str]()
    with pytest.raises(EndpointError, match=r"fails \(status 500: broken on purpose\), 5 times"):
        client_of(chat, waited, say=said.append).ask(MESSAGES)
    assert waited == [1.0, 2.0, 4.0, 8.0] and len(chat.requests) == 5 and len(said) == 4


def test_a_wait_that_is_too_long_is_not_waited(chat: ChatStandIn) -> None:
    chat.faults[0] = Fault(429, headers={"Retry-After": "3600"})
    waited = Waits()
    with pytest.raises(EndpointError, match="asks to wait 1:00:00"):
        client_of(chat, waited).ask(MESSAGES)
    assert not waited


@pytest.mark.parametrize("fault", [Fault(silent=True), Fault(200, b"x" * 99, seconds_per_byte=0.1)])
def test_a_silent_and_a_slow_server_are_left(chat: ChatStandIn, fault: Fault) -> None:
    chat.faults[0] = fault
    started = time.monotonic()
    client = client_of(chat, timeout=0.3)
    assert client.ask(MESSAGES).text and client.repeated == 1
    assert time.monotonic() - started < 3


def test_a_server_that_is_not_there(chat: ChatStandIn) -> None:
    chat.server_close()
    with pytest.raises(EndpointError, match=r"cannot be reached .*5 times in a row"):
        client_of(chat).ask(MESSAGES)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (Fault(404, b"{}"), "has no /v1/chat/completions"),
        (Fault(302, headers={"Location": "http://elsewhere.invalid/"}), "elsewhere"),
        (Fault(400, b'{"error": "too long\\u001b[2J"}'), "too long\u27e8U\\+001B\u27e9"),
        (Fault(422, b"x" * 5000), "refuses the request"),
    ],
)
def test_what_would_not_pass_ends_at_once(chat: ChatStandIn, fault: Fault, sentence: str) -> None:
    chat.faults[0] = fault
    with pytest.raises(InputError, match=sentence) as error:
        client_of(chat).ask(MESSAGES)
    assert len(chat.requests) == 1 and len(str(error.value)) < 400


def test_settings_that_a_model_refuses_are_left_out(chat: ChatStandIn) -> None:
    chat.refused_settings = ("max_tokens", "temperature", "seed")
    client = client_of(chat, answer_tokens=50)
    assert client.ask(MESSAGES).text
    last = chat.requests[-1]
    assert last == {"model": "stand-in-1", "messages": MESSAGES, "max_completion_tokens": 50}
    client.ask(MESSAGES)
    assert len(chat.requests) == 5, "what was learned is kept"


def test_an_answer_that_was_cut_off(chat: ChatStandIn) -> None:
    chat.labels = lambda text: {
        "choices": [{"message": {"content": None}, "finish_reason": "length"}],
        "usage": {"prompt_tokens": "many"},
    }
    answer = client_of(chat).ask(MESSAGES)
    assert (answer.text, answer.cut_off, answer.tokens_in) == ("", True, 0)
