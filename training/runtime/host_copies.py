"""Results that are copied from a GPU to main memory while the GPU computes the next ones."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Shaped
from torch import Tensor


class HostCopies:
    """Copies to main memory for which neither host nor GPU waits, on a stream of their own.

    They go to two sets of pinned buffers in turn, so two may be under way: who starts the third has
    waited for the first. A set grows to the largest tensors that it had to take. On a CPU there is
    nothing to copy, and tensors are given back as they are.

    Args:
        device: where the tensors lie.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._buffers: tuple[list[Tensor], list[Tensor]] = ([], [])
        self._under_way: list[PendingTensors] = []

    def start(self, tensors: Sequence[Shaped[Tensor, "..."]]) -> "PendingTensors":
        """Queue copies of tensors behind the work that is queued on the current stream.

        Raises RuntimeError if two copies have been started that nobody has waited for.
        """
        self._under_way = [one for one in self._under_way if not one.is_done]
        if len(self._under_way) == 2:
            raise RuntimeError("two copies are under way; wait for the first of them")
        pending = self._started(tensors)
        self._under_way.append(pending)
        return pending

    def _started(self, tensors: Sequence[Tensor]) -> "PendingTensors":
        if self._stream is None:
            return PendingTensors(tensors, None)
        buffers = self._buffers[0]
        self._buffers = self._buffers[1], buffers
        copied = torch.cuda.Event()
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        pinned: list[Tensor] = []
        with torch.cuda.stream(self._stream):
            for place, tensor in enumerate(tensors):
                if place == len(buffers):
                    buffers.append(torch.empty(0, dtype=torch.uint8))
                if len(buffers[place]) < tensor.nbytes:
                    buffers[place] = torch.empty(tensor.nbytes, dtype=torch.uint8, pin_memory=True)
                view = buffers[place][: tensor.nbytes].view(tensor.dtype).view(tensor.shape)
                pinned.append(view.copy_(tensor, non_blocking=True))
                # Its memory may go to another tensor only when the copy is done.
                tensor.record_stream(self._stream)
            copied.record(self._stream)
        return PendingTensors(pinned, copied.synchronize)


class PendingTensors:
    """Tensors on their way to main memory."""

    def __init__(self, tensors: Sequence[Tensor], wait_for_copy: Callable[[], None] | None) -> None:
        self._tensors: list[Tensor] = list(tensors)
        self._wait_for_copy = wait_for_copy
        self.is_done = False
        """Whether `wait` was called, after which the buffers may be used again."""

    def wait(self) -> list[Tensor]:
        """The tensors in memory of their own, once they are there. To be called once."""
        tensors, self._tensors = self._tensors, list[Tensor]()
        if self._wait_for_copy is not None:
            self._wait_for_copy()
            tensors = [tensor.clone() for tensor in tensors]
        self.is_done = True
        return tensors


def send(tensor: Shaped[Tensor, "..."], device: torch.device) -> Shaped[Tensor, "..."]:
    """A tensor of main memory on the device, without waiting for what a GPU has still to do."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
