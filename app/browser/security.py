"""Who is answered: requests that name this host, know the token and come from its own pages.

A page of another site that the user has open can send requests to this machine, and a name of its
own can point here (DNS rebinding). So each request is asked for its host and the token; what
changes something must also come from this origin, as JSON; and no page can load or run anything
that is not a file of this package.
"""

import hmac
import http.cookies
import json
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...sae.common.text import first_line

_LOG = logging.getLogger("sparsteer.browser")

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
"""The pages' content-security-policy: no inline script or style, nothing from elsewhere."""

_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_OPEN = ("/static/", "/favicon.ico")
"""What needs no token: files that are the same for everyone."""

_READING = ("GET", "HEAD")
_MOST_BYTES = 1_000_000
_PER_SECOND, _AT_ONCE = 400.0, 1000.0


class Refused(Exception):
    """A request that is not answered, with the status and a sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass
class _Allowance:
    """How many requests may still come; it fills up with time."""

    left: float = _AT_ONCE
    at: float = field(default_factory=time.monotonic)

    def take(self) -> bool:
        """Whether one more may come now."""
        now = time.monotonic()
        self.left = min(_AT_ONCE, self.left + (now - self.at) * _PER_SECOND)
        self.at = now
        if self.left < 1:
            return False
        self.left -= 1
        return True


class Guard:
    """ASGI middleware that answers what it refuses, and adds the headers that protect a page."""

    def __init__(self, app: ASGIApp, *, token: str, hosts: Iterable[str], port: int) -> None:
        """Take the app behind it.

        Args:
            app: what answers the requests that pass.
            token: what a request must carry, as `Authorization: Bearer`, cookie or `?token=`.
            hosts: names and addresses by which the server may be called, without port.
            port: part of the cookie's name, since cookies do not tell ports apart.
        """
        self._app = app
        self._token = token
        self._hosts = {host.strip("[]").lower() for host in hosts}
        self._cookie = f"sparsteer-token-{port}"
        self._allowance = _Allowance()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or refuse a request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            self._require_host(headers)
            if not self._allowance.take():
                raise Refused(429, "too many requests at once; wait a second")
            by_cookie = self._require_token(scope, headers)
            _require_small(headers)
            if scope["method"] not in _READING:
                _require_own_page(headers, must_say=by_cookie)
        except Refused as refused:
            await _answer(scope, refused, send)
            return
        try:
            await self._app(scope, _limited(receive), self._protected(scope, send))
        except Exception as error:  # has been answered; the others are not to suffer from it
            _LOG.error("%s %s: %s", scope["method"], scope["path"], first_line(error))

    def _require_host(self, headers: Headers) -> None:
        host = headers.get("host", "")
        if _without_port(host).lower() not in self._hosts or len(headers.getlist("host")) != 1:
            raise Refused(
                400,
                "this server does not go by the name that the request gives; call it by the "
                "address that it printed, or start it with --allowed-host",
            )

    def _require_token(self, scope: Scope, headers: Headers) -> bool:
        """Whether it was the cookie that had the token."""
        if scope["path"].startswith(_OPEN):
            return False
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._is_token(bearer.strip()):
            return False
        if self._is_token(_query_token(scope)):
            return True
        cookies = http.cookies.SimpleCookie()
        try:
            cookies.load(headers.get("cookie", ""))
        except http.cookies.CookieError:
            cookies.clear()
        if self._cookie in cookies and self._is_token(cookies[self._cookie].value):
            return True
        raise Refused(
            401,
            "the token is missing or wrong; open the address that `sparsteer serve` printed, or "
            "send its token as Authorization: Bearer",
        )

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(errors="replace"), self._token.encode())

    def _protected(self, scope: Scope, send: Send) -> Send:
        """Adds headers to the answer; the cookie, where the address had the token."""
        sets_cookie = bool(_query_token(scope))

        async def add_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                static = scope["path"].startswith("/static/")
                headers["Cache-Control"] = "no-cache" if static else "no-store"
                if sets_cookie:
                    cookie = f"{self._cookie}={self._token}; Path=/; HttpOnly; SameSite=Strict"
                    headers.append("Set-Cookie", cookie)
            await send(message)

        return add_headers


def _query_token(scope: Scope) -> str:
    values = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])
    return values[0]


def _without_port(host: str) -> str:
    """The name in a Host header; of an IPv6 address what is in the brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    name, _, port = host.partition(":")
    return name if not port or port.isdigit() else ""


def _require_small(headers: Headers) -> None:
    length = headers.get("content-length", "0")
    if not length.isdigit() or int(length) > _MOST_BYTES:
        raise Refused(413, f"the request is longer than {_MOST_BYTES:,} bytes; send less")


def _require_own_page(headers: Headers, *, must_say: bool) -> None:
    """What changes something must be JSON, and come from a page of this server or a program.

    A browser that sends the cookie also says from where it comes (`must_say`).
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused(415, "a request that changes something must be JSON; send application/json")
    origin = headers.get("origin")
    if origin is None and not must_say:
        return
    own = headers.get("host", "").lower()
    if origin is None or origin.lower() not in (f"http://{own}", f"https://{own}"):
        raise Refused(403, "the request comes from a page of another site; open this server's own")


def _limited(receive: Receive) -> Receive:
    """Ends a body that turns out longer than what may be sent."""
    n_bytes = 0

    async def receive_little() -> Message:
        nonlocal n_bytes
        message = await receive()
        n_bytes += len(message.get("body", b""))
        if n_bytes > _MOST_BYTES:
            return {"type": "http.disconnect"}
        return message

    return receive_little


async def _answer(scope: Scope, refused: Refused, send: Send) -> None:
    """The refusal as a small page for a person and as JSON for a program."""
    sentence, accept = str(refused), Headers(scope=scope).get("accept", "")
    if "text/html" in accept and refused.status == 401:
        kind, body = "text/html; charset=utf-8", _ASKING.replace("SENTENCE", sentence)
    else:
        kind = "application/json"
        body = json.dumps({"error": {"message": sentence, "type": "refused", "code": None}})
    headers = {**_HEADERS, "Content-Type": kind, "Cache-Control": "no-store"}
    headers["Content-Length"] = str(len(body.encode()))
    if refused.status == 429:
        headers["Retry-After"] = "1"
    if refused.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refused.status, "headers": raw})
    await send({"type": "http.response.body", "body": body.encode()})


_ASKING = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>sparsteer: token needed</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="/static/browser.css"></head>
<body><main><h1>This page needs its token</h1><p>SENTENCE.</p>
<form method="get" action="/"><label>Token <input name="token" type="password" required></label>
<button>Open</button></form></main></body></html>
"""
