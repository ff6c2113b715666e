"""Attacks, each with the guard that refuses it: with the guard, and with the guard removed."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from sparsteer.app.browser import limits, security
from sparsteer.app.browser.credentials import Credentials
from sparsteer.app.browser.hosts import Hosts
from sparsteer.app.browser.limits import Allowance
from sparsteer.app.browser.refusals import PROTECTION
from sparsteer.app.browser.security import Guard

from .asking import Answer, ask

TOKEN = "right-token"
PORT = 8460
OWN = f"127.0.0.1:{PORT}"
COOKIE = f"sparsteer-token-{PORT}={TOKEN}"

Header = tuple[str, str]
Remove = Callable[[pytest.MonkeyPatch], None]


async def does_everything(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that does whatever it is asked for, once it has the whole body."""
    await Request(scope, receive).body()
    await PlainTextResponse("done")(scope, receive, send)


def guarded(app: ASGIApp = does_everything) -> Guard:
    return Guard(app, token=TOKEN, hosts=Hosts(["127.0.0.1", "localhost", "::1"]), port=PORT)


def swap(owner: object, name: str, by: object) -> Remove:
    return lambda patch: patch.setattr(owner, name, by)


def nothing(*words: object, **options: object) -> None:
    """In the place of a check."""


def always(*words: object) -> bool:
    return True


def as_a_program(*words: object) -> str:
    """In the place of the look for the token."""
    return "bearer"


async def as_it_comes(receive: Receive) -> Receive:
    return receive


@dataclass(frozen=True)
class Attack:
    """A request that must be refused, with what else would answer it."""

    name: str
    status: int
    remove: Remove
    """Takes away the guard that refuses it, and no other."""
    target: str = "/api/change"
    method: str = "POST"
    host: str = OWN
    known_by: Sequence[Header] = (("Cookie", COOKIE),)
    headers: Sequence[Header] = ()
    kind: str = "application/json"
    origin: str | None = f"http://{OWN}"
    body: Sequence[bytes] = (b"{}",)
    endless: bool = False
    limits: dict[str, Any] = field(default_factory=dict[str, Any])

    def made(self, app: ASGIApp, patch: pytest.MonkeyPatch) -> Answer:
        for name, value in self.limits.items():
            patch.setattr(limits, name, value)
        headers = [("Host", self.host), *self.known_by, *self.headers]
        headers += [("Content-Type", self.kind)] if self.kind else []
        headers += [("Origin", self.origin)] if self.origin else []
        return ask(
            app,
            self.target,
            method=self.method,
            headers=headers,
            body=self.body,
            endless=self.endless,
        )


NO_HOST = swap(Hosts, "allow", always)
NO_TOKEN = swap(Credentials, "way", as_a_program)
NO_HOST_CHECK = swap(Guard, "_require_host", nothing)
NO_ORIGIN = swap(security, "_require_own_origin", nothing)
NO_JSON = swap(security, "_require_json", nothing)
NO_SITE = swap(security, "_require_own_site", nothing)
NO_LENGTH = swap(security, "_require_small", nothing)
NO_BODY = swap(security, "_with_body", as_it_comes)

HOSTS = (
    "evil.example",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "evil.example:8460",
    "127.0.0.1@evil.example",
    "evil.example#127.0.0.1",
    "[::1].evil.example",
    "[::1]evil.example",
    "[::2]",
    "192.168.0.7",
    "127.0.0.1:80:evil.example",
    "127.0.0.1:\u00b2",
    "127.0.0.1, evil.example",
    " 127.0.0.1",
    "localhost.",
    "0.0.0.0",
    "",
)
TYPES = (
    "text/plain",
    "text/plain; application/json",
    "application/x-www-form-urlencoded",
    "multipart/form-data",
    "application/jsonx",
    "",
)
ORIGINS = (
    "http://evil.example",
    "null",
    f"http://{OWN}.evil.example",
    "http://127.0.0.1",
    "http://127.0.0.1:9999",
    f"ftp://{OWN}",
    f"http://evil@{OWN}",
    None,
)
UNKNOWN: tuple[tuple[Header, ...], ...] = (
    (),
    (("Authorization", "Bearer wrong"),),
    (("Authorization", f"Basic {TOKEN}"),),
    (("Authorization", TOKEN),),
    (("Authorization", "Bearer "),),
    (("Cookie", f"sparsteer-token-{PORT}=wrong"),),
    (("Cookie", f"sparsteer-token-{PORT}="),),
    (("Cookie", f"sparsteer-token-{PORT + 1}={TOKEN}"),),
    (("X-Token", TOKEN),),
)

