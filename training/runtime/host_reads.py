"""Numbers that a device computes and the host reads later."""

import torch
from jaxtyping import Int
from torch import Tensor


class Later:
    """Whole numbers on their way to the host.

    On a GPU they set off when the work queued before is done, and nothing waits until `read` does;
    what is queued meanwhile keeps the GPU busy. Elsewhere they are there at once.
    """

    def __init__(self, numbers: Int[Tensor, "N"]) -> None:
        self._numbers = numbers
        self._arrival: torch.cuda.Event | None = None
        if numbers.is_cuda:
            self._numbers = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            self._numbers.copy_(numbers, non_blocking=True)
            self._arrival = torch.cuda.Event()
            self._arrival.record(torch.cuda.current_stream(numbers.device))

    def read(self) -> list[int]:
        """The numbers; waits for their arrival."""
        if self._arrival is not None:
            self._arrival.synchronize()
        return [int(number) for number in self._numbers]
