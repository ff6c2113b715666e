"""The device that a user named, checked where it can still be answered with a sentence."""

from contextlib import AbstractContextManager, nullcontext

import torch

from .errors import InputError
from .text import first_line


def resolve_device(name: str) -> torch.device:
    """The device called `name`; "auto" is CUDA where there is one, else the CPU.

    Raises:
        InputError: the name is unknown, or torch cannot use the device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        if device.type == "meta":
            raise RuntimeError("it holds no values")
    # torch looks for a module of a device that it does not know: ImportError.
    except (RuntimeError, AssertionError, NotImplementedError, ImportError, ValueError) as error:
        raise InputError(
            f"device {name!r} cannot be used here ({first_line(error)}); use cpu, cuda or auto"
        ) from None
    return device


def as_current(device: torch.device) -> AbstractContextManager[object]:
    """A context in which a GPU is torch's current one.

    What is not told a device, such as an allocation of pinned memory, would otherwise take half a
    gigabyte of cuda:0 for a context of its own.
    """
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
