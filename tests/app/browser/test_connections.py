"""A real server, asked in ways that no browser would."""

import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from sparsteer.app.browser import connections, server
from sparsteer.app.browser.config import ServeConfig
from sparsteer.app.browser.pages import status
from sparsteer.app.browser.server import Running, start
from sparsteer.app.browser.session import Session

Serve = Callable[[], Running]


def nothing(session: Session) -> None:
    """In the place of reading the language model."""


@pytest.fixture
def serve(built_run: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Starts servers whose language model nobody asks for."""
    monkeypatch.setattr(Session, "start_loading", nothing)
    with ExitStack() as running:

        def started() -> Running:
            made = start(ServeConfig(run=str(built_run), port=0, device="cpu"))
            running.callback(made.stop)
            return made

        yield started


def connected(running: Running) -> socket.socket:
    host, port = running.url.removeprefix("http://").rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=10)


def all_that_comes(connection: socket.socket) -> bytes:
    came = b""
    try:
        while part := connection.recv(65536):
            came += part
    except ConnectionResetError:
        pass
    return came


def raw(running: Running, text: str) -> str:
    """What the server sends until it closes the connection, as it is asked to."""
    if "\r\nConnection: " not in text:
        text = text.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1)
    with connected(running) as connection:
        connection.sendall(text.replace("TOKEN", running.token).encode("latin-1"))
        return all_that_comes(connection).decode("latin-1")


REFUSED = {
    "nothing of HTTP": ("hello\r\n\r\n", "400"),
    "HTTP/1.0 without a host": ("GET /api/status?token=TOKEN HTTP/1.0\r\n\r\n", "400"),
    "HTTP/1.1 without a host": ("GET /api/status?token=TOKEN HTTP/1.1\r\n\r\n", "400"),
    "two hosts": (
        "GET /api/status?token=TOKEN HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: localhost\r\n\r\n", "400",
    ),
    "as a proxy": (
        "GET http://127.0.0.1/api/status?token=TOKEN HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "400",
    ),
    "two lengths": (
        "POST /api/status?token=TOKEN HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1\r\n"
        "Content-Length: 2\r\n\r\nab", "400",
    ),
    "a long header": (
        f"GET /api/status?token=TOKEN HTTP/1.1\r\nHost: 127.0.0.1\r\nX: {'x' * 200_000}\r\n\r\n",
        "400",
    ),
    "a tunnel": ("CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n", "400"),
    "an upgrade without the token": (
        "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade, close\r\n\r\n",
        "401",
    ),
    "an upgrade of what is no websocket": (
        "GET /api/status?token=TOKEN HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade, close\r\nSec-WebSocket-Key: eA==\r\n\r\n", "200",
    ),
    **{
        f"out of the folder by {path}": (
            f"GET /static/{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n", "404",
        )
        for path in (
            "../security.py", "..%2fsecurity.py", "%2e%2e/security.py", "..\\security.py",
            "..%5csecurity.py", "%2fetc/passwd", "/etc/passwd", "....//security.py", "",
            "a%00b", f"{'../' * 20}etc/passwd", "x" * 5000,
        )
    },
}  # fmt: skip


def test_what_is_no_sound_request_is_refused_and_the_next_is_answered(
    serve: Serve, capfd: pytest.CaptureFixture[str]
) -> None:
    running = serve()
    for name, (text, code) in REFUSED.items():
        answer = raw(running, text)
        assert answer.startswith(f"HTTP/1.1 {code} "), (name, answer[:200])
        assert "Traceback" not in answer and running.token not in answer.partition("\r\n\r\n")[2]
    good = "GET /api/status?token=TOKEN HTTP/1.0\r\nHost: localhost\r\n\r\n"
    assert raw(running, good).startswith("HTTP/1.1 200 ")
    assert capfd.readouterr().err == ""


def test_who_says_nothing_is_not_waited_for(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "SECONDS_TO_ASK", 0.1)
    running = serve()
    for begun in ("", "GET / HTTP/1.1\r\nHost: 127", "G"):
        with connected(running) as connection:
            connection.sendall(begun.encode())
            assert all_that_comes(connection) == b""
    monkeypatch.setattr(connections, "SECONDS_TO_ASK", 60.0)
    with connected(running) as connection:
        connection.settimeout(0.4)
        with pytest.raises(TimeoutError):
            connection.recv(1)


def test_too_many_connections_are_closed_and_the_others_go_on(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 5)
    running = serve()
    with ExitStack() as stack:
        held = [stack.enter_context(connected(running)) for _ in range(5)]
        for _ in range(3):
            with connected(running) as more:
                assert all_that_comes(more) == b""
        held[0].sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        assert all_that_comes(held[0]).startswith(b"HTTP/1.1 401 ")
    deadline = time.monotonic() + 5
    while not raw(running, "GET / HTTP/1.0\r\nHost: localhost\r\n\r\n"):
        assert time.monotonic() < deadline


def test_no_token_in_a_log(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    running = serve()
    raw(running, "GET /api/status?token=TOKEN HTTP/1.0\r\nHost: localhost\r\n\r\n")
    raw(running, "GET /missing?token=TOKEN HTTP/1.0\r\nHost: localhost\r\n\r\n")
    assert running.token not in caplog.text


def test_without_that_setting_it_would_be(
    serve: Serve, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = server.uvicorn.Config

    def with_log(*words: object, **options: object) -> object:
        return config(*words, **{**options, "access_log": True, "log_level": "info"})  # pyright: ignore[reportArgumentType] - as given

    monkeypatch.setattr(server.uvicorn, "Config", with_log)
    caplog.set_level(logging.DEBUG)
    running = serve()
    raw(running, "GET /api/status?token=TOKEN HTTP/1.0\r\nHost: localhost\r\n\r\n")
    assert running.token in caplog.text


@pytest.mark.parametrize("accept", ["text/html", "application/json"])
def test_one_failure_is_an_answer_and_the_next_request_is_well(
    serve: Serve, accept: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    running = serve()
    asking = "GET /api/status?token=TOKEN HTTP/1.0\r\nHost: localhost\r\n"
    asking += f"Accept: {accept}\r\n\r\n"
    with monkeypatch.context() as patch:

        def fail(request: object) -> None:
            raise ZeroDivisionError("by <script>nought</script>\x1b[2J\nsecond line")

        patch.setattr(status, "session_of", fail)
        failed = raw(running, asking)
    assert failed.startswith("HTTP/1.1 500 ")
    assert "ZeroDivisionError" in failed and "Traceback" not in failed and ".py" not in failed
    assert "\x1b" not in failed
    assert accept != "text/html" or "<script>nought" not in failed
    assert raw(running, asking).startswith("HTTP/1.1 200 ")
    said = capfd.readouterr().err
    assert "Traceback" not in said and len(said.splitlines()) <= 1 and "\x1b" not in said


def test_the_end_comes_though_an_answer_does_not(serve: Serve, built_run: Path) -> None:
    """Such as a page that waits for the language model."""
    running = serve()
    with connected(running) as connection:
        connection.sendall(b"GET /static/common.js HTTP/1.1\r\nHost: localhost\r\n")  # unfinished
        began = time.monotonic()
        running.stop()
        assert time.monotonic() - began < 3
