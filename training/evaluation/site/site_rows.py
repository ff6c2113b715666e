"""The rows of a site that are looked at before training, from a language model or a cache."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ....sae.common.errors import InputError
from ....sae.language_model.model import LanguageModel
from ....sae.language_model.sites import read_sites
from ...cautions import why_not_trainable
from ...data.cache.reader import ActivationCache
from ...data.content_tokens import ChosenContext, content_rows, stacked, text_mask
from ...data.context_length import context_length_of
from ...data.contexts import DocumentSource, no_activations, require_text
from ...data.corpus import open_corpus
from ...data.packing import pack
from ...distributed.collectives import Distributed
from .site_check_config import SiteCheckConfig

KINDS = ("bos", "separator", "first_token", "content")
"""What stands at a position, named as in a cache's manifest; training reads the content alone."""
_BOS, _SEPARATOR, _FIRST, CONTENT = range(len(KINDS))

_MOST_SHARDS = 32
"""Of a cache: evenly spread ones, so that of a large one few need be read and checked."""


@dataclass(frozen=True)
class SiteRows:
    """Activations of a site, and where each is from."""

    model: str
    dataset: str
    site: str
    context_length: int
    acts: Float[Tensor, "N D"]
    """float32, on the CPU."""
    tokens: Int[Tensor, "N"]
    """The token at the row."""
    position: Int[Tensor, "N"]
    """Its column in the context, from 0."""
    kind: Int[Tensor, "N"]
    """Index into `KINDS`."""
    dtype: str | None
    """In which a cache stored the rows; None where they are as the model gave them."""
    text_of: Callable[[int], str] | None
    """The text of a token; None where only its id is known."""

    @property
    def is_content(self) -> Bool[Tensor, "N"]:
        """Which rows training would read."""
        return self.kind == CONTENT


