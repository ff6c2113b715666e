"""Batches on their way to the device, with a GPU that is but pretended, and numbers from it."""

from collections.abc import Generator

import pytest
import torch
from torch import Tensor

from sparsteer.training.runtime.transfers import DeviceCopies, host_numbers, prefetch_to_device

from ..pretended_gpu import GPU, PretendedGPU, Stream

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def batches(n: int, closed: list[bool]) -> Generator[Tensor]:
    try:
        for number in range(n):
            if number == 3:
                raise OSError("gone")
            yield torch.full((2, 3), float(number))
    finally:
        closed.append(True)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> PretendedGPU:
    return PretendedGPU(monkeypatch)


def test_a_gpu_gets_pinned_batches_from_a_thread_in_order(gpu: PretendedGPU) -> None:
    closed: list[bool] = []
    arriving = prefetch_to_device(batches(10, closed), GPU)
    assert [float(next(arriving)[0, 0]) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="gone"):
        next(arriving)
    assert closed == [True] and len(gpu.sent) == 3
    ((stream, in_main_thread),) = set(gpu.sent)
    assert stream is not gpu.default and not in_main_thread


def test_batches_are_ready_for_the_stream_that_asks(gpu: PretendedGPU) -> None:
    arriving = prefetch_to_device(batches(3, []), GPU)
    streams = [Stream(), gpu.default, Stream()]
    for number, stream in enumerate(streams):
        with gpu.stream(stream):
            x = next(arriving)
        assert (x == number).all()
        assert gpu.recorded[-1][0] is x and gpu.recorded[-1][1] is stream


@pytest.mark.parametrize("device", [GPU, torch.device("cpu")])
@pytest.mark.usefixtures("gpu")
def test_closing_closes_the_batches_and_their_end_is_the_end(device: torch.device) -> None:
    closed: list[bool] = []
    arriving = prefetch_to_device(batches(3, closed), device)
    next(arriving)
    arriving.close()
    assert closed == [True]
    assert [float(x[0, 0]) for x in prefetch_to_device(batches(3, closed), device)] == [0, 1, 2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_numbers_on_the_host_are_those_that_float_gives(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    numbers = torch.randn(5, generator=generator, dtype=torch.float64).to(dtype)
    values = dict(zip("abcde", numbers, strict=True)) | {"n": torch.tensor(2**24 + 1)}
    values["weight"] = torch.tensor(torch.nan, requires_grad=True)
    found = host_numbers(values)
    assert found.pop("weight") != found.get("weight"), "NaN"
    assert found == {name: float(value) for name, value in list(values.items())[:-1]}
    assert host_numbers({}) == {}


@pytest.mark.gpu
@on_gpu
def test_a_copy_is_awaited_on_the_stream_of_the_caller() -> None:
    device = torch.device("cuda", 0)
    copies, streams = DeviceCopies(device), [torch.cuda.Stream(device) for _ in range(2)]
    for number in range(20):
        source = copies.empty(1 << 22, dtype=torch.float32).fill_(number)
        assert source.is_pinned()
        arriving = copies.send(source)
        del source
        with torch.cuda.stream(streams[number % 2]):
            (x,) = arriving.on_current_stream()
            torch.cuda._sleep(1_000_000)  # pyright: ignore - a kernel that takes long
            alike = (x == number).all()
            del arriving, x  # its memory must outlive the comparison that is queued
        copies.send(copies.empty(1 << 22, dtype=torch.float32).fill_(-1.0))
        streams[number % 2].synchronize()
        assert bool(alike), number
