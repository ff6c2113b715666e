"""Held-out contexts of an activation cache with the rows read from them, and where each row is."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .reader import ActivationCache
from .shards import EncodedRows

_ROWS_AT_ONCE = 2048


@dataclass(frozen=True)
class HeldOutRows:
    """Rows in the order of their contexts and columns; whole contexts, so that every row has its
    neighbors."""

    site: str
    stored: EncodedRows
    """The rows as the cache stores them."""
    contexts: Int[Tensor, "C L"]
    """int64 token ids, BOS included, padded behind the text."""
    mask: Bool[Tensor, "C L"]
    """Where the contexts have text."""
    context: Int[Tensor, "N"]
    """int64: the row's context."""
    offset: Int[Tensor, "N"]
    """int64: the row's column in its context."""
    document: Int[Tensor, "N"]
    """int64: number of the row's document in the corpus."""
    kept: Bool[Tensor, "N"]
    """Which rows count; the others have an outlying norm."""

    @property
    def tokens(self) -> Int[Tensor, "N"]:
        """int64: the token of each row."""
        return self.contexts[self.context, self.offset]

    def blocks(
        self, device: torch.device, rows_at_once: int = _ROWS_AT_ONCE
    ) -> Iterator[tuple[slice, Float[Tensor, "B D"]]]:
        """The rows in float32 on a device, some at a time, with their places."""
        scale_N = self.stored.scale
        for start in range(0, len(self.context), rows_at_once):
            place = slice(start, start + rows_at_once)
            scale_B = None if scale_N is None else scale_N[place]
            part = EncodedRows(self.stored.values[place], scale_B)
            yield place, part.restored().to(device)


def held_out_rows(
    cache: ActivationCache,
    *,
    contexts: int | None = None,
    site: str | None = None,
    outlier_norm: float = 5.0,
) -> HeldOutRows:
    """The rows of the held-out contexts, or of so many of them spread evenly.

    Args:
        cache: the cache.
        contexts: how many; None takes all. They are those of `ActivationCache.held_out_contexts`.
        site: of the cache; None takes its only one.
        outlier_norm: rows whose norm is more than so many times the median do not count, being
            attention sinks; 0 counts all.

    Raises:
        InputError: there are none, the site is unknown, or a shard's content has changed.
    """
    cache.require_held_out()
    site = cache.site_name(site)
    tokens_CL, mask_CL = cache.held_out_contexts(contexts)
    counts = [entry.held_out_contexts for entry in cache.manifest.shards]
    parts: list[EncodedRows] = []
    columns: dict[str, list[Tensor]] = {"context": [], "offset": [], "doc": []}
    before = 0
    for entry, chosen in cache.spread(counts, contexts):
        shard = cache.shard(entry)
        numbers = np.flatnonzero(shard.tensor("held_out").numpy())[chosen]
        context_N = shard.tensor("context").numpy()
        rows = np.flatnonzero(np.isin(context_N, numbers))
        parts.append(shard.stored(site).rows(rows))
        places = before + np.searchsorted(numbers, context_N[rows])
        columns["context"].append(torch.as_tensor(places).long())
        for name in ("offset", "doc"):
            columns[name].append(shard.tensor(name)[torch.as_tensor(rows)].long())
        before += len(numbers)
    scales = [part.scale for part in parts if part.scale is not None]
    stored = EncodedRows(
        torch.cat([part.values for part in parts]), torch.cat(scales) if scales else None
    )
    context_N, offset_N, doc_N = (torch.cat(columns[name]) for name in columns)
    kept_N = torch.ones(len(context_N), dtype=torch.bool)
    found = HeldOutRows(site, stored, tokens_CL, mask_CL, context_N, offset_N, doc_N, kept_N)
    if outlier_norm:
        norms_N = _norms(found)
        kept_N.copy_(norms_N <= outlier_norm * norms_N.median())
    return found


def _norms(rows: HeldOutRows) -> Float[Tensor, "N"]:
    parts = [part_BD.square().sum(-1).sqrt() for _, part_BD in rows.blocks(torch.device("cpu"))]
    return torch.cat(parts)
