"""From chosen contexts to the content of a shard: the activations at their rows."""

import dataclasses
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ...sae.language_model.model import LanguageModel
from ...sae.language_model.sites import Site, read_sites
from .cache.shards import EncodedRows, ShardContent, encode_rows
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
        parts: dict[str, list[EncodedRows]] = {site.name: [] for site in self.sites}
        for start in range(0, len(tokens), self.batch_size):
            batch = slice(start, start + self.batch_size)
            for name, stored in self._forward(tokens[batch], rows[batch]).items():
                parts[name].append(stored)
            progress(int(rows[batch].sum()))
        return {name: joined(stored) for name, stored in parts.items()}

    def _forward(
        self, tokens: Int[Tensor, "B L"], rows: Bool[Tensor, "B L"]
    ) -> dict[str, EncodedRows]:
        # Padding stands behind the text, where causal attention does not see it: without a mask the
        # activations are the same, and the model is faster.
        acts = read_sites(self.model, self.sites, tokens)
        rows = rows.to(self.model.device)
        # Converted on the model's device, so that less is moved.
        stored = {
            name: encode_rows(acts_BLD[rows].float(), self.dtype, name)
            for name, acts_BLD in acts.items()
        }
        return {name: one.cpu() for name, one in stored.items()}

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


def joined(parts: Sequence[EncodedRows]) -> EncodedRows:
    """The rows of all parts together."""
    values = torch.cat([part.values for part in parts])
    scales = [part.scale for part in parts if part.scale is not None]
    return EncodedRows(values, torch.cat(scales) if scales else None)
