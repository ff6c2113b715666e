"""Writing an activation cache: a language model over a corpus, shard by shard, resumable.

Contexts come in one order that the configuration decides, and every shard holds the same number of
them, in whole batches. So a run that goes on after a kill skips the contexts of the finished shards
without running the model, and writes the others byte for byte as one that was never interrupted.
"""

import dataclasses
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count, islice
from pathlib import Path

import torch

from ....sae.common.errors import InputError
from ....sae.common.wording import counted
from ....sae.language_model.model import LanguageModel
from ....sae.language_model.sites import Site
from ...distributed.collectives import Distributed
from ...distributed.joining import init_distributed
from ...runtime.threads import use_threads
from ..content_tokens import ChosenContext
from ..context_length import context_length_of
from ..contexts import ContextSource, model_loader, no_activations, open_source_corpus, require_text
from ..corpus import Corpus
from ..extraction import ContextReader
from ..held_out import held_out_bound
from .config import CacheConfig
from .manifest import CacheManifest, CorpusEntry, ShardEntry, write_manifest
from .model_dtype import with_dtypes, with_stored_dtype
from .resume import (
    about_other_rounding,
    as_begun,
    changed_corpus,
    deciding_settings,
    holds_contexts,
    of_corpus,
    only_writer,
    previous_manifest,
    require_same_corpus,
    require_same_model,
    whole_shards,
)
from .shards import write_shard

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
    and corpus give the same bytes, however often the run was interrupted. Under torchrun its
    processes share the work, and give the same bytes as one with as many threads as each of them;
    the first of them reports.

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
    with init_distributed() as dist:
        if not dist.is_main:
            progress, say = _tell_nobody, _say_nothing
        return _write_cache(config, dist, model, progress, say)


def _write_cache(
    config: CacheConfig,
    dist: Distributed,
    model: LanguageModel | None,
    progress: Progress,
    say: Callable[[str], None],
) -> CacheManifest:
    folder = Path(config.out)
    config = with_dtypes(config, model, dist, say)
    load = model_loader(config, model, dist, say)
    with dist.errors_on_all_ranks():
        config = as_begun(config, load)
    previous, kept = _found(folder, config, dist)
    if previous and previous.complete and len(kept) == len(previous.shards):
        with dist.errors_on_all_ranks():
            if previous.corpus.revision is None:  # a pinned hub data set need not be reached
                require_same_corpus(folder, previous, open_source_corpus(config, previous, say))
        say(f"{folder} is complete ({counted(previous.rows, 'row')}); nothing to do")
        return previous
    with dist.errors_on_all_ranks():
        corpus = open_source_corpus(config, previous, say)
        require_text(corpus)
        model = load()
        config = dataclasses.replace(config, context_length=context_length_of(config, model))
        config = with_stored_dtype(config, model)
        sites = [model.site(name) for name in config.site or (None,)]
        begun = previous or first_manifest(config, model, sites, corpus)
    # All follow the first process, whose threads and held-out bound may be its own.
    manifest = dataclasses.replace(dist.broadcast_object(begun), complete=False, notices=())
    changed = corpus.fingerprint != manifest.corpus.fingerprint
    with dist.errors_on_all_ranks():
        if previous is None or previous.complete or list(kept) != list(range(len(kept))):
            require_same_corpus(folder, manifest, corpus)
        manifest = of_corpus(manifest, corpus)
        require_same_model(folder, manifest, model)
    if previous:
        n_kept = sum(entry.rows for entry in kept.values())
        say(f"{folder} goes on from {counted(n_kept, 'row')}")
        if about := about_other_rounding(previous, config):
            say(about)
    reader = context_reader(config, model, sites)
    with _held(folder, dist), use_threads(manifest.threads):
        with dist.errors_on_all_ranks():
            # Since the first look another process may have written the folder and ended.
            if dist.is_main and previous_manifest(folder, config) != previous:
                raise InputError(
                    f"another process has written {folder} meanwhile; give the same command again"
                )
            if not previous:  # so that whatever ends this, the folder is known for a cache
                _write_manifest(folder, manifest, dist)
        source = ContextSource(corpus, model, config, manifest.held_out_below, dist)

        def require_kept(entry: ShardEntry, chosen: list[ChosenContext]) -> None:
            if changed:
                with dist.errors_on_all_ranks():
                    if not holds_contexts(folder / entry.file, reader.without_activations(chosen)):
                        raise changed_corpus(folder, corpus.dataset)

        meter = _Meter(config.tokens, progress)
        manifest = _write_shards(folder, manifest, reader, source, kept, meter, dist, require_kept)
        with dist.errors_on_all_ranks():
            manifest = _finished(manifest, config, source.notices())
            _write_manifest(folder, manifest, dist)
    for notice in manifest.notices:
        say(notice)
    return manifest


def _tell_nobody(done: int, wanted: int, rate: float) -> None:
    pass


