"""The tensors of an intervention: they are no part of its JSON, which has their digest.

Nothing here imports torch before tensors are given.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

from ...sae.common.errors import InputError


class Vectors:
    """Named tensors that do not change; equal if names, dtypes, shapes and values are.

    They are kept on the CPU: integers as int64, float64 as it is, other floats as float32. What
    was read from JSON alone has the digest, by which it compares, and no tensors.
    """

    def __init__(self, tensors: Mapping[str, Any]) -> None:
        """Take a copy of the tensors.

        Raises:
            InputError: there is none, or one holds NaN.
        """
        import torch

        if not tensors:
            raise InputError("an intervention's vectors are empty; give tensors by their names")
        kept: dict[str, Any] = {}
        for name in sorted(tensors):
            tensor = torch.as_tensor(tensors[name]).detach()
            if not tensor.is_floating_point():
                dtype = torch.int64
            else:
                dtype = torch.float64 if tensor.dtype == torch.float64 else torch.float32
            kept[name] = tensor.to("cpu", dtype, copy=True).contiguous()
            if bool(kept[name].isnan().any()):
                raise InputError(f"the vector {name} of an intervention holds NaN; fit it again")
        self._tensors: dict[str, Any] | None = kept
        self.digest = _digest(kept)
        """SHA-256 of names, dtypes, shapes and values, in hexadecimal."""

    @classmethod
    def known_by(cls, digest: str) -> "Vectors":
        """Vectors of which only the digest is known."""
        found = cls.__new__(cls)
        found._tensors, found.digest = None, digest
        return found

    @property
    def tensors(self) -> Mapping[str, Any]:
        """The tensors by their names.

        Raises:
            InputError: only the digest is known.
        """
        if self._tensors is None:
            raise InputError(
                f"the vectors {self.digest[:12]} of an intervention are not in its JSON; give the "
                "folder that Intervention.save wrote, which has them in vectors.safetensors"
            )
        return self._tensors

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vectors) and other.digest == self.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        if self._tensors is None:
            return f"Vectors.known_by({self.digest!r})"
        shapes = (f"{name}={list(tensor.shape)}" for name, tensor in self._tensors.items())
        return f"Vectors({', '.join(shapes)})"


def _digest(tensors: Mapping[str, Any]) -> str:
    found = hashlib.sha256()
    for name, tensor in tensors.items():
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        found.update(tensor.numpy().tobytes())
    return found.hexdigest()
