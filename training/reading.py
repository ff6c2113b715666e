"""From contexts to the content of a shard: which positions have a row, and their activations."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..sae.language_model import LanguageModel
from ..sae.site import Site, read_sites
from .config import CacheDtype
from .manifest import LEFT_OUT
from .packing import Context
from .shards import ShardContent, Stored, to_stored


class Batch(NamedTuple):
    """Contexts of one forward pass."""

    tokens: Int[Tensor, "B L"]
    """int64, padded behind the text."""
    mask: Bool[Tensor, "B L"]
    """Where there is text (BOS and separators included)."""
    rows: Bool[Tensor, "B L"]
    """The positions that have a row."""
    left_out: dict[str, int]
    """The other positions, by reason."""


class ContextReader:
    """Reads the activations of contexts at some sites of a language model.

    Args:
        model: the language model.  sites: the sites to read, all of one width.
        context_length: L.  batch_size: contexts in one forward pass.  dtype: how rows are stored.
    """

    def __init__(
        self,
        model: LanguageModel,
        sites: Sequence[Site],
        *,
        context_length: int,
        batch_size: int,
        dtype: CacheDtype,
    ) -> None:
        self.model = model
        self.sites = sites
        self.context_length = context_length
        self.batch_size = batch_size
        self.dtype: CacheDtype = dtype
        known = (model.bos_id, model.eos_id, model.pad_id)
        self._special = torch.tensor([token for token in known if token is not None])
        self._pad_id = model.pad_id if model.pad_id is not None else 0

    def read(
        self,
        contexts: Sequence[Context],
        max_rows: int,
        progress: Callable[[int], None],
    ) -> tuple[ShardContent, dict[str, int]]:
        """Read the contexts until there are `max_rows` rows; those behind are left out whole.

        `progress` is told the rows so far after each forward pass. Gives the shard's content, and
        how many of its positions have no row, by reason.

        Raises InputError if an activation is not finite or not in the range of the dtype.
        """
        batches: list[Batch] = []
        stored: dict[str, list[Stored]] = {site.name: [] for site in self.sites}
        n_rows = 0
        for batch in self._batches(contexts, max_rows):
            for name, rows in self._forward(batch).items():
                stored[name].append(rows)
            batches.append(batch)
            n_rows += int(batch.rows.sum())
            progress(n_rows)
        content = _content(contexts, batches, {name: _joined(s) for name, s in stored.items()})
        totals = {why: sum(batch.left_out[why] for batch in batches) for why in LEFT_OUT}
        return content, totals

    def _batches(self, contexts: Sequence[Context], max_rows: int) -> Iterator[Batch]:
        for start in range(0, len(contexts), self.batch_size):
            if max_rows == 0:
                return
            batch = self._batch(contexts[start : start + self.batch_size], max_rows)
            max_rows -= int(batch.rows.sum())
            yield batch

    def _batch(self, contexts: Sequence[Context], max_rows: int) -> Batch:
        shape = (len(contexts), self.context_length)
        tokens = torch.full(shape, self._pad_id)
        mask = torch.zeros(shape, dtype=torch.bool)
        for row, context in enumerate(contexts):
            tokens[row, : len(context.tokens)] = torch.as_tensor(context.tokens)
            mask[row, : len(context.tokens)] = True
        ordinary = mask & ~self.model.left_out(tokens, mask)
        rows = ordinary & (ordinary.flatten().cumsum(0).view(shape) <= max_rows)
        # Contexts behind the one with the last row wanted need not be read.
        n_needed = len(contexts)
        if int(rows.sum()) == max_rows:
            n_needed = int(rows.any(dim=1).nonzero().max()) + 1
        tokens, mask, ordinary, rows = (x[:n_needed] for x in (tokens, mask, ordinary, rows))
        return Batch(tokens, mask, rows, self._left_out(tokens, mask, ordinary, rows))

    def _left_out(
        self,
        tokens: Int[Tensor, "B L"],
        mask: Bool[Tensor, "B L"],
        ordinary: Bool[Tensor, "B L"],
        rows: Bool[Tensor, "B L"],
    ) -> dict[str, int]:
        special = mask & ~ordinary & torch.isin(tokens, self._special)
        bos = torch.zeros_like(special)
        if self.model.bos_id is not None:
            bos[:, 0] = special[:, 0]
        reasons = {
            "bos": bos,
            "separator": special & ~bos,
            "first_token": mask & ~ordinary & ~special,
            "padding": ~mask,
            "surplus": ordinary & ~rows,
        }
        return {why: int(where.sum()) for why, where in reasons.items()}

    def _forward(self, batch: Batch) -> dict[str, Stored]:
        device = self.model.device
        rows = batch.rows.to(device)
        acts = read_sites(self.model, self.sites, batch.tokens.to(device), batch.mask.to(device))
        # Converted on the model's device, so that less is moved.
        converted = {
            name: to_stored(acts_BLD[rows].float(), self.dtype, name)
            for name, acts_BLD in acts.items()
        }
        return {name: stored.cpu() for name, stored in converted.items()}


def _content(
    contexts: Sequence[Context], batches: Sequence[Batch], stored: dict[str, Stored]
) -> ShardContent:
    tokens = torch.cat([batch.tokens for batch in batches])
    rows = torch.cat([batch.rows for batch in batches])
    contexts = contexts[: len(tokens)]
    context, offset = rows.nonzero(as_tuple=True)
    return ShardContent(
        activations=stored,
        tokens=tokens[rows],
        doc=_picked([c.doc for c in contexts], rows),
        position=_picked([c.position for c in contexts], rows),
        context=context,
        offset=offset,
        contexts=tokens,
        lengths=torch.tensor([len(c.tokens) for c in contexts]),
        held_out=torch.tensor([c.held_out for c in contexts]),
    )


def _picked(
    per_context: Sequence[Int[np.ndarray, "_"]], rows: Bool[Tensor, "C L"]
) -> Int[Tensor, "N"]:
    """The values at the positions that have a row."""
    padded = torch.zeros(rows.shape, dtype=torch.int64)
    for row, values in enumerate(per_context):
        padded[row, : len(values)] = torch.as_tensor(values)
    return padded[rows]


def _joined(parts: Sequence[Stored]) -> Stored:
    values = torch.cat([part.values for part in parts])
    scales = [part.scale for part in parts if part.scale is not None]
    return Stored(values, torch.cat(scales) if scales else None)
