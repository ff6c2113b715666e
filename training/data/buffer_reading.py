"""Reading the buffers of a shuffled cache, in their order, one ahead of their use.

For the CPU one thread reads, since the training step needs the cores. A GPU takes rows faster than
one thread can compare shards with their checksums and copy their rows: there several do both.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from ..distributed.torchrun import local_world_size
from ..runtime.read_ahead import one_ahead
from ..runtime.threads import allowed_cores
from ..runtime.transfers import DeviceCopies
from .cache.manifest import ShardEntry
from .cache.shards import EncodedRows, Shard, copy_rows
from .windows import DeviceWindow, HostWindow, Window

_MOST_THREADS = 4
"""That open shards, and as many that copy rows."""
_OPENED_AHEAD = 3
"""Buffers whose shards are opened, and so compared with their checksums, before they are read."""

OpenShard = Callable[[ShardEntry], Shard]


@dataclass(frozen=True)
class ShuffleBuffer:
    """Shards whose training rows are shuffled together, and which of the shuffled rows to take."""

    shards: Sequence[ShardEntry]
    order: Callable[[int], Int[np.ndarray, "N"]]
    """The order of so many rows, all that the shards have for training."""
    first: int
    end: int


def read_windows(
    buffers: Iterator[ShuffleBuffer],
    open_shard: OpenShard,
    site: str,
    copies: DeviceCopies | None,
) -> Generator[Window]:
    """The rows of the buffers in the order in which they are taken.

    Args:
        buffers: what to read.
        open_shard: opens a shard; called in background threads.
        site: whose activations to read.
        copies: sends the rows to a device. None: they stay in main memory.
    """
    with ExitStack() as ends:
        if copies is None:

            def read(buffer: ShuffleBuffer) -> Window:
                shards = map(open_shard, buffer.shards)
                return HostWindow(*_read(buffer, shards, site, torch.empty, copy_rows))

            windows = one_ahead(read, buffers)
        else:
            opening, copying = _threads("open-shard", ends), _threads("copy-rows", ends)

            def read_opened(opened: tuple[ShuffleBuffer, Iterable[Shard]]) -> Window:
                def copy(source: Tensor, index: Int[np.ndarray, "M"], out: Tensor) -> None:
                    _copy_rows_in_parts(source, index, out, copying)

                return DeviceWindow(*_read(*opened, site, copies.empty, copy), copies)

            windows = one_ahead(read_opened, _opened_ahead(buffers, open_shard, opening))
        yield from ends.enter_context(closing(windows))


def _threads(name: str, ends: ExitStack) -> Executor:
    n_threads = max(1, min(_MOST_THREADS, allowed_cores() // local_world_size()))
    threads = ThreadPoolExecutor(n_threads, thread_name_prefix=name)
    ends.callback(threads.shutdown, cancel_futures=True)
    return threads


def _opened_ahead(
    buffers: Iterator[ShuffleBuffer], open_shard: OpenShard, threads: Executor
) -> Iterator[tuple[ShuffleBuffer, Iterable[Shard]]]:
    """The buffers with their shards, which threads open some buffers ahead."""
    ahead: deque[tuple[ShuffleBuffer, Iterable[Shard]]] = deque()
    for buffer in buffers:
        # Unlike `submit`, `map` gives the shards themselves, and raises in turn.
        ahead.append((buffer, threads.map(open_shard, buffer.shards)))
        if len(ahead) > _OPENED_AHEAD:
            yield ahead.popleft()
    yield from ahead


def _read(
    buffer: ShuffleBuffer,
    shards: Iterable[Shard],
    site: str,
    empty: Callable[..., Tensor],
    copy: Callable[[Tensor, Int[np.ndarray, "M"], Tensor], None],
) -> tuple[EncodedRows, Int[np.ndarray, "N"]]:
    """The training rows of a buffer's shards, and the order in which to take them."""
    n_rows = sum(map(train_rows, buffer.shards))
    values = scale = None
    before = 0
    for shard in shards:
        stored, index = shard.stored(site), shard.row_numbers(held_out=False)
        here = slice(before, before + len(index))
        if values is None:
            values = empty(n_rows, stored.values.shape[1], dtype=stored.values.dtype)
            scale = None if stored.scale is None else empty(n_rows, dtype=torch.float32)
        copy(stored.values, index, values[here])
        if scale is not None and stored.scale is not None:
            scale[here] = stored.scale[index]
        before += len(index)
    assert values is not None  # a buffer has at least one shard
    return EncodedRows(values, scale), buffer.order(n_rows)[buffer.first : buffer.end]


def _copy_rows_in_parts(
    source: Shaped[Tensor, "N D"],
    index: Int[np.ndarray, "M"],
    out: Shaped[Tensor, "M D"],
    threads: Executor,
) -> None:
    """`copy_rows`, shared by the threads."""
    ends = [len(index) * n // _MOST_THREADS for n in range(_MOST_THREADS + 1)]

    def copy(first: int, end: int) -> None:
        copy_rows(source, index[first:end], out[first:end])

    list(threads.map(copy, ends[:-1], ends[1:]))


def train_rows(shard: ShardEntry) -> int:
    """Rows of a shard that are for training."""
    return shard.rows - shard.held_out_rows
