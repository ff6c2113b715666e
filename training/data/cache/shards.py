"""One shard of an activation cache: whole contexts, and the activation rows read from them.

The tensors of a shard file, with n rows, c contexts, L the context length, D the width:

    activations.SITE  [n, D]  float16, bfloat16, float32 or int8
    scale.SITE        [n]     float32, with int8 only: activation = value * scale
    tokens            [n]     int32   token at the row
    doc               [n]     int64   number of its document in the corpus
    position          [n]     int32   its position in the document
    context, offset   [n]     int32   its context in this shard and its column there
    contexts          [c, L]  int32   token ids, BOS included, padded behind the text
    lengths           [c]     int32   tokens before the padding
    held_out          [c]     bool    whether the context is kept out of training
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import safetensors.torch
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from ....sae.common.errors import InputError
from ....sae.common.files import atomic_file
from ..corpus_config import CacheDtype
from .manifest import ShardEntry

_DTYPES: dict[CacheDtype, torch.dtype] = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
}


class EncodedRows(NamedTuple):
    """Activation rows as a shard stores them."""

    values: Shaped[Tensor, "N D"]
    scale: Float[Tensor, "N"] | None = None
    """float32; None unless the values are int8."""

    def restored(self) -> Float[Tensor, "N D"]:
        """The rows in float32."""
        if self.scale is None:
            return self.values.float()
        return self.values.float() * self.scale[:, None]

    def tensors(self) -> list[Tensor]:
        """What it holds."""
        return [self.values] if self.scale is None else [self.values, self.scale]

    def rows(self, index: Int[np.ndarray, "M"]) -> "EncodedRows":
        """A copy of some rows."""
        values = torch.empty(len(index), self.values.shape[1], dtype=self.values.dtype)
        copy_rows(self.values, index, values)
        return EncodedRows(
            values, None if self.scale is None else self.scale[torch.as_tensor(index)]
        )


def encode_rows(acts_ND: Float[Tensor, "N D"], dtype: CacheDtype, site: str) -> EncodedRows:
    """Convert float32 rows to how they are stored.

    int8 has one scale a row, so that the largest magnitude of the row is 127; no value is off by
    more than half a scale.

    Raises InputError if a value is not finite, or not in the range of `dtype`.
    """
    converted = convert_rows(acts_ND, dtype)
    require_held(converted.are_held, acts_ND, dtype, site)
    return converted.rows


class ConvertedRows(NamedTuple):
    """Rows as they are stored, and whether they may be."""

    rows: EncodedRows
    are_held: Bool[Tensor, "2"]
    """Whether all values are finite, and whether they are in the range of the dtype; on their
    device."""


def convert_rows(acts_ND: Float[Tensor, "N D"], dtype: CacheDtype) -> ConvertedRows:
    """As `encode_rows`, on the device of the rows and without waiting for it: who takes the result
    looks at `are_held` with `require_held`."""
    finite = acts_ND.isfinite().all()
    if dtype == "int8":
        scale_N = acts_ND.abs().amax(dim=1).float() / 127
        divisor_N = torch.where(scale_N > 0, scale_N, 1)
        # A scale too small for all bits of a float32 gives quotients beyond 127.
        values_ND = (acts_ND / divisor_N[:, None]).round().clamp(-127, 127)
        rows = EncodedRows(values_ND.to(torch.int8), scale_N)
        return ConvertedRows(rows, torch.stack([finite, finite]))
    values_ND = acts_ND.to(_DTYPES[dtype])
    return ConvertedRows(EncodedRows(values_ND), torch.stack([finite, values_ND.isfinite().all()]))


def require_held(
    are_held: Bool[Tensor, "2"], acts_ND: Float[Tensor, "N D"], dtype: CacheDtype, site: str
) -> None:
    """Raise InputError unless `convert_rows` found values that are finite and in range."""
    finite, in_range = (bool(held) for held in are_held)
    if not finite:
        raise InputError(
            f"the model gives NaN or infinite activations at {site}; check its weights, "
            "or choose another site"
        )
    if not in_range:
        raise InputError(
            f"activations at {site} reach {float(acts_ND.abs().max()):,.0f}, which {dtype} cannot "
            f"hold; choose --dtype {'float32' if dtype == 'bfloat16' else 'bfloat16'}"
        )


@dataclass(frozen=True)
class ShardContent:
    """What goes into a shard; the fields are the tensors that the module's docstring lists."""

    activations: Mapping[str, EncodedRows]
    """By site."""
    tokens: Int[Tensor, "N"]
    doc: Int[Tensor, "N"]
    position: Int[Tensor, "N"]
    context: Int[Tensor, "N"]
    offset: Int[Tensor, "N"]
    contexts: Int[Tensor, "C L"]
    lengths: Int[Tensor, "C"]
    held_out: Bool[Tensor, "C"]

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by their names in the file, in the dtypes of the format."""
        tensors = {
            "doc": self.doc.to(torch.int64),
            "held_out": self.held_out,
            **{
                name: cast(Tensor, getattr(self, name)).to(torch.int32)
                for name in ("tokens", "position", "context", "offset", "contexts", "lengths")
            },
        }
        for site, stored in self.activations.items():
            tensors[f"activations.{site}"] = stored.values
            if stored.scale is not None:
                tensors[f"scale.{site}"] = stored.scale
        return {name: tensor.contiguous() for name, tensor in tensors.items()}


def shard_name(index: int) -> str:
    """The file name of a shard."""
    return f"shard-{index:05d}.safetensors"


def write_shard(
    folder: Path, index: int, content: ShardContent, excluded: dict[str, int]
) -> ShardEntry:
    """Write a shard file atomically and give its entry for the manifest.

    Raises OSError as the file system does; then no file is left behind.
    """
    # Serialized in memory rather than by save_file, whose errors (a full disk) are no OSError.
    data = safetensors.torch.save(content.tensors())
    with atomic_file(folder / shard_name(index)) as temporary:
        temporary.write_bytes(data)
    held_out_rows = int(content.held_out[content.context.long()].sum())
    return ShardEntry(
        file=shard_name(index),
        contexts=len(content.contexts),
        held_out_contexts=int(content.held_out.sum()),
        rows=len(content.tokens),
        held_out_rows=held_out_rows,
        excluded=excluded,
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )


class Shard:
    """A shard file, open for reading; tensors are read when they are asked for."""

    def __init__(self, path: Path) -> None:
        # Untyped: safetensors declares no types for its handle.
        self._file: Any = cast(Any, safetensors).safe_open(path, framework="pt")

    def tensor(self, name: str) -> Tensor:
        """A tensor by its name in the file."""
        return cast(Tensor, self._file.get_tensor(name))

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of a tensor, None if there is none of that name."""
        if name not in self._file.keys():
            return None
        return tuple(cast(list[int], self._file.get_slice(name).get_shape()))

    def stored(self, site: str) -> EncodedRows:
        """All rows of a site."""
        values = self.tensor(f"activations.{site}")
        int8 = values.dtype == torch.int8
        return EncodedRows(values, self.tensor(f"scale.{site}") if int8 else None)

    def row_numbers(self, *, held_out: bool) -> Int[np.ndarray, "M"]:
        """Which rows are held out, or which are for training, in order."""
        sides = self.tensor("held_out").numpy()[self.tensor("context").numpy()]
        return np.flatnonzero(sides == held_out)


def copy_rows(
    source: Shaped[Tensor, "N D"], index: Int[np.ndarray, "M"], out: Shaped[Tensor, "M D"]
) -> None:
    """Copy rows of `source` into `out`: five times as fast as torch's index_select on one thread.

    It also starts no threads of torch's, which would get in the way of the training step when this
    runs in a background thread.
    """
    source_bytes, out_bytes = (tensor.view(torch.uint8).numpy() for tensor in (source, out))
    np.take(source_bytes, index, axis=0, out=out_bytes, mode="clip")
