"""How many requests are taken, and how long and how slow their bodies may be."""

import asyncio
import time

from starlette.types import Message, Receive

MOST_BYTES = 1_000_000
"""Of a request's body."""

SECONDS_TO_SEND = 30.0
"""Time that a request has to send its body."""


class Allowance:
    """How many requests may still come; it fills up with time."""

    def __init__(self, *, per_second: float, at_once: float) -> None:
        self._per_second, self._at_once = per_second, at_once
        self._left, self._at = at_once, time.monotonic()

    def take(self) -> bool:
        """Whether one more may come now; if so, it counts."""
        now = time.monotonic()
        self._left = min(self._at_once, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class TooLong(Exception):
    """A body of more than MOST_BYTES."""


class TooSlow(Exception):
    """A body that took more than SECONDS_TO_SEND."""


class Gone(Exception):
    """The other side has closed the connection before it sent all."""


async def with_body(receive: Receive) -> Receive:
    """Read the whole body, then give it to the app at once.

    Raises:
        TooLong, TooSlow, Gone: it cannot be had.
    """
    try:
        async with asyncio.timeout(SECONDS_TO_SEND):
            body = await _body(receive)
    except TimeoutError:
        raise TooSlow from None
    given = False

    async def receive_again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again


async def _body(receive: Receive) -> bytes:
    body, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        body += message.get("body", b"")
        if len(body) > MOST_BYTES:
            raise TooLong
        more = message.get("more_body", False)
    return bytes(body)
