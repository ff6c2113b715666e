"""What makes the host wait for a GPU is refused, on a GPU or without one."""

import inspect
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any, cast

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

WAITING = {
    *("item", "tolist", "nonzero", "cpu", "numpy", "masked_select", "unique", "argwhere", "equal"),
    *("__bool__", "__int__", "__float__", "__index__", "__iter__", "bincount"),
    *("tensor", "as_tensor", "new_tensor"),
}
"""To the host, and from it: what a call copies from memory that is not pinned, it waits for."""


PLACES_THAT_MAY = ("/triton/runtime/", "/training/runtime/transfers.py")
"""Triton's interpreter, and where numbers are read that set off before other work was queued."""


class NoWaiting(TorchFunctionMode):
    """Refuses what would make the host wait if the tensors were on a GPU."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in ("__getitem__", "__setitem__", "index_put_"):
            index = cast(Any, args[1] if isinstance(args[1], tuple | list) else (args[1],))
            waits = any(isinstance(i, Tensor) and i.dtype == torch.bool for i in index)
        elif name == "repeat_interleave":
            waits = "output_size" not in kwargs and not isinstance(args[1], int)
        else:
            waits = name in WAITING
        assert not waits or _may_wait(), f"{name} waits for the device"
        return func(*args, **kwargs)


def _may_wait() -> bool:
    frame: FrameType | None = inspect.currentframe()
    while frame is not None:
        if any(place in frame.f_code.co_filename for place in PLACES_THAT_MAY):
            return True
        frame = frame.f_back
    return False


@contextmanager
def no_waiting(device: str) -> Generator[None]:
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")
    else:
        with NoWaiting():
            yield
