"""Requests as no polite client sends them, straight to an app."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Scope


@dataclass(frozen=True)
class Answer:
    """What came back; status 0 if nothing did."""

    status: int
    headers: Sequence[tuple[str, str]]
    text: str

    def header(self, name: str) -> str:
        """The values of a header, joined by commas."""
        return ", ".join(value for key, value in self.headers if key == name)


def ask(
    app: ASGIApp,
    target: str = "/",
    *,
    method: str = "GET",
    headers: Iterable[tuple[str, str]] = (),
    body: Sequence[bytes] = (),
    endless: bool = False,
) -> Answer:
    """Send a request with exactly these headers.

    Args:
        app: whom to ask.
        target: path and query, or whatever else stands in the first line of a request.
        method, headers: of the request.
        body: its parts, each of which comes by itself.
        endless: never say that the body is complete.
    """
    path, _, query = target.partition("?")
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode("latin-1"),
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers],
        "client": ("127.0.0.1", 40000),
        "server": ("127.0.0.1", 80),
        "state": {},
    }
    parts = list(body) or [b""]
    sent = list[Message]()

    async def receive() -> Message:
        if parts:
            part = parts.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(parts) or endless}
        await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))  # pyright: ignore[reportArgumentType] - a coroutine, though an app may give any awaitable
    if not sent:
        return Answer(0, (), "")
    raw = sent[0].get("headers", [])
    text = b"".join(message.get("body", b"") for message in sent[1:]).decode()
    return Answer(
        sent[0]["status"],
        [(name.decode().lower(), value.decode()) for name, value in raw],
        text,
    )
