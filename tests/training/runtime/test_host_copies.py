"""Results on their way to main memory, with a GPU that is but pretended, and with one."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsteer.training.runtime.host_copies import HostCopies, send

GPU = torch.device("cuda", 0)


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a GPU, which need not be there, was asked for, in order."""
    found: list[str] = []
    empty: Any = torch.empty

    class Stream:
        def __init__(self, device: torch.device) -> None:
            assert device == GPU

        def wait_stream(self, other: str) -> None:
            found.append(f"waits for {other}")

    class Event:
        def record(self, stream: Stream) -> None:
            found.append("recorded")

        def synchronize(self) -> None:
            found.append("waited for")

    @contextmanager
    def entered(stream: Stream) -> Generator[None]:
        found.append("entered")
        yield
        found.append("left")

    def unpinned(*size: int, dtype: torch.dtype, pin_memory: bool = False) -> Tensor:
        return empty(*size, dtype=dtype)

    def current(device: torch.device) -> str:
        return "the caller"

    def record_stream(tensor: Tensor, stream: Stream) -> None:
        found.append("kept")

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "stream", entered)
    monkeypatch.setattr(torch.cuda, "current_stream", current)
    monkeypatch.setattr(torch, "empty", unpinned)
    monkeypatch.setattr(Tensor, "record_stream", record_stream)
    return found


def batch(number: int) -> list[Tensor]:
    rows = torch.arange(6.0 + number).reshape(-1, 1) + number
    return [rows.half(), rows[:, 0].float(), torch.tensor([True, number % 2 == 0])]


def test_copies_go_through_two_sets_of_buffers_in_turn(done: list[str]) -> None:
    copies = HostCopies(GPU)
    arrived: list[list[Tensor]] = []
    before = copies.start(batch(0))
    assert done == ["waits for the caller", "entered", *["kept"] * 3, "recorded", "left"]
    for number in range(1, 5):
        done.clear()
        following = copies.start(batch(number))
        assert "waited for" not in done
        with pytest.raises(RuntimeError, match="two copies are under way"):
            copies.start(batch(9))
        arrived.append(before.wait())
        assert done[-1] == "waited for"
        before = following
    arrived.append(before.wait())
    for number, tensors in enumerate(arrived):
        for found, expected in zip(tensors, batch(number), strict=True):
            assert found.dtype == expected.dtype and torch.equal(found, expected)


def test_on_a_cpu_nothing_is_copied() -> None:
    copies = HostCopies(torch.device("cpu"))
    tensors = batch(3)
    found = copies.start(tensors).wait()
    assert [id(tensor) for tensor in found] == [id(tensor) for tensor in tensors]
    assert torch.equal(send(tensors[0], torch.device("cpu")), tensors[0])


@pytest.mark.gpu
def test_on_a_gpu_copies_are_whole_whatever_the_sources_become() -> None:
    copies = HostCopies(GPU)
    expected = [torch.randn(1 << 20) for _ in range(6)]
    arrived: list[Tensor] = []
    before = None
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):  # as a caller's own
        for rows in expected:
            there = send(rows, GPU)
            work = torch.randn(4096, 4096, device=GPU)  # that the copy is behind
            zero = (work @ work @ work)[0, 0] * 0
            pending = copies.start([there + zero])
            del there  # its memory is asked for again at once
            torch.full((1 << 20,), torch.nan, device=GPU)
            arrived += before.wait() if before else []
            before = pending
        assert before is not None
        arrived += before.wait()
    for found, rows in zip(arrived, expected, strict=True):
        assert found.device.type == "cpu" and torch.equal(found, rows)
