"""Copies between host and GPU for which neither waits: batches to it, numbers back from it."""

from collections.abc import Generator
from contextlib import closing
from itertools import count

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..data.shuffling import one_ahead


def prefetch_to_device(
    batches: Generator[Float[Tensor, "B D"]], device: torch.device
) -> Generator[Float[Tensor, "B D"]]:
    """The batches on the device; for a GPU a thread reads, pins and copies them one ahead.

    From pinned memory a copy does not wait for what is queued on the GPU. Closing this generator
    closes `batches`.
    """

    def send(_: int) -> Float[Tensor, "B D"] | None:
        x = next(batches, None)
        if x is None:
            return None
        with torch.cuda.device(device):
            return x.pin_memory().to(device, non_blocking=True)

    with closing(batches):
        if device.type != "cuda":
            for x in batches:
                yield x.to(device)
            return
        with closing(one_ahead(send, count())) as sent:
            for x in sent:
                if x is None:
                    return
                yield x


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