def rows_of_model(
    config: SiteCheckConfig,
    *,
    model: LanguageModel | None = None,
    say: Callable[[str], None] = lambda sentence: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> SiteRows:
    """Read the first contexts of a corpus at every position, until they have so many content rows.

    Args:
        config: without a cache.
        model: `config.model` if it is loaded already.
        say: sentences for a person.
        progress: told the content rows read so far, and those wanted.

    Raises:
        InputError: model, site or corpus are not found, the corpus gives no content rows, or an
            activation is not finite.
        FetchError: a fetched name cannot be brought.
    """
    assert config.model is not None and config.dataset is not None  # the configuration looked
    corpus = open_corpus(
        config.dataset,
        text_field=config.text_field,
        split=config.split,
        subset=config.subset,
        skip_bad_rows=config.skip_bad_rows,
        progress=say,
    )
    require_text(corpus)
    model = model or LanguageModel.load(
        config.model,
        device=config.device,
        dtype=config.model_dtype,
        device_map=config.device_map,
        progress=say,
    )
    site = model.site(config.site)
    length = context_length_of(config.corpus_config(), model)
    documents = DocumentSource(
        corpus,
        model,
        seed=config.seed,
        shuffle_buffer=config.shuffle_buffer,
        held_out_below=0,
        dist=Distributed(),
    )
    contexts = pack(documents, context_length=length, bos_id=model.bos_id, eos_id=model.eos_id)
    chosen = content_rows(contexts, model, context_length=length, at_once=config.batch_size)
    wanted = _until_enough(chosen, config.tokens)
    reader = model.fastest([site.name])
    site = reader.site(site.name)
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    n_content = 0
    while some := list(islice(wanted, config.batch_size)):
        tokens = stacked([one.context.tokens for one in some], length, model.pad_id)
        mask = text_mask([one.context for one in some], length)
        is_content = stacked([one.is_content for one in some], length, fill=False)
        # Padding stands behind the text, where causal attention does not see it.
        acts_BLD = read_sites(reader, [site], tokens)[site.name]
        position = torch.arange(length).expand_as(tokens)
        kind = _kinds(tokens, is_content, model)
        parts.append((acts_BLD.float().cpu()[mask], tokens[mask], position[mask], kind[mask]))
        n_content += int(is_content.sum())
        progress(min(n_content, config.tokens), config.tokens)
    for notice in documents.notices():
        say(notice)
    if not n_content:
        raise no_activations(corpus.dataset, documents.documents, documents.empty_documents)
    acts, tokens, position, kind = (torch.cat(part) for part in zip(*parts, strict=True))
    if not acts.isfinite().all():
        raise InputError(
            f"the model gives NaN or infinite activations at {site.name}; check its weights, or "
            "choose another site"
        )
    tokenizer: Any = model.tokenizer
    return SiteRows(
        model=model.name,
        dataset=corpus.dataset,
        site=site.name,
        context_length=length,
        acts=acts,
        tokens=tokens,
        position=position,
        kind=kind,
        dtype=None,
        text_of=lambda token: str(tokenizer.decode([token])),
    )


def rows_of_cache(config: SiteCheckConfig) -> SiteRows:
    """Training rows of a cache, evenly spread; of a large cache those of 32 shards.

    Raises InputError if there is no whole cache, it has no such site or no rows to train on, or its
    content has changed.
    """
    assert config.cache is not None  # the configuration looked
    cache = ActivationCache(config.cache)
    site = cache.site_name(config.site)
    if reason := why_not_trainable(config.cache, cache.manifest) if not cache.n_train else None:
        raise InputError(reason)
    entries = [entry for entry in cache.manifest.shards if entry.rows > entry.held_out_rows]
    n_shards = min(len(entries), _MOST_SHARDS)
    entries = [entries[i * len(entries) // n_shards] for i in range(n_shards)]
    total = sum(entry.rows - entry.held_out_rows for entry in entries)
    n_rows = min(config.tokens, total)
    chosen = np.arange(n_rows) * total // n_rows
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    before = 0
    for entry in entries:
        behind = before + entry.rows - entry.held_out_rows
        here = chosen[(chosen >= before) & (chosen < behind)] - before
        if len(here):
            shard = cache.shard(entry)
            rows = shard.row_numbers(held_out=False)[here]
            acts_MD = shard.stored(site).rows(rows).restored()
            tokens, offset = (shard.tensor(name)[rows].long() for name in ("tokens", "offset"))
            parts.append((acts_MD, tokens, offset))
        before = behind
    acts, tokens, position = (torch.cat(part) for part in zip(*parts, strict=True))
    if not acts.isfinite().all():
        raise InputError(
            f"the rows of {config.cache} at {site} have values that are not finite; cache them "
            "again, with --dtype bfloat16 or float32 if the model's own are finite"
        )
    return SiteRows(
        model=cache.model,
        dataset=cache.dataset,
        site=site,
        context_length=cache.context_length,
        acts=acts,
        tokens=tokens,
        position=position,
        kind=torch.full_like(tokens, CONTENT),
        dtype=cache.dtype,
        text_of=None,
    )


def _until_enough(chosen: Iterator[ChosenContext], rows: int) -> Iterator[ChosenContext]:
    """The contexts up to the one with which they have so many rows."""
    for one in chosen:
        yield one
        rows -= int(one.rows.sum())
        if rows <= 0:
            return


def _kinds(
    tokens: Int[Tensor, "B L"], is_content: Bool[Tensor, "B L"], model: LanguageModel
) -> Int[Tensor, "B L"]:
    """The kind of every position, as a cache counts them; at padding it has no meaning."""
    special = torch.isin(tokens, torch.tensor(model.special_ids, dtype=tokens.dtype))
    kind = torch.full_like(tokens, _FIRST)
    kind[special] = _SEPARATOR
    kind[is_content] = CONTENT
    if model.bos_id is not None:
        kind[special[:, 0], 0] = _BOS
    return kind
