"""Reading and writing an activation cache: rows a second of the shuffled reader, and the speed of
caching as a fraction of that of the language model's forward pass alone, in float32 and bfloat16.

    python benchmarks/bench_activation_cache.py [--rows 200000] [--width 576] [--write-tokens 0]
        [--rounds 6] [--model smollm2-135m] [--sites blocks.15.hook_resid_post ...] [--threads 2]

The reader is measured on random rows, cold (the page cache is asked to drop the files) and warm;
--rows 0 leaves it out. With --write-tokens, about that many tokens of `news` are cached in each
round at the first of the sites, and what bfloat16 changes is measured at all of them; text and
`smollm2-135m` are fetched.
"""

import argparse
import os
import tempfile
import time
from itertools import islice
from pathlib import Path

import torch
from caching_speed import HEADER, measure_caching, measure_dtype
from random_cache import write_random_cache
from results_file import write_table

from sparsteer.training import ActivationCache
from sparsteer.training.data.corpus_config import CacheDtype

DTYPES: tuple[CacheDtype, ...] = ("float32", "float16", "int8")
BATCH = 4096
CACHED_SITES = tuple(f"blocks.{layer}.hook_resid_post" for layer in (15, 7, 23))


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--write-tokens", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--sites", nargs="+", default=CACHED_SITES)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if options.rows:
            torch.set_num_threads(1)
            table_of_reading(folder, options.rows, options.width)
        if options.write_tokens:
            torch.set_num_threads(options.threads)
            table_of_writing(folder, options)


def table_of_reading(folder: Path, n_rows: int, width: int) -> None:
    header = ["stored as", "size", "cold", "slowest", "median", "fastest epoch", "per core"]
    rows = [measure_reading(folder / dtype, n_rows, width, dtype) for dtype in DTYPES]
    notes = [
        f"Rows a second in batches of {BATCH} float32 rows of width {width}, checksums "
        "verified in the cold epoch; then five warm epochs by the clock, and the median by "
        "the processor time of all threads.",
    ]
    write_table("activation-cache", header, rows, notes)


def table_of_writing(folder: Path, options: argparse.Namespace) -> None:
    sites = tuple(options.sites)
    rows, notes = measure_caching(
        folder / "written", options.model, sites[0], options.write_tokens, options.rounds
    )
    cache = ActivationCache(folder / "written" / "first")
    tokens = cache.shard(cache.manifest.shards[0]).tensor("contexts").long()
    header, changed = measure_dtype(options.model, sites, tokens)
    table = [header, ["---"] * len(header), *changed]
    notes += ["", *("| " + " | ".join(row) + " |" for row in table)]
    write_table("caching", HEADER, rows, notes)


if __name__ == "__main__":
    main()
