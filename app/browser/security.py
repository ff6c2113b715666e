"""Who is answered: requests that name this host, know the token and come from its own pages.

A page of another site that the user has open can send requests to this machine, and a name of its
own can point here (DNS rebinding). So each request is asked for its host and the token; what
changes something must also come from this origin, as JSON; and no page can load or run anything
that is not a file of this package.
"""

import asyncio
import logging

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...sae.common.text import first_line, visible
from .credentials import Credentials, Way
from .hosts import Hosts
from .limits import MOST_BYTES, SECONDS_TO_SEND, Allowance, Gone, TooLong, TooSlow, with_body
from .refusals import PROTECTION, Refused, answer

_LOG = logging.getLogger("sparsteer.browser")

_OPEN = "/static/"
"""Where no token is needed: files that are the same for everyone."""

_READING = ("GET", "HEAD")


class Guard:
    """ASGI middleware that answers what it refuses, and adds the headers that protect a page."""

    def __init__(self, app: ASGIApp, *, token: str, hosts: Hosts, port: int) -> None:
        """Take the app behind it.

        Args:
            app: what answers the requests that pass.
            token: what a request must carry, as `Authorization: Bearer`, cookie or `?token=`.
            hosts: names and addresses by which the server may be called.
            port: part of the cookie's name.
        """
        self._app, self._hosts = app, hosts
        self._credentials = Credentials(token, port=port)
        # Two, so that whoever lacks the token cannot use up what the others have.
        self._known = Allowance(per_second=400.0, at_once=1000.0)
        self._unknown = Allowance(per_second=20.0, at_once=100.0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or refuse a request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            way = self._way_in(scope)
            if scope["method"] not in _READING:
                receive = await _with_body(receive)
        except Refused as refused:
            await answer(scope, refused, send)
            return
        except Gone:
            return
        protected = self._protected(scope, send, gives_cookie=way == "query")
        try:
            await self._app(scope, receive, protected)
        except asyncio.CancelledError:  # the server ends, and has nobody else to tell
            return
        except Exception as error:  # has been answered; the others are not to suffer from it
            shown = f"{scope['method']} {scope['path']}: {first_line(error)}"
            _LOG.error("%s", visible(shown))

    def _way_in(self, scope: Scope) -> Way | None:
        """How the request gave the token; None if it needs none.

        Raises:
            Refused: it is not to be answered.
        """
        headers = Headers(scope=scope)
        self._require_host(scope, headers)
        way = self._credentials.way(scope, headers)
        if not (self._known if way else self._unknown).take():
            raise Refused(429, "too many requests at once; wait a second")
        if way is None and not scope["path"].startswith(_OPEN):
            raise Refused(
                401,
                "the token is missing or wrong; open the address that `sparsteer serve` printed, "
                "or send its token as Authorization: Bearer",
            )
        is_browser = way in ("query", "cookie")
        if is_browser:
            _require_own_site(scope, headers)
        if scope["method"] not in _READING:
            _require_small(headers)
            _require_json(headers)
            _require_own_origin(headers, must_say=is_browser)
        return way

    def _require_host(self, scope: Scope, headers: Headers) -> None:
        given = headers.getlist("host")
        if len(given) != 1 or not self._hosts.allow(given[0]):
            raise Refused(
                400,
                "this server does not go by the name that the request gives; call it by the "
                "address that it printed, or start it with --allowed-host",
            )
        if not scope["path"].startswith("/"):  # as a proxy is asked, with another host in it
            raise Refused(400, "the request does not name a page; ask for a path such as /")

    def _protected(self, scope: Scope, send: Send, *, gives_cookie: bool) -> Send:
        """Adds headers to the answer; the cookie, where the address had the right token."""

        async def add_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in PROTECTION.items():
                    headers[name] = value
                is_open = scope["path"].startswith(_OPEN)
                headers["Cache-Control"] = "no-cache" if is_open else "no-store"
                if gives_cookie:
                    headers.append("Set-Cookie", self._credentials.cookie)
            await send(message)

        return add_headers


def _require_own_site(scope: Scope, headers: Headers) -> None:
    """What a browser asks for with the cookie is for a page of this server, or opens one.

    To another port of this machine the cookie goes, too, and its pages could make it work here.
    """
    opens = headers.get("sec-fetch-mode") == "navigate"
    opens &= headers.get("sec-fetch-dest") == "document" and scope["method"] == "GET"
    if headers.get("sec-fetch-site") in ("cross-site", "same-site") and not opens:
        raise Refused(403, "the request comes from a page of another site; open this server's own")


def _require_small(headers: Headers) -> None:
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdecimal() and len(length) < 20):
        raise Refused(400, "the request has no sensible content-length; send the number of bytes")
    if int(length) > MOST_BYTES:
        raise _too_long()


def _require_json(headers: Headers) -> None:
    """A form or a plain text could come from any page, without the browser asking first."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused(415, "a request that changes something must be JSON; send application/json")


def _require_own_origin(headers: Headers, *, must_say: bool) -> None:
    """What changes something comes from a page of this server or from a program.

    A browser that sends the cookie also says from where it comes (`must_say`).
    """
    given = headers.getlist("origin")
    if not given and not must_say:
        return
    own = headers.get("host", "").lower()
    if len(given) != 1 or given[0].lower() not in (f"http://{own}", f"https://{own}"):
        raise Refused(403, "the request comes from a page of another site; open this server's own")


async def _with_body(receive: Receive) -> Receive:
    try:
        return await with_body(receive)
    except TooLong:
        raise _too_long() from None
    except TooSlow:
        raise Refused(
            408, f"the request took longer than {SECONDS_TO_SEND:.0f} s to come; send it again"
        ) from None


def _too_long() -> Refused:
    return Refused(413, f"the request is longer than {MOST_BYTES:,} bytes; send less")
