"""Batches that a device cuts: bit for bit those cut in main memory, right on any stream."""

import threading
import time
from collections.abc import Generator
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sparsteer.training.data import buffer_reading, shuffling
from sparsteer.training.data.cache import reader as reader_module
from sparsteer.training.data.cache.manifest import ShardEntry
from sparsteer.training.data.cache.reader import ActivationCache
from sparsteer.training.data.cache.shards import EncodedRows, Shard, encode_rows
from sparsteer.training.data.corpus_config import CacheDtype
from sparsteer.training.data.windows import DeviceWindow, HostWindow
from sparsteer.training.runtime.transfers import DeviceCopies

from ..pretended_gpu import GPU, PretendedGPU, Stream

CPU = torch.device("cpu")
DTYPES = ["float32", "float16", "bfloat16", "int8"]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> PretendedGPU:
    return PretendedGPU(monkeypatch)


@pytest.fixture
def cache(planted_cache: Path) -> ActivationCache:
    return ActivationCache(planted_cache)


@pytest.fixture(params=[10, 60_000, 10**9], ids=["one shard", "two shards", "all shards"])
def buffer_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Buffers of one shard (1008 training rows of 48 bytes), of two at most, and of all."""
    monkeypatch.setattr(shuffling, "BUFFER_BYTES", request.param)


def rows_of(dtype: CacheDtype, n_rows: int = 50) -> EncodedRows:
    rows = torch.randn(n_rows, 7, generator=torch.Generator().manual_seed(1))
    return encode_rows(rows, dtype, "site")


def assert_same_windows(device: torch.device, dtype: CacheDtype) -> None:
    order = np.random.default_rng(2).permutation(50)[3:48]
    rows, copies = rows_of(dtype), DeviceCopies(device)
    there, here = DeviceWindow(rows, order, copies), HostWindow(rows, order)
    assert len(there) == len(here) == 45
    for first, end in [(0, 45), (0, 1), (7, 20), (44, 45), (5, 5)]:
        found, wanted = there.take(first, end), here.take(first, end)
        assert found.device.type == device.type and found.dtype == torch.float32
        assert torch.equal(found.cpu(), wanted)


def cut_by(device: torch.device, cache: ActivationCache, start: int, part: slice | None) -> Tensor:
    """Ten batches of 96 rows, cut by a device: they go over shards, buffers and epochs."""
    batches = shuffling.shuffled_batches(
        cache.manifest.shards,
        cache.shard,
        site=cache.sites[0],
        row_bytes=48,
        batch_size=96,
        seed=5,
        start=start,
        part=part,
        copies=DeviceCopies(device),
    )
    with closing(batches):
        return torch.cat(list(islice(batches, 40))).cpu()


def cut_by_host(cache: ActivationCache, start: int, part: slice | None) -> Tensor:
    with closing(cache.batches(96, seed=5, start=start, part=part)) as batches:
        return torch.cat(list(islice(batches, 40)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_a_window_have_the_bits_of_those_in_main_memory(dtype: CacheDtype) -> None:
    assert_same_windows(CPU, dtype)


@pytest.mark.usefixtures("buffer_bytes")
@pytest.mark.parametrize(("start", "part"), [(0, None), (13, None), (28, slice(30, 70))])
def test_a_device_cuts_the_batches_that_the_host_cuts(
    cache: ActivationCache, start: int, part: slice | None
) -> None:
    assert torch.equal(cut_by(CPU, cache, start, part), cut_by_host(cache, start, part))


@pytest.mark.usefixtures("buffer_bytes")
def test_batches_on_a_gpu_are_those_in_main_memory_whatever_stream_asks(
    cache: ActivationCache, gpu: PretendedGPU
) -> None:
    streams = [Stream(), Stream(), gpu.default]
    with closing(cache.batches(96, seed=5, device=GPU)) as batches:
        found: list[Tensor] = []
        for number in range(40):
            with gpu.stream(streams[number % 3]):
                found.append(next(batches))
    assert torch.equal(torch.cat(found), cut_by_host(cache, 0, None))
    # Windows alone are sent, with an order each, from the reading thread by one other stream.
    assert len({stream for stream, _ in gpu.sent}) == 1
    assert not any(in_main_thread for _, in_main_thread in gpu.sent)
    assert not {stream for stream, _ in gpu.sent} & set(streams)
    assert {stream for _, stream in gpu.recorded} == set(streams)


def test_at_most_two_windows_are_on_a_gpu(
    cache: ActivationCache, gpu: PretendedGPU, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shuffling, "BUFFER_BYTES", 10)
    alive: set[int] = set()
    most = 0

    class Counted(DeviceWindow):
        def __init__(self, rows: EncodedRows, order: np.ndarray, copies: DeviceCopies) -> None:
            nonlocal most
            super().__init__(rows, order, copies)
            alive.add(id(self))
            most = max(most, len(alive))

        def __del__(self) -> None:
            alive.discard(id(self))

    monkeypatch.setattr(buffer_reading, "DeviceWindow", Counted)
    with closing(cache.batches(500, device=GPU)) as batches:
        for _ in range(20):
            next(batches)
    assert most == 2


def test_a_cache_with_a_huge_shard_sends_batches_one_by_one(
    cache: ActivationCache, gpu: PretendedGPU, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shuffling, "BUFFER_BYTES", 10)
    monkeypatch.setattr(reader_module, "_LARGEST_ON_DEVICE", 1008 * 48 - 1)
    with closing(cache.batches(96, seed=5, device=GPU)) as batches:
        found = torch.cat(list(islice(batches, 40)))
    assert torch.equal(found, cut_by_host(cache, 0, None))
    assert len(gpu.sent) in (40, 41)  # one ahead


def test_shards_are_opened_a_few_buffers_ahead(
    cache: ActivationCache, gpu: PretendedGPU, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In use, one being read, and three ahead of it: their checksums take the longest."""
    monkeypatch.setattr(shuffling, "BUFFER_BYTES", 10)
    opened: list[str] = []
    open_shard = ActivationCache.shard

    def counted(self: ActivationCache, entry: ShardEntry) -> Shard:
        opened.append(threading.current_thread().name)
        return open_shard(self, entry)

    monkeypatch.setattr(ActivationCache, "shard", counted)
    with closing(cache.batches(1000, device=GPU)) as batches:
        for number in range(1, 6):
            next(batches)
            end = time.monotonic() + 10
            while len(opened) < number + 4 and time.monotonic() < end:
                time.sleep(0.001)
            assert number + 4 <= len(opened) <= number + 5
    assert all(name.startswith("open-shard") for name in opened)
    before = len(opened)
    with closing(cache.batches(1000)) as batches:
        next(batches)
    assert len(opened) - before <= 2
    assert all(name.startswith("read-ahead") for name in opened[before:])


def test_an_error_in_reading_is_raised_where_a_device_cuts(
    cache: ActivationCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(entry: ShardEntry) -> Generator[None]:
        raise OSError("gone")

    monkeypatch.setattr(cache, "shard", broken)
    with pytest.raises(OSError, match="gone"):
        cut_by(CPU, cache, 0, None)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_a_window_on_a_gpu(dtype: CacheDtype) -> None:
    assert_same_windows(torch.device("cuda", 0), dtype)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.usefixtures("buffer_bytes")
def test_batches_on_a_gpu_under_streams_of_the_caller(
    cache: ActivationCache,
) -> None:
    device = torch.device("cuda", 0)
    streams = [torch.cuda.Stream(device), torch.cuda.Stream(device)]
    with closing(cache.batches(96, seed=5, device=device)) as batches:
        found: list[Tensor] = []
        for number in range(40):
            with torch.cuda.stream(streams[number % 2]):
                torch.cuda._sleep(100_000)  # pyright: ignore - a kernel that takes long
                found.append(next(batches).cpu())
    assert torch.equal(torch.cat(found), cut_by_host(cache, 0, None))
