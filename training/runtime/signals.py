"""SIGINT and SIGTERM while training: the step in hand is finished and saved before the end."""

import signal
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """Work was stopped by a signal and saved; the message says where it goes on."""


class Stop:
    """Whether a signal has asked for the end."""

    requested = False
    at = 0.0
    """When it came, by the monotonic clock."""


@contextmanager
def stop_on_signals(*, patience: float = 0.0) -> Generator[Stop]:
    """Within the context the first SIGINT or SIGTERM is only noted, the second acts as before.

    An update of the weights is so never cut in two. Outside the main thread, where Python takes no
    signals, nothing changes.

    Args:
        patience: seconds after the first signal in which further ones count as the same. What a
            scheduler sends to all processes reaches those of torchrun twice: torchrun passes it on.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:
        if not stop.requested:
            stop.requested = True
            stop.at = time.monotonic()
            if not patience:
                restore()
        elif time.monotonic() > stop.at + patience:
            restore()
            signal.raise_signal(number)

    for number in _SIGNALS:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        restore()
