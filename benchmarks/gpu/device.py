"""What only a GPU has: events, streams, graphs, a profiler, memory; with a stand-in on the CPU.

The stand-in lets every part of the check run interpreted, without a GPU. It times by the clock,
has one stream, and a captured call is the call itself, so that its figures say nothing of a GPU.
"""

import gc
import statistics
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

T = TypeVar("T")
Call = Callable[[], object]

_CYCLES_AHEAD = 2_000_000
"""About a millisecond of the GPU, in which the host queues what is timed."""


class KernelUse(NamedTuple):
    """What a call runs on the device."""

    launches: float
    busy_ms: float
    """Sum of the kernels' own times."""
    longest: list[tuple[str, float]]
    """Names of the kernels and their milliseconds, the longest first."""


class Device(Protocol):
    """What the parts of the check ask of a device."""

    kind: str
    """cuda or cpu, as PyTorch names it."""
    most_repeats: int
    """How often anything is repeated at most; the interpreter takes a second for a step."""

    def name(self) -> str:
        """The chip."""
        ...

    def synchronize(self) -> None:
        """Wait until the device has done all that is queued."""
        ...

    def free_gb(self) -> float:
        """Free memory of the device, GB."""
        ...

    def release(self) -> None:
        """Give back memory that nothing refers to, and count the peak from here."""
        ...

    def peak_gb(self) -> float:
        """The most memory in use since `release`, GB."""
        ...

    def median_ms(self, call: Call, repeats: int) -> float:
        """Milliseconds of a call with nothing of its inputs in the cache, the median."""
        ...

    def cold_ms(self, call: Call) -> float:
        """Milliseconds of one call with nothing of its inputs in the cache."""
        ...

    def no_waiting(self) -> AbstractContextManager[None]:
        """Within it, whatever makes the host wait for the device raises RuntimeError."""
        ...

    def other_stream(self) -> AbstractContextManager[None]:
        """Within it, work is queued on a stream of its own, behind what was queued before."""
        ...

    def captured(self, call: Callable[[], T]) -> Callable[[], T]:
        """A replay of the call as one graph, which gives the tensors that the capture gave."""
        ...

    def kernels(self, call: Call, repeats: int) -> KernelUse:
        """The kernels of a call, the mean of so many."""
        ...


class Cuda:
    """The first visible NVIDIA GPU."""

    kind = "cuda"
    most_repeats = 1000

    def __init__(self) -> None:
        self._properties: Any = torch.cuda.get_device_properties(0)  # pyright: ignore[reportUnknownMemberType] - untyped
        self._flush: Tensor | None = None

    def name(self) -> str:
        return str(self._properties.name)

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def free_gb(self) -> float:
        return torch.cuda.mem_get_info()[0] / 1e9

    def release(self) -> None:
        self._flush = None
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()

    def peak_gb(self) -> float:
        return torch.cuda.max_memory_allocated() / 1e9

    def median_ms(self, call: Call, repeats: int) -> float:
        call()
        return statistics.median(self.cold_ms(call) for _ in range(repeats))

    def cold_ms(self, call: Call) -> float:
        self._buffer_beyond_the_cache().zero_()
        torch.cuda._sleep(_CYCLES_AHEAD)  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType] - no public name
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    def _buffer_beyond_the_cache(self) -> Tensor:
        if self._flush is None:
            n_bytes = max(2 * int(self._properties.L2_cache_size), 1 << 26)
            self._flush = torch.empty(n_bytes, dtype=torch.uint8, device="cuda")
        return self._flush

    @contextmanager
    def no_waiting(self) -> Generator[None]:
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")

    @contextmanager
    def other_stream(self) -> Generator[None]:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            yield
        torch.cuda.current_stream().wait_stream(stream)

    def captured(self, call: Callable[[], T]) -> Callable[[], T]:
        with self.other_stream():  # warm up where nothing is captured
            for _ in range(2):
                call()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = call()

        def replay() -> T:
            graph.replay()
            return result

        return replay

    def kernels(self, call: Call, repeats: int) -> KernelUse:
        return _profiled(call, repeats, ProfilerActivity.CUDA)


class InterpretedDevice:
    """The CPU in a GPU's place, for the kernels in Triton's interpreter."""

    kind = "cpu"
    most_repeats = 1

    def name(self) -> str:
        return "Triton's interpreter on a CPU"

    def synchronize(self) -> None:
        pass

    def free_gb(self) -> float:
        return 1.0

    def release(self) -> None:
        gc.collect()

    def peak_gb(self) -> float:
        return 0.0

    def median_ms(self, call: Call, repeats: int) -> float:
        return self.cold_ms(call)

    def cold_ms(self, call: Call) -> float:
        started = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - started)

    def no_waiting(self) -> AbstractContextManager[None]:
        return nullcontext()

    def other_stream(self) -> AbstractContextManager[None]:
        return nullcontext()

    def captured(self, call: Callable[[], T]) -> Callable[[], T]:
        call()  # as a capture warms up
        return call

    def kernels(self, call: Call, repeats: int) -> KernelUse:
        return _profiled(call, 1, ProfilerActivity.CPU)


def _profiled(call: Call, repeats: int, activity: ProfilerActivity) -> KernelUse:
    on_gpu = activity == ProfilerActivity.CUDA
    with profile(activities=[activity]) as profiler:
        for _ in range(repeats):
            call()
        if on_gpu:
            torch.cuda.synchronize()
    events: Any = profiler.events()  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - untyped
    milliseconds: dict[str, float] = {}
    launches = 0
    for event in events:
        if str(event.device_type).endswith("CUDA") == on_gpu:
            launches += 1
            own = event.self_device_time_total if on_gpu else event.self_cpu_time_total
            name = str(event.name)[:60]
            milliseconds[name] = milliseconds.get(name, 0.0) + own / 1e3 / repeats
    longest = sorted(milliseconds.items(), key=lambda item: -item[1])
    return KernelUse(launches / repeats, sum(milliseconds.values()), longest)


def host_and_wall_ms(device: Device, call: Call, repeats: int) -> tuple[float, float]:
    """Milliseconds until a call returns where the device has nothing else to do, the median; and
    of a call among calls that follow each other, until the device has done them."""
    repeats = min(repeats, device.most_repeats)
    host: list[float] = []
    for _ in range(min(repeats, 10)):
        device.synchronize()
        started = time.perf_counter()
        call()
        host.append(1e3 * (time.perf_counter() - started))
    device.synchronize()
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    device.synchronize()
    return statistics.median(host), 1e3 * (time.perf_counter() - started) / repeats
