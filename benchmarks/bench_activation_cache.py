"""Reading and writing an activation cache: rows a second of the shuffled reader, and the speed of
caching as a fraction of that of the language model's forward pass alone.

    python benchmarks/bench_activation_cache.py [--rows 200000] [--width 576] [--write-tokens 0]

The reader is measured on random rows, cold (the page cache is asked to drop the files) and warm.
With --write-tokens, that many tokens of `news` are cached with `smollm2-135m`, both fetched.
"""

import argparse
import os
import tempfile
import time
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from results_file import write_table

from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.training import ActivationCache, CacheConfig, cache_activations
from sparsteer.training.data import extraction
from sparsteer.training.data.cache.manifest import (
    EXCLUDED,
    CacheManifest,
    CorpusEntry,
    ShardEntry,
    write_manifest,
)
from sparsteer.training.data.cache.shards import ShardContent, encode_rows, write_shard
from sparsteer.training.data.corpus_config import CacheDtype

DTYPES: tuple[CacheDtype, ...] = ("float32", "float16", "int8")
BATCH, PER_CONTEXT, LENGTH = 4096, 126, 128
SITE = "blocks.0.hook_resid_post"


def write_random_cache(folder: Path, n_rows: int, width: int, dtype: CacheDtype) -> None:
    """A cache of random rows in shards of about 32,768, one context in twenty held out."""
    entries: list[ShardEntry] = []
    n_contexts = 32_768 // LENGTH
    while sum(entry.rows for entry in entries) < n_rows:
        context = torch.arange(n_contexts * PER_CONTEXT) // PER_CONTEXT
        zeros = torch.zeros_like(context)
        content = ShardContent(
            activations={SITE: encode_rows(torch.randn(len(context), width), dtype, SITE)},
            tokens=zeros,
            doc=zeros,
            position=zeros,
            context=context,
            offset=torch.arange(len(context)) % PER_CONTEXT + 2,
            contexts=torch.zeros(n_contexts, LENGTH, dtype=torch.int64),
            lengths=torch.full((n_contexts,), LENGTH),
            held_out=torch.rand(n_contexts) < 0.05,
        )
        entries.append(write_shard(folder, len(entries), content, dict.fromkeys(EXCLUDED, 0)))
    manifest = CacheManifest(
        complete=True,
        model="random",
        weights_hash="",
        tokenizer_hash="",
        sites=(SITE,),
        d_model=width,
        dtype=dtype,
        context_length=LENGTH,
        contexts_per_shard=n_contexts,
        threads=1,
        corpus=CorpusEntry(dataset="random", fingerprint="", revision=None, parts=("random",)),
        config={},
        shards=tuple(entries),
    )
    write_manifest(folder, manifest)


def rows_per_second(cache: ActivationCache, start_epoch: int) -> tuple[float, float]:
    """Rows a second over one epoch: by the clock, and by the processor time of all threads."""
    per_epoch = cache.n_train // BATCH
    clock, processor = time.perf_counter(), time.process_time()
    batches = cache.batches(BATCH, start=start_epoch * per_epoch)
    rows = sum(len(batch) for batch in islice(batches, per_epoch))
    batches.close()
    return rows / (time.perf_counter() - clock), rows / (time.process_time() - processor)


def drop_from_page_cache(folder: Path) -> None:
    for path in folder.iterdir():
        handle = os.open(path, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def measure_reading(folder: Path, n_rows: int, width: int, dtype: CacheDtype) -> list[str]:
    folder.mkdir()
    write_random_cache(folder, n_rows, width, dtype)
    drop_from_page_cache(folder)
    cache = ActivationCache(folder)
    cold, _ = rows_per_second(cache, 0)
    warm = [rows_per_second(cache, epoch) for epoch in range(1, 6)]
    clock = sorted(rate for rate, _ in warm)
    processor = sorted(rate for _, rate in warm)
    size = sum(entry.bytes for entry in cache.manifest.shards) / 1e6
    rates = (cold, clock[0], clock[2], clock[4], processor[2])
    return [dtype, f"{size:.0f} MB", *(f"{rate:,.0f}" for rate in rates)]


def measure_writing(folder: Path, n_tokens: int) -> str:
    """The fraction of caching that is the model's own forward pass.

    By the clock it is the speed of caching over that of the forward pass. By the processor time of
    all threads it is higher with more than one, because the rest of caching has only one.
    """
    model = LanguageModel.load("smollm2-135m")
    config = CacheConfig(model=model.name, dataset="news", out=str(folder), tokens=n_tokens)
    in_model = np.zeros(2)
    read_sites = extraction.read_sites

    def timed(*arguments: object) -> object:
        nonlocal in_model
        started = clocks()
        found = read_sites(*arguments)  # pyright: ignore[reportArgumentType] - passed on as it came
        in_model += clocks() - started
        return found

    started = time.process_time()
    assert model.weights_hash  # read once for a model, apart from caching
    hashing = time.process_time() - started
    extraction.read_sites = timed  # pyright: ignore[reportAttributeAccessIssue]
    started = clocks()
    try:
        manifest = cache_activations(config, model=model)
    finally:
        extraction.read_sites = read_sites
    seconds = clocks() - started
    by_clock, by_processor = in_model / seconds
    return (
        f"Caching {manifest.rows:,} rows of news, {manifest.threads} threads: {by_clock:.1%} of "
        f"the time is the model's forward pass, {by_processor:.1%} of the processor time of all "
        f"threads ({seconds[0]:.0f} s in all; hashing the weights once: {hashing:.1f} s)."
    )


def clocks() -> Float[np.ndarray, "2"]:
    """Seconds by the clock, and of processor time of all threads."""
    return np.array([time.perf_counter(), time.process_time()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--write-tokens", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    header = ["stored as", "size", "cold", "slowest", "median", "fastest epoch", "per core"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        rows = [
            measure_reading(folder / dtype, options.rows, options.width, dtype) for dtype in DTYPES
        ]
        notes = [
            f"Rows a second in batches of {BATCH} float32 rows of width {options.width}, checksums "
            "verified in the cold epoch; then five warm epochs by the clock, and the median by "
            "the processor time of all threads.",
        ]
        if options.write_tokens:
            notes += ["", measure_writing(folder / "written", options.write_tokens)]
    write_table("activation-cache", header, rows, notes)


if __name__ == "__main__":
    main()
