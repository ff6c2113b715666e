"""The order in which training rows are read: buffers of shards, shuffled, read one ahead.

A batch depends on the seed and its number alone, so a run that resumes at batch i reads what it
would have read, without reading what lies before.
"""

import hashlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import count

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..runtime.transfers import DeviceCopies
from .buffer_reading import OpenShard, ShuffleBuffer, read_windows, train_rows
from .cache.manifest import ShardEntry
from .windows import Window

BUFFER_BYTES = 192_000_000
"""Stored activations that are shuffled together; two such buffers are in memory at a time."""


def shuffled_batches(
    shards: Sequence[ShardEntry],
    open_shard: OpenShard,
    *,
    site: str,
    row_bytes: int,
    batch_size: int,
    seed: int,
    start: int,
    part: slice | None = None,
    copies: DeviceCopies | None = None,
) -> Generator[Float[Tensor, "B D"]]:
    """Batches of float32 training rows without end, from batch `start` on.

    Args:
        shards: what there is to read; at least `batch_size` of their rows are for training.
        open_shard: opens one of them; called in background threads.
        site: whose activations to read.
        row_bytes: bytes of a stored row.
        part: which rows of every batch to give, at least one; all by default.
        copies: sends the buffers to a device, which cuts the batches: two buffers are there, in the
            stored dtype, and one in main memory. None: batches are cut in main memory.
    """
    buffers = plan_buffers(
        shards, row_bytes=row_bytes, batch_size=batch_size, seed=seed, start=start
    )
    with closing(read_windows(buffers, open_shard, site, copies)) as windows:
        yield from cut_in_batches(windows, batch_size, part)


def cut_in_batches(
    windows: Iterator[Window], batch_size: int, part: slice | None
) -> Generator[Float[Tensor, "B D"]]:
    """Batches of float32 rows from windows, on whose device they are.

    A batch may go over several windows; what is left at the end fills none. With `part` only these
    rows of each batch are given.
    """
    first, end, _ = (part or slice(None)).indices(batch_size)
    parts: list[Tensor] = []
    place = 0  # in the batch
    for window in windows:
        at = 0
        while at < len(window):
            n_taken = min(batch_size - place, len(window) - at)
            skipped, wanted = max(first - place, 0), min(end - place, n_taken)
            if skipped < wanted:
                parts.append(window.take(at + skipped, at + wanted))
            at += n_taken
            place += n_taken
            if place == batch_size:
                yield parts[0] if len(parts) == 1 else torch.cat(parts)
                parts, place = [], 0
        # Without this a third buffer would be in memory while the next one is awaited.
        del window


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
                yield ShuffleBuffer(group, partial(random_order, f"{key}/{before}"), first, end)
            before += n_rows
        skip = 0


def largest_buffer(shards: Sequence[ShardEntry], row_bytes: int) -> int:
    """Bytes that a buffer of these shards has at most."""
    return max(BUFFER_BYTES, *(train_rows(shard) * row_bytes for shard in shards))


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


def random_order(key: str, length: int) -> Int[np.ndarray, "M"]:
    """A random order that the key alone decides."""
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "big")
    return np.random.default_rng(seed).permutation(length)
