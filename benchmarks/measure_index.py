"""How much memory does `features build` take? Peak memory of its process and its time.

    python benchmarks/measure_index.py [--latents 65536] [--width 768] [--k 64] [--rows 12000]
        [--model smollm2-135m] [--near-misses 10]

A random top-k autoencoder indexes a cache of random rows, whose tokens are random, too, with all
settings as they are by default but for the logits; of the language model only the tokenizer is
read. What the tables take depends on the latents alone, not on the rows.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from results_file import write_table

from sparsteer.sae import SparseAutoencoder, TopKConfig
from sparsteer.training.data.cache.manifest import (
    EXCLUDED,
    CacheManifest,
    CorpusEntry,
    ShardEntry,
    write_manifest,
)
from sparsteer.training.data.cache.shards import ShardContent, encode_rows, write_shard

SITE = "blocks.0.hook_resid_post"
LENGTH, SHARD_CONTEXTS, N_TOKENS = 128, 32, 40_000


def write_cache(folder: Path, model: str, n_rows: int, width: int) -> None:
    """Contexts of one document each; every column but the first has a row."""
    generator = torch.Generator().manual_seed(1)
    per_context = LENGTH - 1
    entries: list[ShardEntry] = []
    while sum(entry.rows for entry in entries) < n_rows:
        shape = (SHARD_CONTEXTS, LENGTH)
        contexts = torch.randint(100, N_TOKENS, shape, generator=generator)
        context = torch.arange(SHARD_CONTEXTS).repeat_interleave(per_context)
        offset = torch.arange(1, LENGTH).repeat(SHARD_CONTEXTS)
        rows_ND = torch.randn(len(context), width, generator=generator)
        content = ShardContent(
            activations={SITE: encode_rows(rows_ND, "float16", SITE)},
            tokens=contexts[context, offset],
            doc=context + len(entries) * SHARD_CONTEXTS,
            position=offset,
            context=context,
            offset=offset,
            contexts=contexts,
            lengths=torch.full((SHARD_CONTEXTS,), LENGTH),
            held_out=torch.zeros(SHARD_CONTEXTS, dtype=torch.bool),
        )
        entries.append(write_shard(folder, len(entries), content, dict.fromkeys(EXCLUDED, 0)))
    manifest = CacheManifest(
        complete=True,
        model=model,
        weights_hash="",
        tokenizer_hash="",
        sites=(SITE,),
        d_model=width,
        dtype="float16",
        context_length=LENGTH,
        contexts_per_shard=SHARD_CONTEXTS,
        threads=1,
        corpus=CorpusEntry(dataset="random", fingerprint="", revision=None, parts=("random",)),
        config={},
        shards=tuple(entries),
    )
    write_manifest(folder, manifest)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name, default in (("latents", 65_536), ("width", 768), ("k", 64), ("rows", 12_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--near-misses", type=int, default=10)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_cache(folder / "cache", arguments.model, arguments.rows, arguments.width)
        sae = SparseAutoencoder(TopKConfig(arguments.width, arguments.latents, arguments.k))
        sae.save(folder / "run" / "sae")
        del sae
        words = [sys.executable, "-m", "sparsteer.cli", "features", "build", folder / "run"]
        words += ["--cache", folder / "cache", "--logits", 0, "--json"]
        words += ["--near-misses", arguments.near_misses, "--device", "cpu"]
        started = time.perf_counter()
        subprocess.run([str(word) for word in words], check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - started
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        index = sum(file.stat().st_size for file in (folder / "run" / "features").iterdir())
    write_table(
        "index-memory",
        ["latents", "width", "k", "rows", "near misses", "peak memory", "time", "index on disk"],
        [
            [
                f"{arguments.latents:,}",
                str(arguments.width),
                str(arguments.k),
                f"{arguments.rows:,}",
                str(arguments.near_misses),
                f"{used.ru_maxrss / 1e6:.2f} GB",
                f"{seconds:.0f} s ({used.ru_utime + used.ru_stime:.0f} s of processors)",
                f"{index / 1e9:.2f} GB",
            ]
        ],
        ["Peak memory is the largest resident size of the whole command."],
    )


if __name__ == "__main__":
    main()
