"""Tensors on disk, in safetensors: the only format read or written for them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file  # pyright: ignore[reportUnknownVariableType] - its path type is an open generic
from torch import Tensor

from .checksums import require_as_written
from .errors import InputError
from .old_names import tensors_with_new_names


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write the tensors, each made contiguous; write to a temporary name and rename yourself."""
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)


def load_tensors(
    path: Path, remedy: str, *, record: Mapping[str, Any] | None = None
) -> dict[str, Tensor]:
    """Read all tensors of the file onto the CPU, under the names of today.

    Args:
        path: a safetensors file.
        remedy: ends the message of an error that copying or restoring the file would mend.
        record: size and SHA-256 that the file must have, as `recorded_files` gives them; None where
            none were taken.

    Raises:
        InputError: the file is missing, may not be read, has changed, is cut short or no
            safetensors file.
    """
    # It opens the file first: safetensors calls a file missing that may not be read.
    require_as_written(path, record, remedy)
    try:
        return tensors_with_new_names(load_file(path))
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} cannot be read ({error}); {remedy}") from None
