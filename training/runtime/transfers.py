"""Copies between host and GPU for which neither waits: rows to it, numbers back from it."""

from collections.abc import Generator, Mapping
from contextlib import closing
from itertools import count

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .read_ahead import one_ahead


class Arriving:
    """Tensors on their way to a device."""

    def __init__(self, tensors: tuple[Tensor, ...], copied: torch.cuda.Event | None) -> None:
        self._tensors = tensors
        self._copied = copied

    def on_current_stream(self) -> tuple[Tensor, ...]:
        """The tensors, to be used on the calling thread's current stream: what it does from here on
        waits for the copies, the host does not. Their memory is kept until that stream is done with
        what was queued on it while they were in use."""
        if self._copied is not None:
            stream = torch.cuda.current_stream(self._tensors[0].device)
            stream.wait_event(self._copied)
            for tensor in self._tensors:
                # They belong to the stream of the copies: without this their memory could be given
                # to a later copy while the work of this stream still reads it.
                tensor.record_stream(stream)
        return self._tensors


class DeviceCopies:
    """Copies from main memory to a device, which on a GPU have a stream of their own and so go on
    beside what is computed there. On other devices they are made at once."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def empty(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """Main memory to fill and send; pinned for a GPU, which copies from it without the host."""
        if self._stream is None:
            return torch.empty(*shape, dtype=dtype)
        with torch.cuda.device(self.device):
            return torch.empty(*shape, dtype=dtype, pin_memory=True)

    def send(self, *tensors: Tensor) -> Arriving:
        """Begin to copy tensors of main memory, which a GPU pins first unless they are pinned; any
        thread may call this. They may be dropped at once, but must not be changed."""
        if self._stream is None:
            return Arriving(tuple(tensor.to(self.device) for tensor in tensors), None)
        with torch.cuda.device(self.device), torch.cuda.stream(self._stream):
            sent = tuple(
                tensor.pin_memory().to(self.device, non_blocking=True) for tensor in tensors
            )
            copied = torch.cuda.Event()
            copied.record(self._stream)
        return Arriving(sent, copied)


def prefetch_to_device(
    batches: Generator[Float[Tensor, "B D"]], device: torch.device
) -> Generator[Float[Tensor, "B D"]]:
    """The batches on the device; for a GPU a thread reads, pins and copies them one ahead.

    Each is ready for the stream that is current where it is asked for. Closing this generator
    closes `batches`.
    """
    with closing(batches):
        if device.type != "cuda":
            for x in batches:
                yield x.to(device)
            return
        copies = DeviceCopies(device)

        def send(_: int) -> Arriving | None:
            x = next(batches, None)
            return None if x is None else copies.send(x)

        with closing(one_ahead(send, count())) as sent:
            for arriving in sent:
                if arriving is None:
                    return
                (x,) = arriving.on_current_stream()
                del arriving
                yield x
                del x


class PendingHostCopy:
    """Integers that are being copied to the host.

    From a GPU the copy is queued behind the work that was queued before it; the host goes on and
    waits only in `wait`, and what is queued meanwhile keeps the GPU busy. On a CPU the numbers are
    there at once.
    """

    def __init__(self, numbers: Int[Tensor, "N"]) -> None:
        self._numbers = numbers
        self._copied: torch.cuda.Event | None = None
        if numbers.is_cuda:
            self._numbers = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            self._numbers.copy_(numbers, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record(torch.cuda.current_stream(numbers.device))

    def wait(self) -> list[int]:
        """The numbers, once they are copied."""
        if self._copied is not None:
            self._copied.synchronize()
        return [int(number) for number in self._numbers]


def host_numbers(values: Mapping[str, Tensor]) -> dict[str, float]:
    """The numbers in 0-d tensors of one device, by the same names: as `float` gives each, but with
    one copy to the host, and so one wait for a GPU."""
    if not values:
        return {}
    # Every float and every count of a step is exact in float64.
    together = torch.stack([value.detach().double() for value in values.values()])
    return dict(zip(values, map(float, together.cpu()), strict=True))
