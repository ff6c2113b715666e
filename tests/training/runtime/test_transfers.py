"""Batches on their way to the device, with a GPU that is but pretended."""

import threading
from collections.abc import Generator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsteer.training.runtime.transfers import prefetch_to_device

GPU = torch.device("cuda", 1)


def batches(n: int, closed: list[bool]) -> Generator[Tensor]:
    try:
        for number in range(n):
            if number == 3:
                raise OSError("gone")
            yield torch.full((2, 3), float(number))
    finally:
        closed.append(True)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, Any]]:
    """What was sent: whether by another thread, and how."""
    found: list[tuple[bool, Any]] = []
    pinned: list[int] = []

    def pin_memory(x: Tensor) -> Tensor:
        pinned.append(id(x))
        return x

    def to(x: Tensor, device: torch.device, non_blocking: bool = False) -> Tensor:
        other = threading.current_thread() is not threading.main_thread()
        found.append((other, (device, id(x) in pinned, non_blocking)))
        return x

    def device(of: torch.device) -> Any:
        return nullcontext(of)

    monkeypatch.setattr(Tensor, "pin_memory", pin_memory)
    monkeypatch.setattr(Tensor, "to", to)
    monkeypatch.setattr(torch.cuda, "device", device)
    return found


def test_a_gpu_gets_pinned_batches_from_a_thread_in_order(sent: list[tuple[bool, Any]]) -> None:
    closed: list[bool] = []
    arriving = prefetch_to_device(batches(10, closed), GPU)
    assert [float(next(arriving)[0, 0]) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="gone"):
        next(arriving)
    assert sent == [(True, (GPU, True, True))] * 3 and closed == [True]


@pytest.mark.parametrize("device", [GPU, torch.device("cpu")])
@pytest.mark.usefixtures("sent")
def test_closing_closes_the_batches_and_their_end_is_the_end(device: torch.device) -> None:
    closed: list[bool] = []
    arriving = prefetch_to_device(batches(3, closed), device)
    next(arriving)
    arriving.close()
    assert closed == [True]
    assert [float(x[0, 0]) for x in prefetch_to_device(batches(3, closed), device)] == [0, 1, 2]
