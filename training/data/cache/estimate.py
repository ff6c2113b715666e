"""What a cache will cost, measured on a few forward passes: nothing is written."""

import dataclasses
import math
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch

from ....sae.common.errors import InputError
from ....sae.common.files import free_disk
from ....sae.common.wording import counted
from ....sae.config import ModelDtype
from ....sae.language_model.model import LanguageModel
from ....sae.language_model.sites import Site
from ...distributed.collectives import Distributed
from ...forecast.caching import least_reading_seconds, model_sizes, reading_bytes
from ...forecast.gpus import Gpu, named_gpu
from ...runtime.threads import use_threads
from ..context_length import context_length_of
from ..contexts import ContextSource, model_loader, no_activations, open_source_corpus, require_text
from ..extraction import ContextReader
from .config import CacheConfig
from .model_dtype import with_dtypes, with_stored_dtype
from .resume import as_begun, previous_manifest, require_same_corpus, require_same_model
from .writer import context_reader, first_manifest

_PASSES, _SECONDS = 8, 20.0
_SHARD_COPIES = 3
"""A shard is in memory as the parts of its batches, joined, and as the bytes of its file."""


@dataclass(frozen=True, kw_only=True)
class CacheEstimate:
    """What a cache will cost. Sizes are in bytes, of the whole cache; times are in seconds."""

    sites: tuple[str, ...]
    d_model: int
    rows: int
    """Rows of the whole cache, if the corpus has text for them."""
    rows_there: int
    """Of these, rows that an interrupted run has written."""
    shards: int
    bytes: int
    bytes_free: int
    """Free on the disk of the folder."""
    seconds: float
    """From the first forward pass to the end, for the rows that are not there."""
    rows_per_second: float
    memory_bytes: int
    """Most main memory of the process, the language model included."""
    device_memory_bytes: int
    """Most memory on the model's GPU; 0 on a CPU. Of a GPU that is only named it is computed."""
    device_memory_free: int | None
    """What that GPU has free, or of one that is only named, has; None on a CPU."""
    gpu: str | None
    """The GPU that was named, which is not here; None without."""
    gpu_seconds: float | None
    """Predicted for it from its published ceilings: a lower bound; None without."""
    measured_rows: int
    """Rows of the forward passes that were timed; all this rests on them."""
    corpus_ended: bool
    """Whether the corpus is seen to have fewer rows than were asked for."""

    @property
    def fits(self) -> bool:
        """Whether what is not there yet fits on the disk, and the model on its GPU."""
        if self.device_memory_free is not None:
            if self.device_memory_bytes > self.device_memory_free:
                return False
        return self.bytes * (1 - self.rows_there / self.rows) <= self.bytes_free


