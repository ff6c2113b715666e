"""From chosen contexts to the content of a shard: the activations at their rows."""

import dataclasses
from collections.abc import Callable, Sequence
from itertools import chain, count
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...sae.language_model.model import LanguageModel
from ...sae.language_model.sites import Site, read_sites
from ..runtime.host_copies import HostCopies, PendingTensors, send
from .cache.shards import EncodedRows, ShardContent, convert_rows, require_held
from .content_tokens import ChosenContext, stacked, text_mask
from .corpus_config import CacheDtype


class ContextReader:
    """Reads the activations of contexts at some sites of a language model, run as is fastest.

    Args:
        model: the language model.  sites: where to read.  context_length: L.
        batch_size: contexts in one forward pass.  dtype: how rows are stored.
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
        self.model = model.fastest([site.name for site in sites])
        self.sites = [self.model.site(site.name) for site in sites]
        self.context_length = context_length
        self.batch_size = batch_size
        self.dtype: CacheDtype = dtype
        self._special = torch.tensor(model.special_ids, dtype=torch.int64)

    def read(
        self, chosen: Sequence[ChosenContext], progress: Callable[[int], None]
    ) -> tuple[ShardContent, dict[str, int]]:
        """The content of a shard of these contexts, and its positions without a row, by reason.

        `progress` is told the rows of each forward pass after it.

        Raises InputError if an activation is not finite or not in the range of the dtype.
        """
        content, is_content, rows = self._without_activations(chosen)
        tokens = content.contexts
        activations = self._activations(tokens, rows, progress)
        mask = torch.arange(tokens.shape[1]) < content.lengths[:, None]
        excluded = self._excluded(tokens, mask, is_content, rows)
        return dataclasses.replace(content, activations=activations), excluded

    def without_activations(self, chosen: Sequence[ChosenContext]) -> ShardContent:
        """The content of a shard of these contexts but for the activations."""
        return self._without_activations(chosen)[0]

    def _without_activations(
        self, chosen: Sequence[ChosenContext]
    ) -> tuple[ShardContent, Bool[Tensor, "C L"], Bool[Tensor, "C L"]]:
        """The content, which tokens are content, and which have a row."""
        contexts = [one.context for one in chosen]
        length, pad_id = self.context_length, self.model.pad_id
        tokens = stacked([context.tokens for context in contexts], length, pad_id)
        mask = text_mask(contexts, length)
        rows = stacked([one.rows for one in chosen], length, fill=False)
        is_content = stacked([one.is_content for one in chosen], length, fill=False)
        context, offset = rows.nonzero(as_tuple=True)
        content = ShardContent(
            activations={},
            tokens=tokens[rows],
            doc=stacked([context.doc for context in contexts], length, 0)[rows],
            position=stacked([context.position for context in contexts], length, 0)[rows],
            context=context,
            offset=offset,
            contexts=tokens,
            lengths=mask.sum(dim=1),
            held_out=torch.tensor([context.held_out for context in contexts]),
        )
        return content, is_content, rows

    def _activations(
        self,
        tokens: Int[Tensor, "C L"],
        rows: Bool[Tensor, "C L"],
        progress: Callable[[int], None],
    ) -> dict[str, EncodedRows]:
        """The rows of each site: while those of one forward pass are on their way to main memory,
        a GPU has the next pass to do, since the host waits for a pass when the next is queued."""
        parts: dict[str, list[EncodedRows]] = {site.name: [] for site in self.sites}
        copies = HostCopies(self.model.device)
        before: _Pass | None = None

        def take(one: _Pass | None) -> None:
            if one is not None:
                for name, stored in one.rows(self.dtype).items():
                    parts[name].append(stored)
                progress(one.n_rows)

        for start in range(0, len(tokens), self.batch_size):
            batch = slice(start, start + self.batch_size)
            queued = self._forward(tokens[batch], rows[batch], copies)
            take(before)
            before = queued
        take(before)
        return {name: joined(stored) for name, stored in parts.items()}

    def _forward(
        self, tokens: Int[Tensor, "B L"], rows: Bool[Tensor, "B L"], copies: HostCopies
    ) -> "_Pass":
        """Queue a forward pass, and the copies of what it gives; a GPU is not waited for."""
        device = self.model.device
        if device.type == "cuda":
            tokens = tokens.pin_memory()
        # Padding stands behind the text, where causal attention does not see it: without a mask the
        # activations are the same, and the model is faster.
        found = read_sites(self.model, self.sites, tokens)
        # Not by the mask, whose number of rows a GPU would be asked for.
        index_N = send(rows.flatten().nonzero()[:, 0], device)
        acts = {name: acts_BLD.flatten(0, 1)[index_N].float() for name, acts_BLD in found.items()}
        # Converted on the model's device, so that less is moved.
        converted = [convert_rows(acts_ND, self.dtype) for acts_ND in acts.values()]
        parts = [[*one.rows.tensors(), one.are_held] for one in converted]
        return _Pass(acts, copies.start(list(chain(*parts))), len(index_N))

    def _excluded(
        self,
        tokens: Int[Tensor, "C L"],
        mask: Bool[Tensor, "C L"],
        is_content: Bool[Tensor, "C L"],
        rows: Bool[Tensor, "C L"],
    ) -> dict[str, int]:
        special = mask & ~is_content & torch.isin(tokens, self._special)
        bos = torch.zeros_like(special)
        if self.model.bos_id is not None:
            bos[:, 0] = special[:, 0]
        reasons = {
            "bos": bos,
            "separator": special & ~bos,
            "first_token": mask & ~is_content & ~special,
            "padding": ~mask,
            "surplus": is_content & ~rows,
        }
        return {why: int(where.sum()) for why, where in reasons.items()}


class _Pass(NamedTuple):
    """A forward pass that is queued."""

    acts: dict[str, Float[Tensor, "N D"]]
    """On the model's device, by site."""
    moved: PendingTensors
    """Of each site the stored values, scales if there are any, and whether they are held."""
    n_rows: int

    def rows(self, dtype: CacheDtype) -> dict[str, EncodedRows]:
        """What it gave, in main memory; InputError as for `encode_rows`."""
        stored: dict[str, EncodedRows] = {}
        moved = self.moved.wait()
        n_parts = len(moved) // len(self.acts)
        for (name, acts_ND), start in zip(self.acts.items(), count(0, n_parts), strict=False):
            *tensors, are_held = moved[start : start + n_parts]
            require_held(are_held, acts_ND, dtype, name)
            stored[name] = EncodedRows(*tensors)
        return stored


def joined(parts: Sequence[EncodedRows]) -> EncodedRows:
    """The rows of all parts together."""
    values = torch.cat([part.values for part in parts])
    scales = [part.scale for part in parts if part.scale is not None]
    return EncodedRows(values, torch.cat(scales) if scales else None)
