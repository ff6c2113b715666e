"""Some rows of a batch as an index, of which the device is told once."""

from collections.abc import Sequence

import torch
from torch import Tensor


class RowChoice:
    """What takes rows of a tensor: a slice for all of them, else their numbers on its device.

    A list of numbers would be copied to the device in each pass, for which the host waits.
    """

    def __init__(self) -> None:
        self._copied: dict[tuple[torch.device, tuple[int, ...]], Tensor] = {}

    def __call__(self, rows: Sequence[int], batch: Tensor) -> slice | Tensor:
        """The index of rows, in their order, for a tensor whose first dimension is the batch."""
        if list(rows) == list(range(len(batch))):
            return slice(None)
        key = (batch.device, tuple(rows))
        if key not in self._copied:
            self._copied[key] = torch.tensor(list(rows), device=batch.device)
        return self._copied[key]
