"""A GPU that is but pretended: its copies are made when a stream waits for them, and not before."""

import threading
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

GPU = torch.device("cuda", 1)


@dataclass(eq=False)
class Stream:
    """What was queued on it and is not done."""

    device: torch.device | None = None
    copies: list[tuple[Tensor, Tensor]] = field(default_factory=list[tuple[Tensor, Tensor]])

    def wait_event(self, event: "Event") -> None:
        event.synchronize()

    def catch_up(self) -> None:
        for target, source in self.copies:
            target.copy_(source)
        self.copies.clear()


class Event(torch.cuda.Event):
    """A point of a stream."""

    def __new__(cls) -> "Event":
        try:
            return object.__new__(cls)
        except (
            TypeError
        ):  # torch is built for CUDA: the real one makes nothing until it is recorded
            return super().__new__(cls)

    def __init__(self) -> None:
        self.stream: Stream | None = None

    def record(self, stream: Any = None) -> None:
        self.stream = stream

    def synchronize(self) -> None:
        assert self.stream is not None, "an event that was not recorded"
        self.stream.catch_up()


class PretendedGPU:
    """Stands in for CUDA in a test. Tensors that are sent to GPU stay in main memory, full of
    garbage until the copy is made.

    Attributes:
        default: the stream that is current where no other one was chosen.
        sent: of each copy, its stream and whether the main thread asked for it.
        recorded: the streams for which the memory of each tensor was kept.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.default = Stream(GPU)
        self.sent: list[tuple[Stream, bool]] = []
        self.recorded: list[tuple[Tensor, Stream]] = []
        self._current = threading.local()
        self._pinned: list[Tensor] = []
        to, empty = Tensor.to, torch.empty

        def sending(x: Tensor, *words: Any, **options: Any) -> Tensor:
            if not (words and isinstance(words[0], torch.device) and words[0].type == "cuda"):
                return to(x, *words, **options)
            assert words[0] == GPU and options == {"non_blocking": True}
            assert any(x is pinned for pinned in self._pinned), "a copy from memory that moves"
            there = torch.full_like(x, 77)
            stream = self.current_stream()
            stream.copies.append((there, x))
            self.sent.append((stream, threading.current_thread() is threading.main_thread()))
            return there

        def pin(x: Tensor) -> Tensor:
            self._pinned.append(x)
            return x

        def pinned(*words: Any, pin_memory: bool = False, **options: Any) -> Tensor:
            made = empty(*words, **options)
            return pin(made) if pin_memory else made

        def recording(x: Tensor, stream: Stream) -> None:
            self.recorded.append((x, stream))

        monkeypatch.setattr(Tensor, "to", sending)
        monkeypatch.setattr(Tensor, "pin_memory", pin)
        monkeypatch.setattr(Tensor, "record_stream", recording)
        monkeypatch.setattr(torch, "empty", pinned)
        monkeypatch.setattr(torch.cuda, "device", nullcontext)
        monkeypatch.setattr(torch.cuda, "Stream", Stream)
        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "stream", self.stream)
        monkeypatch.setattr(torch.cuda, "current_stream", self.current_stream)

    def current_stream(self, device: torch.device | None = None) -> Stream:
        return getattr(self._current, "stream", self.default)

    @contextmanager
    def stream(self, stream: Stream) -> Generator[None]:
        before = self.current_stream()
        self._current.stream = stream
        try:
            yield
        finally:
            self._current.stream = before