ATTACKS = (
    *(Attack(f"host {host!r}", 400, NO_HOST, method="GET", host=host) for host in HOSTS),
    Attack("two hosts", 400, NO_HOST_CHECK, headers=(("Host", OWN),)),
    Attack("another host in the target", 400, NO_HOST_CHECK, target=f"http://{OWN}/api/change"),
    Attack("options of the server", 400, NO_HOST_CHECK, target="*"),
    *(
        Attack(f"token by {given!r}", 401, NO_TOKEN, method=method, known_by=given)
        for given in UNKNOWN
        for method in ("GET", "HEAD", "POST", "OPTIONS", "DELETE")
    ),
    Attack("a wrong token in the address", 401, NO_TOKEN, target="/?token=wrong", known_by=()),
    Attack("no path to the open files", 401, NO_TOKEN, target="/features/static/", known_by=()),
    *(Attack(f"origin {origin}", 403, NO_ORIGIN, origin=origin) for origin in ORIGINS),
    Attack("two origins", 403, NO_ORIGIN, headers=(("Origin", f"http://{OWN}"),)),
    Attack(
        "another site with the token of a program", 403, NO_ORIGIN, origin="http://evil.example",
        known_by=(("Authorization", f"Bearer {TOKEN}"),),
    ),
    Attack(
        "no origin, the token in the address", 403, NO_ORIGIN, origin=None, known_by=(),
        target=f"/api/change?token={TOKEN}",
    ),
    *(Attack(f"a {kind or 'typeless'} body", 415, NO_JSON, kind=kind) for kind in TYPES),
    *(
        Attack(f"{method} without JSON", 415, NO_JSON, kind="", method=method)
        for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE")
    ),
    *(
        Attack(
            f"{site} {mode} for {dest}", 403, NO_SITE, method="GET",
            headers=(
                ("Sec-Fetch-Site", site), ("Sec-Fetch-Mode", mode), ("Sec-Fetch-Dest", dest),
            ),
        )
        for site in ("same-site", "cross-site")
        for mode, dest in (("no-cors", "image"), ("cors", "empty"), ("navigate", "iframe"))
    ),
    Attack("a long body", 413, NO_LENGTH, headers=(("Content-Length", "1000001"),)),
    Attack("a length that is none", 400, NO_LENGTH, headers=(("Content-Length", "\u00b2"),)),
    Attack("a negative length", 400, NO_LENGTH, headers=(("Content-Length", "-1"),)),
    Attack(
        "a long body in chunks", 413, NO_BODY, body=[b"x" * 30] * 4, limits={"MOST_BYTES": 100}
    ),
)  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_is_refused(attack: Attack, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = attack.made(guarded(), monkeypatch)
    assert answer.status == attack.status
    assert "done" not in answer.text and TOKEN not in answer.text
    assert TOKEN not in str(answer.headers)
    for name, value in PROTECTION.items():
        assert answer.header(name.lower()) == value


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_it_is_that_guard_which_refuses(attack: Attack, monkeypatch: pytest.MonkeyPatch) -> None:
    """So the test above fails for whoever removes it."""
    attack.remove(monkeypatch)
    answer = attack.made(guarded(), monkeypatch)
    assert (answer.status, answer.text) == (200, "done")


RIGHT: tuple[tuple[str, dict[str, Any]], ...] = (
    ("bearer", {"headers": [("Host", OWN), ("Authorization", f"Bearer {TOKEN}")]}),
    ("bearer in lower case", {"headers": [("Host", OWN), ("Authorization", f"bearer {TOKEN}")]}),
    ("cookie", {"headers": [("Host", OWN), ("Cookie", COOKIE)]}),
    ("address", {"target": f"/features/1?token={TOKEN}", "headers": [("Host", OWN)]}),
    *(
        (f"host {host}", {"headers": [("Host", host), ("Cookie", COOKIE)]})
        for host in ("localhost", "LOCALHOST:8460", "[::1]:8460", "[0:0:0:0:0:0:0:1]", "127.0.0.1")
    ),
    ("beside odd cookies", {"headers": [("Host", OWN), ("Cookie", f'a={{"b": 1}}; ;=; {COOKIE}')]}),
    (
        "beside a cookie of another server by the same name",
        {"headers": [("Host", OWN), ("Cookie", f"{COOKIE}; sparsteer-token-{PORT}=junk")]},
    ),
    (
        "a link on another site",
        {
            "headers": [
                *(("Host", OWN), ("Cookie", COOKIE), ("Sec-Fetch-Site", "cross-site")),
                *(("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document")),
            ]
        },
    ),
    (
        "a program that changes something",
        {
            "method": "POST",
            "headers": [
                *(("Host", OWN), ("Authorization", f"Bearer {TOKEN}")),
                ("Content-Type", "application/json; charset=utf-8"),
            ],
            "body": [b"{", b"}"],
        },
    ),
    (
        "its own page, through a proxy with TLS",
        {
            "method": "POST",
            "headers": [
                *(("Host", OWN), ("Cookie", COOKIE), ("Origin", f"https://{OWN}")),
                *(("Content-Type", "application/json"), ("Sec-Fetch-Site", "same-origin")),
            ],
        },
    ),
)


@pytest.mark.parametrize("request_", [words for _, words in RIGHT], ids=[name for name, _ in RIGHT])
def test_what_is_right_passes(request_: dict[str, Any]) -> None:
    answer = ask(guarded(), **request_)
    assert (answer.status, answer.text) == (200, "done")
    assert answer.header("cache-control") == "no-store"


def cookies(answers: Iterable[Answer]) -> list[str]:
    return [answer.header("set-cookie") for answer in answers]


def test_only_the_right_token_is_given_a_cookie(monkeypatch: pytest.MonkeyPatch) -> None:
    targets = ("/static/x.js?token=wrong", "/static/x.js", "/static/x.js?token=", "/?token=wrong")
    asked = [ask(guarded(), target, headers=[("Host", OWN)]) for target in targets]
    assert [answer.status for answer in asked] == [200, 200, 200, 401]
    assert not any(cookies(asked))
    known = ask(guarded(), f"/?token={TOKEN}", headers=[("Host", OWN)])
    assert cookies([known]) == [f"{COOKIE}; Path=/; HttpOnly; SameSite=Strict"]
    by_cookie = ask(guarded(), "/?token=wrong", headers=[("Host", OWN), ("Cookie", COOKIE)])
    assert by_cookie.status == 200 and not any(cookies([by_cookie]))


def test_who_lacks_the_token_cannot_use_up_what_others_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr(limits.time, "monotonic", lambda: now)
    guard = guarded()
    wrong = [ask(guard, headers=[("Host", OWN)]).status for _ in range(150)]
    assert wrong == [401] * 100 + [429] * 50
    right = [("Host", OWN), ("Cookie", COOKIE)]
    known = [ask(guard, headers=right) for _ in range(1001)]
    assert [answer.status for answer in known] == [200] * 1000 + [429]
    assert known[-1].header("retry-after") == "1"
    now += 0.5
    assert [ask(guard, headers=right).status for _ in range(201)] == [200] * 200 + [429]
    assert [ask(guard, headers=[("Host", OWN)]).status for _ in range(11)] == [401] * 10 + [429]
    monkeypatch.setattr(Allowance, "take", always)
    assert ask(guard, headers=right).status == 200


def test_a_body_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SECONDS_TO_SEND", 0.05)
    headers = [("Host", OWN), ("Authorization", f"Bearer {TOKEN}")]
    headers += [("Content-Type", "application/json")]
    slow = ask(guarded(), method="POST", headers=headers, body=[b"{"], endless=True)
    assert slow.status == 408


def test_one_failure_is_a_line_without_commands_for_the_terminal(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("out of\x1b[2J luck\nsecond line")

    answer = ask(
        guarded(fails), "/a\x1b]0;title\x07\nb", headers=[("Host", OWN), ("Cookie", COOKIE)]
    )
    assert answer.status == 0  # the server says 500
    [record] = caplog.records
    assert record.exc_info is None and record.getMessage().isprintable()
    assert "out of" in record.getMessage() and "second" not in record.getMessage()
    assert TOKEN not in caplog.text


def test_a_websocket_is_closed() -> None:
    sent = list[Any]()

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(guarded()({"type": "websocket", "path": "/", "headers": []}, receive, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_the_headers_stand_above_those_of_the_app(monkeypatch: pytest.MonkeyPatch) -> None:
    async def careless(scope: Scope, receive: Receive, send: Send) -> None:
        headers = {"Content-Security-Policy": "default-src *", "X-Frame-Options": "ALLOWALL"}
        await Response("x", headers=headers)(scope, receive, send)

    right = [("Host", OWN), ("Cookie", COOKIE)]
    answer = ask(guarded(careless), headers=right)
    for name, value in PROTECTION.items():
        assert answer.header(name.lower()) == value
    policy = PROTECTION["Content-Security-Policy"]
    assert "unsafe" not in policy and "*" not in policy and "http" not in policy
    monkeypatch.setattr(security, "PROTECTION", {})
    assert ask(guarded(careless), headers=right).header("x-frame-options") == "ALLOWALL"
