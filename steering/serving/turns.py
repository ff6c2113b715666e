"""Who may run the language model now: hooks and passes of two threads must not meet."""

import threading
from collections.abc import Generator
from contextlib import contextmanager


class Turns:
    """A lock of which others have before the engine, whose passes would else follow on each
    other without a gap."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._taken = False
        self._others_waiting = 0

    @contextmanager
    def own(self) -> Generator[None]:
        """A pass of the engine."""
        with self._changed:
            while self._taken or self._others_waiting:
                self._changed.wait()
            self._taken = True
        yield from self._held()

    @contextmanager
    def of_others(self) -> Generator[None]:
        """Whatever another thread does with the model."""
        with self._changed:
            self._others_waiting += 1
            try:
                while self._taken:
                    self._changed.wait()
                self._taken = True
            finally:
                self._others_waiting -= 1
        yield from self._held()

    def _held(self) -> Generator[None]:
        try:
            yield
        finally:
            with self._changed:
                self._taken = False
                self._changed.notify_all()