def estimate_cache(
    config: CacheConfig,
    *,
    model: LanguageModel | None = None,
    gpu: str | None = None,
    say: Callable[[str], None] = lambda sentence: None,
) -> CacheEstimate:
    """Measure the first forward passes of the cache, and say what all of it will cost.

    Times include tokenizing and converting, not the disk. Rows of the first pass, which is slow,
    are not timed.

    Args:
        config: the cache; its folder is looked at, and left as it is.
        model: `config.model` if it is loaded already.
        gpu: a GPU to predict for beside, such as h100, which need not be here.
        say: sentences for a person.

    Raises:
        InputError: as `cache_activations`, or the GPU is unknown.
    """
    named = None if gpu is None else named_gpu(gpu)
    asked_dtype = config.model_dtype
    folder = Path(config.out)
    config = with_dtypes(config, model, Distributed(), say)
    load = model_loader(config, model, Distributed(), say)
    config = as_begun(config, load)
    previous = previous_manifest(folder, config)
    corpus = open_source_corpus(config, previous, say)
    require_text(corpus)
    model = load()
    config = dataclasses.replace(config, context_length=context_length_of(config, model))
    config = with_stored_dtype(config, model)
    sites = [model.site(name) for name in config.site or (None,)]
    if previous:
        if previous.complete:  # what an unfinished one has not read yet may change
            require_same_corpus(folder, previous, corpus)
        require_same_model(folder, previous, model)
    manifest = previous or first_manifest(config, model, sites, corpus)
    source = ContextSource(corpus, model, config, manifest.held_out_below, Distributed())
    with use_threads(manifest.threads):
        sample = _sample(source, context_reader(config, model, sites), config.batch_size)
    if not sample.rows:
        entry = source.count(manifest.corpus)
        raise no_activations(corpus.dataset, entry.documents, entry.empty_documents)
    if not sample.timed_rows:
        raise InputError(
            f"{corpus.dataset} fills only {counted(sample.contexts, 'context')}, too few to "
            "measure anything; leave --dry-run out, or give more text"
        )
    rows_there = previous.rows if previous else 0
    if previous and previous.complete:
        rows = rows_there
    else:
        rows = sample.rows if sample.ended else config.tokens
    n_contexts = rows * sample.contexts / sample.rows
    left = max(rows - rows_there, 0)
    on_gpu = _OnGpu(_most_device_memory(model.device), _free_device_memory(model.device), None)
    if named is not None:
        length = context_length_of(config, model)
        tokens = round(left * sample.contexts / sample.rows * length)
        on_gpu = _predicted(named, model, sites, config, asked_dtype, tokens)
    shard_contexts = min(manifest.contexts_per_shard, n_contexts)
    return CacheEstimate(
        sites=tuple(site.name for site in sites),
        d_model=model.d_model,
        rows=rows,
        rows_there=rows_there,
        shards=math.ceil(n_contexts / manifest.contexts_per_shard),
        bytes=round(sample.bytes * rows / sample.rows),
        bytes_free=free_disk(folder),
        seconds=left * sample.seconds / sample.timed_rows,
        rows_per_second=sample.timed_rows / sample.seconds,
        memory_bytes=_most_memory()
        + round(_SHARD_COPIES * sample.bytes * shard_contexts / sample.contexts),
        device_memory_bytes=on_gpu.n_bytes,
        device_memory_free=on_gpu.n_free,
        gpu=None if named is None else named.title,
        gpu_seconds=on_gpu.seconds,
        measured_rows=sample.timed_rows,
        corpus_ended=rows < config.tokens,
    )


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """Totals of the passes; those that were timed are all but the first."""

    rows: int
    contexts: int
    bytes: int
    timed_rows: int
    seconds: float
    ended: bool
    """Whether there was no more to read."""


class _OnGpu(NamedTuple):
    """Memory of the GPU that is taken at most, what there is of it, and the time if predicted."""

    n_bytes: int
    n_free: int | None
    seconds: float | None


def _predicted(
    gpu: Gpu,
    model: LanguageModel,
    sites: Sequence[Site],
    config: CacheConfig,
    asked_dtype: ModelDtype | None,
    tokens: int,
) -> _OnGpu:
    """What reading so many tokens takes on a GPU that is only named, in the dtype that was asked
    for, by default in bfloat16 if it multiplies that."""
    native = torch.float32 if gpu.bfloat16 is None else torch.bfloat16
    dtype = native if asked_dtype is None else model.dtype
    layers = [site.layer for site in sites]
    sizes = model_sizes(model.network.model, layers, model.n_layers, model.d_model)
    length = context_length_of(config, model)
    n_bytes = reading_bytes(
        sizes, dtype, contexts=config.batch_size, context_length=length, n_sites=len(sites)
    )
    seconds = least_reading_seconds(sizes, dtype, gpu, tokens=tokens, context_length=length)
    return _OnGpu(n_bytes, int(gpu.memory_bytes), seconds)


def _sample(source: ContextSource, reader: ContextReader, batch_size: int) -> _Sample:
    rows = contexts = n_bytes = timed_rows = 0
    seconds, ended = 0.0, False
    for number in range(_PASSES + 1):
        started = time.perf_counter()
        chosen = list(islice(source.contexts, batch_size))
        if not chosen:
            ended = True
            break
        content, _ = reader.read(chosen, lambda rows: None)
        if number:
            seconds += time.perf_counter() - started
            timed_rows += len(content.tokens)
        rows += len(content.tokens)
        contexts += len(chosen)
        n_bytes += sum(tensor.nbytes for tensor in content.tensors().values())
        if seconds > _SECONDS:
            break
    return _Sample(
        rows=rows,
        contexts=contexts,
        bytes=n_bytes,
        timed_rows=timed_rows,
        seconds=seconds,
        ended=ended,
    )


def _most_memory() -> int:
    """The most main memory that this process had so far."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _free_device_memory(device: torch.device) -> int | None:
    """With what this process has of the GPU, which the cache is measured with."""
    if device.type != "cuda":
        return None
    return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)


def _most_device_memory(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
