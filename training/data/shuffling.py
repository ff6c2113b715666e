"""The order in which training rows are read: buffers of shards, shuffled, read one ahead.

A batch depends on the seed and its number alone, so a run that resumes at batch i reads what it
would have read, without reading what lies before.
"""

import hashlib
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .cache.manifest import ShardEntry
from .cache.shards import EncodedRows, Shard, copy_rows

BUFFER_BYTES = 192_000_000
"""Stored activations that are shuffled together; two such buffers are in memory at a time."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class ShuffleBuffer:
    """Shards whose training rows are shuffled together, and which of the shuffled rows to take."""

    shards: Sequence[ShardEntry]
    key: str
    """Decides the order of the rows."""
    first: int
    end: int


def shuffled_batches(
    shards: Sequence[ShardEntry],
    open_shard: Callable[[ShardEntry], Shard],
    *,
    site: str,
    row_bytes: int,
    batch_size: int,
    seed: int,
    start: int,
    part: slice | None = None,
) -> Generator[Float[Tensor, "B D"]]:
    """Batches of float32 training rows without end, from batch `start` on.

    Args:
        shards: what there is to read; at least `batch_size` of their rows are for training.
        open_shard: opens one of them; called in a background thread.
        site: whose activations to read.
        row_bytes: bytes of a stored row.
        part: which rows of every batch to give, at least one; all by default.
    """
    buffers = plan_buffers(
        shards, row_bytes=row_bytes, batch_size=batch_size, seed=seed, start=start
    )
    with closing(one_ahead(lambda buffer: _read(buffer, open_shard, site), buffers)) as contents:
        yield from cut_in_batches(contents, batch_size, part)


def cut_in_batches(
    pieces: Iterator[tuple[EncodedRows, Int[np.ndarray, "M"]]], batch_size: int, part: slice | None
) -> Generator[Float[Tensor, "B D"]]:
    """Batches of float32 rows from pieces: rows, and which of them to take in which order.

    A batch may go over several pieces; what is left at the end fills none. With `part` only these
    rows of each batch are given.
    """
    first, end, _ = (part or slice(None)).indices(batch_size)
    parts: list[Tensor] = []
    place = 0  # in the batch
    for rows, order in pieces:
        at = 0
        while at < len(order):
            taken = order[at : at + batch_size - place]
            wanted = taken[max(first - place, 0) : max(end - place, 0)]
            if len(wanted):
                parts.append(rows.rows(wanted).restored())
            at += len(taken)
            place += len(taken)
            if place == batch_size:
                yield parts[0] if len(parts) == 1 else torch.cat(parts)
                parts, place = [], 0
        # Without this a third buffer would be in memory while the next one is awaited.
        del rows


def plan_buffers(
    shards: Sequence[ShardEntry], *, row_bytes: int, batch_size: int, seed: int, start: int
) -> Iterator[ShuffleBuffer]:
    """The buffers to read, without end, from the one that holds the first row of batch `start` on.

    An epoch takes the shards in random order and groups them into buffers of at most BUFFER_BYTES,
    or of one shard. Its last rows, fewer than a batch, are left out.
    """
    with_rows = [shard for shard in shards if train_rows(shard)]
    batches_per_epoch = sum(map(train_rows, with_rows)) // batch_size
    skip = start % batches_per_epoch * batch_size
    for epoch in count(start // batches_per_epoch):
        key = f"{seed}/{epoch}"
        before = 0
        for group in _grouped([with_rows[i] for i in random_order(key, len(with_rows))], row_bytes):
            n_rows = sum(map(train_rows, group))
            first = max(skip - before, 0)
            end = min(batches_per_epoch * batch_size - before, n_rows)
            if first < end:
                yield ShuffleBuffer(group, f"{key}/{before}", first, end)
            before += n_rows
        skip = 0


def one_ahead(load: Callable[[T], R], items: Iterator[T]) -> Generator[R]:
    """`map(load, items)` with the next item loaded in a thread while the last one is in use.

    What `load` raises is raised here, in its turn. Closing the generator ends the thread.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="read-ahead") as pool:
        item = next(items, None)
        waiting = pool.submit(load, item) if item is not None else None
        while waiting is not None:
            loaded = waiting.result()
            item = next(items, None)
            waiting = pool.submit(load, item) if item is not None else None
            yield loaded
            del loaded


def train_rows(shard: ShardEntry) -> int:
    """Rows of a shard that are for training."""
    return shard.rows - shard.held_out_rows


def _grouped(shards: list[ShardEntry], row_bytes: int) -> Iterator[list[ShardEntry]]:
    group: list[ShardEntry] = []
    n_bytes = 0
    for shard in shards:
        n_bytes += train_rows(shard) * row_bytes
        if group and n_bytes > BUFFER_BYTES:
            yield group
            group, n_bytes = [], train_rows(shard) * row_bytes
        group.append(shard)
    yield group


def _read(
    buffer: ShuffleBuffer, open_shard: Callable[[ShardEntry], Shard], site: str
) -> tuple[EncodedRows, Int[np.ndarray, "M"]]:
    """The training rows of a buffer's shards, and the order in which to take them."""
    n_rows = sum(map(train_rows, buffer.shards))
    values = scale = None
    before = 0
    for entry in buffer.shards:
        shard = open_shard(entry)
        stored, index = shard.stored(site), shard.row_numbers(held_out=False)
        here = slice(before, before + len(index))
        if values is None:
            values = torch.empty(n_rows, stored.values.shape[1], dtype=stored.values.dtype)
            scale = None if stored.scale is None else torch.empty(n_rows)
        copy_rows(stored.values, index, values[here])
        if scale is not None and stored.scale is not None:
            scale[here] = stored.scale[index]
        before += len(index)
    assert values is not None  # a buffer has at least one shard
    return EncodedRows(values, scale), random_order(buffer.key, n_rows)[buffer.first : buffer.end]


def random_order(key: str, length: int) -> Int[np.ndarray, "M"]:
    """A random order that the key alone decides."""
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "big")
    return np.random.default_rng(seed).permutation(length)
