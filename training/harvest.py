"""Writing an activation cache: a language model over a corpus, shard by shard, resumable.

Contexts come in one order that the configuration decides, and every shard holds the same number of
them, in whole batches. So a run that goes on after a kill skips the contexts of the finished shards
without running the model, and writes the others byte for byte as one that was never interrupted.
"""

import dataclasses
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import torch

from ..sae.errors import InputError
from ..sae.files import remove_leftovers
from ..sae.language_model import LanguageModel
from ..sae.site import Site
from .cache_config import CacheConfig
from .corpus import Corpus
from .held_out import held_out_bound
from .manifest import CacheManifest, CorpusEntry, ShardEntry, write_manifest
from .reading import ContextReader
from .resume import (
    deciding_settings,
    only_writer,
    previous_manifest,
    require_same_corpus,
    require_same_model,
    whole_shards,
)
from .shards import write_shard
from .source import ContextSource, no_activations, open_source_corpus, require_text
from .threads import free_cores

Progress = Callable[[int, int, float], None]
"""Told after each forward pass: rows done, rows wanted, rows per second of this process. On going
on, also told of each shard that is there, with a speed of 0."""


def cache_activations(
    config: CacheConfig,
    *,
    model: LanguageModel | None = None,
    progress: Progress = lambda done, wanted, rate: None,
    say: Callable[[str], None] = lambda sentence: None,
) -> CacheManifest:
    """Write the activation cache of the configuration, or go on where a killed run stopped.

    Shards that are there and whole are kept, damaged ones are written again. The same configuration
    and corpus give the same bytes, however often the run was interrupted.

    Args:
        config: what to cache; its `out` folder is made or resumed.
        model: `config.model` if it is loaded already.
        progress: called after every forward pass.
        say: sentences for a person (resuming, nothing to do, the corpus ended early).

    Returns:
        The manifest of the complete cache.

    Raises:
        InputError: the corpus, model or site cannot be read, `out` holds something else or is being
            written, or an activation is not finite in `config.dtype`.
        OSError: the disk is full or fails; the shards written so far stay usable.
    """
    folder = Path(config.out)
    previous = previous_manifest(folder, config)
    kept = whole_shards(folder, previous.shards) if previous else {}
    if previous and previous.complete and len(kept) == len(previous.shards):
        if previous.corpus.revision is None:  # a hub data set is pinned, and need not be reached
            require_same_corpus(folder, previous, open_source_corpus(config, previous, say))
        say(f"{folder} is complete ({previous.rows:,} rows); nothing to do")
        return previous
    corpus = open_source_corpus(config, previous, say)
    require_text(corpus)
    model = model or LanguageModel.load(config.model, device=config.device, progress=say)
    sites = [model.site(name) for name in config.site or (None,)]
    if previous:
        require_same_corpus(folder, previous, corpus)
        require_same_model(folder, previous, model)
        n_kept = sum(entry.rows for entry in kept.values())
        say(f"{folder} goes on from {n_kept:,} rows")
        manifest = dataclasses.replace(previous, complete=False, notices=())
    else:
        manifest = first_manifest(config, model, sites, corpus)
    reader = context_reader(config, model, sites)
    with only_writer(folder), use_threads(manifest.threads):
        remove_leftovers(folder)
        source = ContextSource(corpus, model, config, manifest.held_out_below)
        manifest = _write_shards(
            folder, manifest, reader, source, kept, _Meter(config.tokens, progress)
        )
        manifest = _finished(manifest, config)
        write_manifest(folder, manifest)
    for notice in manifest.notices:
        say(notice)
    return manifest


