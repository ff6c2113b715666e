"""The events of one request on their way from the engine's thread to whoever waits for them."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress

from .request import GenerationRequest, TokenEvent


class TokenStream:
    """The events of a request as they come, for a `for` or an `async for` loop.

    The loop ends when all texts of the request have ended, and raises what went wrong, an
    InputError if the request was at fault. One loop can read it.
    """

    def __init__(self, request: GenerationRequest, *, on_cancel: Callable[[], None]) -> None:
        """Made by `Engine.submit`."""
        self.request = request
        self._on_cancel = on_cancel
        self._events: deque[TokenEvent] = deque()
        self._changed = threading.Condition()
        self._wake: Callable[[], None] | None = None
        self._n_running = request.n
        self._error: Exception | None = None
        self.cancelled = False
        """Whether nobody waits for it any more."""

    def cancel(self) -> None:
        """End all its texts after the token in hand."""
        self.cancelled = True
        self._on_cancel()

    def put(self, event: TokenEvent) -> None:
        """Called by the engine."""
        with self._changed:
            if self._error is not None:
                return
            self._events.append(event)
            if event.finish_reason is not None:
                self._n_running -= 1
            self._notify()

    def fail(self, error: Exception) -> None:
        """Called by the engine; no event comes behind it."""
        with self._changed:
            if self._error is None and self._n_running:
                self._error = error
                self._n_running = 0
            self._notify()

    @property
    def failed(self) -> bool:
        """Whether it ends with an error."""
        return self._error is not None

    @property
    def ended(self) -> bool:
        """Whether no more events come."""
        return self._n_running <= 0

    def _notify(self) -> None:
        self._changed.notify_all()
        if self._wake is not None:
            self._wake()

    def _take(self) -> TokenEvent | None:
        """The next event if it is there."""
        if self._events:
            return self._events.popleft()
        if self.ended and self._error is not None:
            raise self._error
        return None

    def __iter__(self) -> Iterator[TokenEvent]:
        while True:
            with self._changed:
                while (event := self._take()) is None:
                    if self.ended:
                        return
                    self._changed.wait()
            yield event

    async def __aiter__(self) -> AsyncIterator[TokenEvent]:
        loop, come = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop has closed: nobody waits any more
                loop.call_soon_threadsafe(come.set)

        with self._changed:
            self._wake = wake
        try:
            while True:
                come.clear()
                with self._changed:
                    event, ended = self._take(), self.ended
                if event is not None:
                    yield event
                elif ended:
                    return
                else:
                    await come.wait()
        finally:
            self._wake = None
