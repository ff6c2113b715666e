"""Tensors on disk, in safetensors: the only format read or written for them."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file  # pyright: ignore[reportUnknownVariableType] - its path type is an open generic
from torch import Tensor

from .errors import InputError


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write the tensors, each made contiguous; write to a temporary name and rename yourself."""
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)


def load_tensors(path: Path, remedy: str) -> dict[str, Tensor]:
    """Read all tensors of the file onto the CPU.

    Raises:
        InputError: the file is missing, cut short or no safetensors file; it ends with the remedy.
    """
    try:
        return load_file(path)
    except FileNotFoundError:
        raise InputError(f"{path} is missing; {remedy}") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} cannot be read ({error}); {remedy}") from None