class _Meter:
    """Tells the user's progress function how many rows there are and how fast they come."""

    def __init__(self, wanted: int, progress: Progress) -> None:
        self._wanted = wanted
        self._progress = progress
        self._rows = self._new_rows = 0
        self._started = time.perf_counter()

    def keep(self, rows: int) -> None:
        """Rows of a finished shard, which do not count for the speed; nor does the time so far."""
        self._rows += rows
        self._started = time.perf_counter()
        self._progress(self._rows, self._wanted, 0.0)

    def add(self, rows: int) -> None:
        """Rows of a forward pass."""
        self._rows += rows
        self._new_rows += rows
        rate = self._new_rows / max(time.perf_counter() - self._started, 1e-9)
        self._progress(self._rows, self._wanted, rate)


def _write_shards(
    folder: Path,
    manifest: CacheManifest,
    reader: ContextReader,
    source: ContextSource,
    kept: dict[int, ShardEntry],
    meter: _Meter,
) -> CacheManifest:
    """Write every shard that is not kept, and the manifest after each of them."""
    entries: list[ShardEntry] = []
    while chosen := list(islice(source.contexts, manifest.contexts_per_shard)):
        index = len(entries)
        if index in kept:
            entries.append(kept[index])
            meter.keep(kept[index].rows)
        else:
            content, left_out = reader.read(chosen, meter.add)
            entries.append(write_shard(folder, index, content, left_out))
            manifest = dataclasses.replace(
                manifest,
                corpus=source.count(manifest.corpus),
                shards=(*entries, *manifest.shards[len(entries) :]),
            )
            write_manifest(folder, manifest)
    return dataclasses.replace(
        manifest, corpus=source.count(manifest.corpus), shards=tuple(entries)
    )


def _finished(manifest: CacheManifest, config: CacheConfig) -> CacheManifest:
    """The manifest of the complete cache, with what the user should know about it."""
    corpus = manifest.corpus
    if manifest.rows == 0:
        raise no_activations(corpus.dataset, corpus.documents, corpus.empty_documents)
    notices: list[str] = []
    if manifest.rows < config.tokens:
        notices.append(
            f"{corpus.dataset} ended after {manifest.rows:,} rows; {config.tokens:,} were asked for"
        )
    if config.held_out_rows and manifest.held_out_rows in (0, manifest.rows):
        side = "training" if manifest.held_out_rows else "held-out"
        notices.append(
            f"no document fell to the {side} side, because {corpus.dataset} has too few; "
            "more documents give both sides some"
        )
    return dataclasses.replace(manifest, complete=True, notices=tuple(notices))


def context_reader(config: CacheConfig, model: LanguageModel, sites: list[Site]) -> ContextReader:
    """The reader of the configuration's contexts."""
    return ContextReader(
        model,
        sites,
        context_length=config.context_length,
        batch_size=config.batch_size,
        dtype=config.dtype,
    )


def first_manifest(
    config: CacheConfig, model: LanguageModel, sites: list[Site], corpus: Corpus
) -> CacheManifest:
    """The manifest of a cache without shards yet."""
    if config.context_length > model.max_context:
        raise InputError(
            f"context_length is {config.context_length}, but {config.model} reads at most "
            f"{model.max_context} tokens; lower it"
        )
    tokens_per_batch = config.context_length * config.batch_size
    return CacheManifest(
        complete=False,
        model=config.model,
        weights_hash=model.weights_hash,
        tokenizer_hash=model.tokenizer_hash,
        sites=tuple(site.name for site in sites),
        d_model=model.d_model,
        dtype=config.dtype,
        context_length=config.context_length,
        contexts_per_shard=config.batch_size * max(1, round(config.shard_rows / tokens_per_batch)),
        held_out_below=held_out_bound(corpus, config.held_out_fraction),
        threads=free_cores(),
        corpus=CorpusEntry(
            dataset=corpus.dataset,
            fingerprint=corpus.fingerprint,
            revision=corpus.revision,
            parts=corpus.parts,
        ),
        config=deciding_settings(config),
    )


@contextmanager
def use_threads(n_threads: int) -> Generator[None]:
    """Let torch use the threads that the cache was begun with: results depend on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
