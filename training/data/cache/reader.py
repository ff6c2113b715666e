"""Reading an activation cache: shuffled batches to train on, held-out rows and contexts."""

from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ....sae.common.errors import InputError
from ....sae.common.files import nearest, sha256_file
from ....sae.common.wording import counted
from ...cautions import why_not_trainable
from ...runtime.transfers import DeviceCopies, prefetch_to_device
from ..shuffling import largest_buffer, shuffled_batches
from .manifest import FILE as MANIFEST
from .manifest import CacheManifest, ShardEntry, read_manifest
from .shards import Shard

_REMEDY = "run the `sparsteer cache` command that wrote it again, and it will be repaired"
_FEW_SHARDS = 32
"""A limited part of the held-out rows comes from this many shards if they have enough."""

_LARGEST_ON_DEVICE = 2**30
"""Bytes of the largest buffer of rows that is kept on a GPU; there are two at a time."""

BYTES_OF_VALUE = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}
"""By the dtype of a cache."""


class ActivationCache:
    """An activation cache on disk, opened for reading.

    Opening checks the manifest and the shards' sizes; a shard's checksum is checked when it is
    first read. Any number of readers may have a cache open, also while it is written with
    `allow_incomplete`: they see the shards that were whole when they opened it.

    Raises:
        InputError: the manifest is missing or broken, a shard is missing or truncated, or the cache
            is incomplete (unless `allow_incomplete`).
    """

    def __init__(self, path: str | Path, *, allow_incomplete: bool = False) -> None:
        self.path = Path(path)
        self.manifest = read_manifest(self.path)
        if not (self.manifest.complete or allow_incomplete):
            raise InputError(
                f"the cache {self.path} is incomplete ({counted(self.manifest.rows, 'row')} "
                "so far); run the `sparsteer cache` command that wrote it again, and it will go on"
            )
        for entry in self.manifest.shards:
            _require_no(_size_problem(self.path, entry))
        self._checked: set[str] = set()

    @property
    def sites(self) -> list[str]:
        """The sites whose activations it holds."""
        return list(self.manifest.sites)

    @property
    def d_model(self) -> int:
        """D, width of the activations."""
        return self.manifest.d_model

    @property
    def dtype(self) -> str:
        """In which rows were stored before they were widened to float32."""
        return self.manifest.dtype

    @property
    def n_rows(self) -> int:
        """Rows in all."""
        return self.manifest.rows

    @property
    def n_train(self) -> int:
        """Rows for training."""
        return self.manifest.rows - self.manifest.held_out_rows

    @property
    def n_held_out(self) -> int:
        """Rows kept out of training."""
        return self.manifest.held_out_rows

    @property
    def fingerprint(self) -> str:
        """One hash for all the content."""
        return self.manifest.fingerprint

    @property
    def model(self) -> str:
        """The language model as the user named it."""
        return self.manifest.model

    @property
    def weights_hash(self) -> str:
        """Hash of its weights."""
        return self.manifest.weights_hash

    @property
    def model_dtype(self) -> str:
        """The dtype in which it ran."""
        return self.manifest.model_dtype

    @property
    def dataset(self) -> str:
        """The corpus that was read."""
        return self.manifest.corpus.dataset

    @property
    def context_length(self) -> int:
        """Tokens in one context, BOS included."""
        return self.manifest.context_length

    @property
    def prepends_bos(self) -> bool:
        """Whether contexts begin with BOS."""
        return self.manifest.excluded["bos"] > 0

    @property
    def identity(self) -> dict[str, Any]:
        """What decides every row, as plain values."""
        return {"cache_fingerprint": self.fingerprint}

    def site_name(self, site: str | None = None) -> str:
        """The site meant: the one named, or the only one there is.

        Raises InputError if the cache does not hold it, or holds several and none is named.
        """
        if site in self.sites:
            return site
        if site is None:
            if len(self.sites) == 1:
                return self.sites[0]
            raise InputError(f"{self.path} holds the sites {', '.join(self.sites)}; choose one")
        near = nearest(site, self.sites) or self.sites
        raise InputError(f"{self.path} has no site {site!r}; it has {' and '.join(near)}")

    def sample(
        self, n_rows: int, *, site: str | None = None, seed: int = 0
    ) -> Float[Tensor, "N D"]:
        """So many training rows in float32, or all if there are fewer: the first batch of that
        size; raises as `batches`."""
        with closing(self.batches(min(n_rows, self.n_train), site=site, seed=seed)) as batches:
            return next(batches)

    def batches(
        self,
        batch_size: int,
        *,
        site: str | None = None,
        seed: int = 0,
        start: int = 0,
        part: slice | None = None,
        device: torch.device | None = None,
    ) -> Generator[Float[Tensor, "B D"], None, None]:
        """Training rows in float32, shuffled, without end; begin at batch `start`.

        Batch i depends on `seed` and i alone. In each epoch every training row occurs at most once;
        the few that fill no whole batch are left out, others each time. The order is new in every
        epoch: shards in random order, and rows shuffled over as many shards as BUFFER_BYTES hold.
        A thread reads the next buffer meanwhile; it ends when the iterator is closed or forgotten.
        With `part` only these rows of each batch are given, as a process does that shares batches.

        With a CUDA `device` the batches are there, bit for bit the same, ready for the stream that
        is current where each is asked for. Two buffers are kept there in the stored dtype, about
        400 MB, and the device cuts the batches; the next buffer is copied beside that, from pinned
        memory. Of a cache with a shard of more than a gigabyte a site, batches are cut in main
        memory and sent one by one.

        Raises:
            InputError: `batch_size` is below 1 or more than the training rows, the site is unknown;
                while reading, a shard's content has changed.
        """
        if batch_size < 1 or start < 0:
            raise InputError(
                f"batch_size is {batch_size} and start is {start}; they must be at least 1 and 0",
                field="batch_size",
            )
        self.require_batch(batch_size)
        row_bytes = self.d_model * BYTES_OF_VALUE[self.manifest.dtype]
        on_gpu = device is not None and device.type == "cuda"
        cut_there = on_gpu and largest_buffer(self.manifest.shards, row_bytes) <= _LARGEST_ON_DEVICE
        batches = shuffled_batches(
            self.manifest.shards,
            self.shard,
            site=self.site_name(site),
            row_bytes=row_bytes,
            batch_size=batch_size,
            seed=seed,
            start=start,
            part=part,
            copies=DeviceCopies(device) if device is not None and cut_there else None,
        )
        return batches if device is None or cut_there else prefetch_to_device(batches, device)

    def require_batch(self, batch_size: int) -> None:
        """Raise InputError if it has fewer training rows than that."""
        if batch_size > self.n_train:
            raise InputError(
                f"batch_size is {batch_size:,}, but {self.path} has only {self.n_train:,} training "
                "rows; lower the batch size, or cache more tokens",
                field="batch_size",
            )

    def require_held_out(self) -> None:
        """Raise InputError if it has no held-out rows, or but one, which has no variance."""
        if self.n_held_out < 2 and (reason := why_not_trainable(str(self.path), self.manifest)):
            raise InputError(reason)

    def held_out(
        self, *, site: str | None = None, limit: int | None = None
    ) -> Float[Tensor, "N D"]:
        """The held-out rows in float32, or `limit` of them, spread evenly; the same every time.

        With a limit, a large cache is read only in part: in a few shards all over it.

        Raises InputError if there are none, the site is unknown, or a shard's content has changed.
        """
        site = self.site_name(site)
        return torch.cat(
            [shard.stored(site).rows(rows).restored() for shard, rows in self._held_out(limit)]
        )

    def held_out_documents(self, *, limit: int | None = None) -> Int[Tensor, "N"]:
        """The number of its document in the corpus for each row of `held_out`, int64.

        Raises InputError as `held_out`.
        """
        return torch.cat([shard.tensor("doc")[rows] for shard, rows in self._held_out(limit)])

    def _held_out(self, limit: int | None) -> Iterator[tuple[Shard, Int[np.ndarray, "M"]]]:
        """The shards with the rows that `held_out` takes of them."""
        self.require_held_out()
        counts = [entry.held_out_rows for entry in self.manifest.shards]
        for entry, chosen in self.spread(counts, limit):
            shard = self.shard(entry)
            yield shard, shard.row_numbers(held_out=True)[chosen]

    def held_out_contexts(
        self, limit: int | None = None
    ) -> tuple[Int[Tensor, "C L"], Bool[Tensor, "C L"]]:
        """Tokens (int64) and attention mask of the held-out contexts, or of `limit` spread evenly.

        Raises InputError if there are none, or a shard's content has changed.
        """
        self.require_held_out()
        counts = [entry.held_out_contexts for entry in self.manifest.shards]
        tokens: list[Tensor] = []
        lengths: list[Tensor] = []
        for entry, chosen in self.spread(counts, limit):
            shard = self.shard(entry)
            numbers = np.flatnonzero(shard.tensor("held_out").numpy())[chosen]
            tokens.append(shard.tensor("contexts")[numbers].long())
            lengths.append(shard.tensor("lengths")[numbers])
        columns = torch.arange(self.manifest.context_length)
        return torch.cat(tokens), columns < torch.cat(lengths)[:, None]

    def shard(self, entry: ShardEntry) -> Shard:
        """Open one shard of the manifest for reading, its content checked the first time.

        Raises InputError if the content is not what was written, or not what the manifest says.
        """
        if entry.file not in self._checked:
            _require_no(_content_problem(self.path, self.manifest, entry))
            self._checked.add(entry.file)
        return Shard(self.path / entry.file)

    def spread(
        self, counts: list[int], limit: int | None
    ) -> Iterator[tuple[ShardEntry, Int[np.ndarray, "M"]]]:
        """Spread `limit` choices evenly over items of which each shard has `counts`.

        Gives the shards of which something is chosen, with the numbers chosen there, rising; with
        no limit all.
        """
        items = [(e, n) for e, n in zip(self.manifest.shards, counts, strict=True) if n]
        if limit is not None:
            items = _some_shards(items, limit)
        total = sum(n for _, n in items)
        n_chosen = total if limit is None else min(limit, total)
        chosen = np.arange(n_chosen) * total // max(n_chosen, 1)
        before = 0
        for entry, n_items in items:
            here = chosen[(chosen >= before) & (chosen < before + n_items)] - before
            if len(here):
                yield entry, here
            before += n_items


