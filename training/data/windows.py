"""Windows of the training rows: what is in memory of them, in the order in which it is taken."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..runtime.transfers import DeviceCopies
from .cache.shards import EncodedRows


@runtime_checkable
class Window(Protocol):
    """Rows in the order in which they are taken."""

    def __len__(self) -> int:
        """How many are taken."""
        ...

    def take(self, first: int, end: int) -> Float[Tensor, "M D"]:
        """Those from number `first` to before `end` in that order, in float32, in new memory."""
        ...


class HostWindow:
    """Rows in main memory.

    Args:
        rows: as they are stored.
        order: numbers of the rows to take, in order.
    """

    def __init__(self, rows: EncodedRows, order: Int[np.ndarray, "N"]) -> None:
        self._rows = rows
        self._order = order

    def __len__(self) -> int:
        return len(self._order)

    def take(self, first: int, end: int) -> Float[Tensor, "M D"]:
        return self._rows.rows(self._order[first:end]).restored()


class DeviceWindow:
    """The same on a device, in the stored dtype: the device gathers rows and makes them float32,
    so that the host only says which.

    What `take` gives is made on the stream that is current where it is called; it has the bits of a
    `HostWindow` of the same rows.

    Args:
        rows, order: as for `HostWindow`; they are sent and can be dropped.
        copies: sends them.
    """

    def __init__(
        self, rows: EncodedRows, order: Int[np.ndarray, "N"], copies: DeviceCopies
    ) -> None:
        self._n_rows = len(order)
        scale: Sequence[Tensor] = () if rows.scale is None else (rows.scale,)
        self._arriving = copies.send(torch.from_numpy(order), rows.values, *scale)  # pyright: ignore[reportUnknownMemberType] - untyped

    def __len__(self) -> int:
        return self._n_rows

    def take(self, first: int, end: int) -> Float[Tensor, "M D"]:
        order, values, *scale = self._arriving.on_current_stream()
        index = order[first:end]
        chosen = [tensor.index_select(0, index) for tensor in (values, *scale)]
        return EncodedRows(*chosen).restored()
