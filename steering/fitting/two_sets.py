"""Texts as they are not wanted and as they are: read, split, and their coordinates at a site."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...sae.language_model.model import LanguageModel
from .coordinates import Coordinates
from .trained_capture import (
    Pool,
    SiteEdit,
    TextBatch,
    pooled,
    site_activations,
    text_batches,
    token_rows,
)
from .trained_config import TextFit
from .trained_report import held_out_split


@dataclass(frozen=True, eq=False)
class TwoSets:
    """Source and target texts in batches, some of them held out."""

    source: list[TextBatch]
    target: list[TextBatch]
    source_out: list[TextBatch]
    target_out: list[TextBatch]
    rows: tuple[list[list[int]], list[list[int]]]
    """Token ids of the texts that are fitted to, of the source and of the target."""

    @property
    def n_texts(self) -> int:
        """Texts that are fitted to."""
        return sum(map(len, self.rows))

    @property
    def n_tokens(self) -> int:
        """Their content tokens."""
        return sum(int(batch.content_BL.sum()) for batch in (*self.source, *self.target))


def two_sets(
    model: LanguageModel,
    source: Sequence[str | Sequence[int]],
    target: Sequence[str | Sequence[int]],
    config: TextFit,
) -> TwoSets:
    """Read and split both sets of texts.

    Raises:
        InputError: a set has fewer than two texts to fit to.
    """
    fitted: list[list[list[int]]] = []
    batches: list[list[TextBatch]] = []
    for name, texts in (("source", source), ("target", target)):
        rows = token_rows(model, texts, max_length=config.max_length, of=name)
        own, held_out = held_out_split(rows, config.held_out, config.seed)
        fitted.append(own)
        batches += [text_batches(model, part, config.batch_size) for part in (own, held_out)]
    return TwoSets(batches[0], batches[2], batches[1], batches[3], (fitted[0], fitted[1]))


@torch.no_grad()
def samples(
    model: LanguageModel,
    coordinates: Coordinates,
    batches: Sequence[TextBatch],
    pool: Pool,
    edits: Mapping[str, SiteEdit] | None = None,
) -> Tensor:
    """The coordinates at a site over texts, [N, M]: a row a text, or with `none` a content token.

    `edits` are those of other sites before it.
    """
    site = coordinates.site
    rows: list[Tensor] = []
    for batch in batches:
        acts_BLD = site_activations(model, [site], batch, edits)[site]
        rows.append(pooled(coordinates.read(acts_BLD), batch.content_BL, pool))
    return torch.cat(rows)
