"""What a verb that trains sets for its process: the library leaves malloc and signals alone."""

import signal
import time
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

from ..training.distributed.torchrun import under_torchrun
from ..training.runtime.stopping import StopRequest

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PATIENCE = 2.0
"""Seconds in which further signals count as the first one, under torchrun."""


@contextmanager
def training_process(device: str) -> Generator[StopRequest]:
    """Let malloc keep freed memory where a CPU trains, and signals ask training to stop.

    Args:
        device: where to train, as the user named it; training says what is wrong with it.
    """
    import torch

    from ..training.runtime.malloc import keep_freed_memory

    if device.startswith("cpu") or (device == "auto" and not torch.cuda.is_available()):
        keep_freed_memory()
    with stop_on_signals() as stop:
        yield stop


@contextmanager
def stop_on_signals() -> Generator[StopRequest]:
    """While training watches the request, the first SIGINT or SIGTERM only sets it.

    An update of the weights is so never cut in two. A second signal, and one that comes before the
    first step or after the last, acts as it would without this. What a scheduler sends to all
    processes reaches those of torchrun twice, since torchrun passes it on: there, signals within
    two seconds count as one.
    """
    stop = StopRequest()
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    patient_until = 0.0

    def act_as_before(number: int) -> None:
        signal.signal(number, before[signal.Signals(number)])
        signal.raise_signal(number)
        signal.signal(number, note)  # where it is ignored

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal patient_until
        if stop.is_watched and not stop.is_set():
            stop.set()
            patient_until = time.monotonic() + (_PATIENCE if under_torchrun() else 0.0)
        elif time.monotonic() > patient_until:
            act_as_before(number)

    for number in _SIGNALS:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