def _say_nothing(sentence: str) -> None:
    pass


def _found(
    folder: Path, config: CacheConfig, dist: Distributed
) -> tuple[CacheManifest | None, dict[int, ShardEntry]]:
    """What the first process finds in the folder: the manifest, and the shards that are whole."""

    def find() -> tuple[CacheManifest | None, dict[int, ShardEntry]]:
        previous = previous_manifest(folder, config)
        return previous, whole_shards(folder, previous.shards) if previous else {}

    return dist.run_on_main(find)


@contextmanager
def _held(folder: Path, dist: Distributed) -> Generator[None]:
    """Hold the folder, cleared of what a killed process left, in the name of all."""
    with ExitStack() as stack:
        with dist.errors_on_all_ranks():
            if dist.is_main:
                stack.enter_context(only_writer(folder))
        yield


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
    dist: Distributed,
    require_kept: Callable[[ShardEntry, list[ChosenContext]], None],
) -> CacheManifest:
    """Write every shard that is not kept, one in each process, and the manifest after these."""
    whole = dict(kept)
    missing = _missing(source, manifest.contexts_per_shard, kept, meter, require_kept)
    while todo := list(islice(missing, dist.world_size)):
        written: dict[int, ShardEntry] = {}
        with dist.errors_on_all_ranks():
            for index, chosen in todo[dist.rank : dist.rank + 1]:
                content, excluded = reader.read(chosen, meter.add)
                written[index] = write_shard(folder, index, content, excluded)
        for rank, entries in enumerate(dist.all_gather_object(written)):
            whole |= entries
            if entries and rank != dist.rank:
                meter.add(sum(entry.rows for entry in entries.values()))
        n_done = todo[-1][0] + 1
        shards = (*(whole[index] for index in range(n_done)), *manifest.shards[n_done:])
        manifest = dataclasses.replace(
            manifest, corpus=source.count(manifest.corpus), shards=shards
        )
        with dist.errors_on_all_ranks():
            _write_manifest(folder, manifest, dist)
    shards = tuple(whole[index] for index in sorted(whole))
    return dataclasses.replace(manifest, corpus=source.count(manifest.corpus), shards=shards)


def _missing(
    source: ContextSource,
    contexts_per_shard: int,
    kept: dict[int, ShardEntry],
    meter: _Meter,
    require_kept: Callable[[ShardEntry, list[ChosenContext]], None],
) -> Iterator[tuple[int, list[ChosenContext]]]:
    """Number and contexts of every shard that is to be written; `require_kept` is told the
    others."""
    for index in count():
        chosen = list(islice(source.contexts, contexts_per_shard))
        if not chosen:
            return
        if index in kept:
            require_kept(kept[index], chosen)
            meter.keep(kept[index].rows)
        else:
            yield index, chosen


def _write_manifest(folder: Path, manifest: CacheManifest, dist: Distributed) -> None:
    if dist.is_main:
        write_manifest(folder, manifest)


def _finished(
    manifest: CacheManifest, config: CacheConfig, about_text: Sequence[str]
) -> CacheManifest:
    """The manifest of the complete cache, with what the user should know about it."""
    corpus = manifest.corpus
    if manifest.rows == 0:
        raise no_activations(corpus.dataset, corpus.documents, corpus.empty_documents)
    notices = list(about_text)
    if manifest.rows < config.tokens:
        notices.append(
            f"{corpus.dataset} ended after {counted(manifest.rows, 'row')}; {config.tokens:,} were "
            "asked for"
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
    assert config.dtype is not None  # `with_stored_dtype` has seen to it
    return ContextReader(
        model,
        sites,
        context_length=context_length_of(config, model),
        batch_size=config.batch_size,
        dtype=config.dtype,
    )


def first_manifest(
    config: CacheConfig,
    model: LanguageModel,
    sites: list[Site],
    corpus: Corpus,
) -> CacheManifest:
    """The manifest of a cache without shards yet, made with as many threads as torch has."""
    assert config.dtype is not None  # `with_stored_dtype` has seen to it
    context_length = context_length_of(config, model)
    tokens_per_batch = context_length * config.batch_size
    return CacheManifest(
        complete=False,
        model=model.source,
        model_dtype=model.dtype_name,
        weights_hash=model.weights_hash,
        tokenizer_hash=model.tokenizer_hash,
        sites=tuple(site.name for site in sites),
        d_model=model.d_model,
        dtype=config.dtype,
        context_length=context_length,
        contexts_per_shard=config.batch_size * max(1, round(config.shard_rows / tokens_per_batch)),
        held_out_below=held_out_bound(corpus, config.held_out_fraction),
        threads=torch.get_num_threads(),
        corpus=CorpusEntry(
            dataset=corpus.dataset,
            fingerprint=corpus.fingerprint,
            revision=corpus.revision,
            parts=corpus.parts,
        ),
        config=deciding_settings(dataclasses.replace(config, context_length=context_length)),
    )
