"""What the command sets for a process that trains: signals ask to stop, malloc keeps memory."""

import signal
import time
from collections.abc import Iterator

import pytest

from sparsteer.cli import training_process as module
from sparsteer.cli.training_process import stop_on_signals, training_process
from sparsteer.training.runtime import malloc

BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@pytest.fixture(autouse=True)
def raising_handlers() -> Iterator[None]:
    """Those that the command has: a shell lets what it starts in the background ignore SIGINT."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@BOTH
def test_the_first_signal_asks_and_the_second_ends(number: signal.Signals) -> None:
    with stop_on_signals() as stop:
        with stop.watched():
            assert not stop.is_set()
            signal.raise_signal(number)
            assert stop.is_set()
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(number) is signal.default_int_handler


@BOTH
def test_before_and_after_training_a_signal_ends_at_once(number: signal.Signals) -> None:
    with stop_on_signals() as stop:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        assert not stop.is_set()
    with stop_on_signals() as stop:
        with stop.watched():
            signal.raise_signal(number)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)


def test_a_signal_that_was_ignored_stays_so_until_training() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with stop_on_signals() as stop:
        signal.raise_signal(signal.SIGINT)
        assert not stop.is_set()
        with stop.watched():
            signal.raise_signal(signal.SIGINT)
        assert stop.is_set()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_under_torchrun_a_signal_that_comes_twice_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(module, "under_torchrun", lambda: True)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with stop_on_signals() as stop, stop.watched():
        signal.raise_signal(signal.SIGTERM)
        now += 1.9
        signal.raise_signal(signal.SIGTERM)
        now += 0.2
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize(("device", "asked"), [("auto", True), ("cpu", True), ("cuda", False)])
def test_malloc_keeps_memory_where_a_cpu_trains(
    monkeypatch: pytest.MonkeyPatch, device: str, asked: bool
) -> None:
    calls: list[bool] = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(malloc, "keep_freed_memory", lambda: calls.append(True))
    with training_process(device):
        pass
    assert bool(calls) == asked