def shard_problem(folder: Path, manifest: CacheManifest, entry: ShardEntry) -> str:
    """What is wrong with a shard, in a sentence; empty if every byte is as it was written.

    Its shapes must be those of the manifest, too.
    """
    return _size_problem(folder, entry) or _content_problem(folder, manifest, entry)


def _require_no(problem: str) -> None:
    if problem:
        raise InputError(problem)


def _size_problem(folder: Path, entry: ShardEntry) -> str:
    """What is wrong with a shard's file, empty if it is there in its size."""
    path = folder / entry.file
    if not path.is_file():
        return f"the shard {path} is missing; {_REMEDY}"
    size = path.stat().st_size
    if size == entry.bytes:
        return ""
    return f"the shard {path} has {size:,} bytes instead of {entry.bytes:,}; {_REMEDY}"


def _content_problem(folder: Path, manifest: CacheManifest, entry: ShardEntry) -> str:
    """What is wrong with a shard's content, empty if it is as written and as the manifest says."""
    path = folder / entry.file
    try:
        good = sha256_file(path) == entry.sha256
    except OSError as error:
        return f"the shard {path} cannot be read ({error.strerror}); {_REMEDY}"
    if not good:
        return f"the content of the shard {path} has changed; {_REMEDY}"
    if not _is_described(Shard(path), manifest, entry):
        return (
            f"{folder / MANIFEST} does not describe the shard {path}; restore it, or write the "
            "cache again"
        )
    return ""


def _is_described(shard: Shard, manifest: CacheManifest, entry: ShardEntry) -> bool:
    """Whether a whole shard has the shapes and the held-out part that the manifest says."""
    shapes = {f"activations.{site}": (entry.rows, manifest.d_model) for site in manifest.sites}
    shapes["contexts"] = (entry.contexts, manifest.context_length)
    return (
        all(shard.shape(name) == shape for name, shape in shapes.items())
        and int(shard.tensor("held_out").sum()) == entry.held_out_contexts
        and len(shard.row_numbers(held_out=True)) == entry.held_out_rows
    )


def _some_shards(items: list[tuple[ShardEntry, int]], limit: int) -> list[tuple[ShardEntry, int]]:
    """Evenly spread shards with at least `limit` items, so that few need be read and checked."""
    n_shards = _FEW_SHARDS
    while n_shards < len(items):
        some = [items[i * len(items) // n_shards] for i in range(n_shards)]
        if sum(n for _, n in some) >= limit:
            return some
        n_shards *= 2
    return items
