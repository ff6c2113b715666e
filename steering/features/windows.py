"""A chunk of an activation cache: whole contexts with their rows, codes and token windows.

Everything is looked up by stored token ids and columns; no text is tokenized again.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...kernels.codes import Codes
from ...training.data.cache.manifest import ShardEntry
from ...training.data.cache.reader import ActivationCache
from .hashing import mixed

NO_TOKEN = -1
"""Stands in a window where the document or the context ends."""


@dataclass(frozen=True)
class CacheChunk:
    """Consecutive contexts of one shard and the activation rows read from them."""

    rows_RD: Float[Tensor, "R D"]
    first_row: int
    """Number of the first row in the whole cache."""
    contexts: Int[Tensor, "C L"]
    """int64 token ids."""
    lengths: Int[Tensor, "C"]
    """int64: tokens before the padding."""
    context: Int[Tensor, "R"]
    """int64: the row's context in this chunk."""
    offset: Int[Tensor, "R"]
    """int64: the row's column in its context."""
    doc: Int[Tensor, "R"]
    position: Int[Tensor, "R"]
    """int64: the row's token position in its document."""
    kept: Bool[Tensor, "R"]
    """Which rows count; the others have an outlying norm."""
    has_bos: bool
    """Whether column 0 of every context is BOS."""

    @property
    def tokens(self) -> Int[Tensor, "R"]:
        """int64: the token of each row."""
        return self.contexts[self.context, self.offset]


def norm_bound(cache: ActivationCache, entry: ShardEntry, site: str, times: float) -> float:
    """`times` the median norm of a shard's rows; no bound (infinity) if `times` is 0.

    Raises:
        InputError: the shard's content is not what was written.
    """
    if not times:
        return math.inf
    rows_ND = cache.shard(entry).stored(site).restored()
    return times * float(_norms(rows_ND).median())


def chunks(
    cache: ActivationCache,
    shards: list[ShardEntry],
    site: str,
    *,
    rows_at_once: int,
    bound: float,
    device: str,
    first_row: int = 0,
) -> Iterator[CacheChunk]:
    """Read shards in order as chunks of whole contexts with about `rows_at_once` rows.

    Args:
        cache, shards, site: what to read.
        rows_at_once: most rows of a chunk, unless a single context has more.
        bound: rows with a larger norm do not count.
        device: where the tensors are put.
        first_row: number in the cache of the first shard's first row.

    Raises:
        InputError: a shard's content is not what was written.
    """
    for entry in shards:
        shard = cache.shard(entry)
        stored_ND = shard.stored(site)
        context_N = shard.tensor("context").long()
        columns = {name: shard.tensor(name).long() for name in ("offset", "doc", "position")}
        contexts_CL, lengths_C = shard.tensor("contexts"), shard.tensor("lengths")
        starts_C = torch.searchsorted(context_N, torch.arange(len(lengths_C) + 1))
        for first, last in _context_ranges(starts_C, rows_at_once):
            begin, end = int(starts_C[first]), int(starts_C[last])
            scale_N = stored_ND.scale
            rows_RD = stored_ND.values[begin:end].to(device).float()
            if scale_N is not None:
                rows_RD = rows_RD * rearrange(scale_N[begin:end], "r -> r 1").to(device)
            yield CacheChunk(
                rows_RD=rows_RD,
                first_row=first_row + begin,
                contexts=contexts_CL[first:last].long().to(device),
                lengths=lengths_C[first:last].long().to(device),
                context=(context_N[begin:end] - first).to(device),
                kept=_norms(rows_RD) <= bound,
                has_bos=entry.excluded["bos"] > 0,
                **{name: column_N[begin:end].to(device) for name, column_N in columns.items()},
            )
        first_row += entry.rows


def _norms(rows_RD: Float[Tensor, "R D"]) -> Float[Tensor, "R"]:
    return rows_RD.square().sum(1).sqrt()


def _context_ranges(starts_C: Int[Tensor, "C1"], rows_at_once: int) -> Iterator[tuple[int, int]]:
    """Split contexts into ranges that hold rows, each as long as it fits but at least one."""
    starts = [int(start) for start in starts_C]
    first = 0
    for last in range(1, len(starts)):
        is_last = last == len(starts) - 1
        if is_last or starts[last + 1] - starts[first] > rows_at_once:
            if starts[last] > starts[first]:
                yield first, last
            first = last


class SortedCodes:
    """The nonzero codes of a chunk, sorted by latent and then row.

    Attributes:
        latents, rows: int64 [E], the row counted within the chunk.  values: float32 [E].
    """

    def __init__(self, parts: list[tuple[Tensor, Codes]], n_rows: int) -> None:
        """From codes of parts of the chunk, each with the numbers of its rows."""
        latents: list[Tensor] = []
        rows: list[Tensor] = []
        values: list[Tensor] = []
        for rows_B, codes in parts:
            used_BM = codes.values > 0
            latents.append(codes.indices[used_BM])
            rows.append(rows_B[:, None].expand_as(used_BM)[used_BM])
            values.append(codes.values[used_BM].float())
        self.n_rows = n_rows
        self._keys, order = (torch.cat(latents) * n_rows + torch.cat(rows)).sort()
        self.values = torch.cat(values)[order]
        self.latents = self._keys.div(n_rows, rounding_mode="floor")
        self.rows = self._keys - self.latents * n_rows

    def at(self, latents: Int[Tensor, "E"], rows: Int[Tensor, "E W"]) -> Float[Tensor, "E W"]:
        """Each latent's activations at its rows; 0 where it does not fire or the row is -1."""
        if not len(self._keys):
            return torch.zeros_like(rows, dtype=torch.float32)
        keys = latents[:, None] * self.n_rows + rows
        slots = torch.searchsorted(self._keys, keys).clamp_(max=len(self._keys) - 1)
        found = (self._keys[slots] == keys) & (rows >= 0)
        return self.values[slots].masked_fill(~found, 0)


@dataclass(frozen=True)
class TokenWindows:
    """For each row of a chunk the tokens around it, its own in column `before`."""

    tokens: Int[Tensor, "R W"]
    """int64 token ids; NO_TOKEN beyond the ends of the document or the context."""
    rows: Int[Tensor, "R W"]
    """int64: the row of the token in the chunk; -1 where it has none."""
    identity: Int[Tensor, "R"]
    """int64 hash of the tokens; equal windows have equal ones."""


def windows(chunk: CacheChunk, before: int, after: int) -> TokenWindows:
    """The tokens around every row, cut where its document or context begins and ends.

    BOS does not count as part of a document; the separator behind a document does.
    """
    n_contexts, length = chunk.contexts.shape
    device = chunk.contexts.device
    here = (chunk.context, chunk.offset)
    low_R = (chunk.offset - chunk.position).clamp(min=int(chunk.has_bos))
    high_R = _document_ends(chunk)[chunk.context, chunk.offset + 1]
    columns_RW = chunk.offset[:, None] + torch.arange(-before, after + 1, device=device)
    inside_RW = (columns_RW >= low_R[:, None]) & (columns_RW < high_R[:, None])
    columns_RW = columns_RW.clamp(0, length - 1)
    row_at_CL = torch.full((n_contexts, length), -1, device=device)
    row_at_CL[here] = torch.arange(len(chunk.offset), device=device)
    context_R1 = chunk.context[:, None]
    tokens_RW = chunk.contexts[context_R1, columns_RW].masked_fill(~inside_RW, NO_TOKEN)
    rows_RW = row_at_CL[context_R1, columns_RW].masked_fill(~inside_RW, -1)
    # Every column has its own stream of hashes, so that order counts.
    columns_W = torch.arange(before + after + 1, device=device) << 32
    return TokenWindows(tokens_RW, rows_RW, mixed(tokens_RW + 1 + columns_W).sum(-1))


def _document_ends(chunk: CacheChunk) -> Int[Tensor, "C L1"]:
    """For each column the first later or equal one at which a document begins, or the length."""
    length = chunk.contexts.shape[1]
    starts_R = chunk.offset - chunk.position
    begins_R = starts_R >= 0
    next_CL = chunk.lengths[:, None].expand(-1, length + 1).clone()
    next_CL[chunk.context[begins_R], starts_R[begins_R]] = starts_R[begins_R]
    return next_CL.flip(1).cummin(1).values.flip(1)
