"""What does storing activations in fewer bits do to the autoencoder trained on them?

    sparsteer cache --model smollm2-135m --dataset news --out CACHE --dtype float32 --tokens 200000
    python benchmarks/measure_cache_dtypes.py CACHE RUNS [--tokens 400000] [--latents 4096] [--k 32]
        [--seeds 3] [--lr 1e-3] [--contexts 32]

The float32 cache is stored again as float16, bfloat16 and int8, by the conversion that caching
uses; the same autoencoders are trained on each and all are measured on the held-out float32 rows.
`agreement` compares dictionaries: the mean over latents of the largest cosine with a decoder row of
the float32 run of the same seed. What another seed agrees with it says how much that means. The
same command goes on where it was interrupted.
"""

import argparse
import dataclasses
import hashlib
import statistics
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from jaxtyping import Float
from results_file import write_table
from torch import Tensor

from sparsteer.sae.autoencoder import SparseAutoencoder
from sparsteer.sae.common.files import atomic_file, atomic_folder
from sparsteer.training.config import TrainConfig
from sparsteer.training.data.cache.manifest import ShardEntry, write_manifest
from sparsteer.training.data.cache.reader import ActivationCache
from sparsteer.training.data.cache.shards import Shard, encode_rows
from sparsteer.training.data.corpus_config import CacheDtype
from sparsteer.training.evaluation.config import EvalSettings
from sparsteer.training.evaluation.evaluation import evaluate_all
from sparsteer.training.evaluation.latents.stability import agreement_of_decoders
from sparsteer.training.train import train_grid
from sparsteer.training.trainer_config import TrainerConfig

MEASURES = ("fvu", "loss_recovered")
DTYPES: tuple[CacheDtype, ...] = ("float32", "float16", "bfloat16", "int8")


def store_again(cache: ActivationCache, dtype: CacheDtype, out: Path) -> None:
    """Write the cache in another dtype."""
    with atomic_folder(out) as folder:
        shards = tuple(
            _shard_again(cache.shard(entry), entry, cache.sites, dtype, folder)
            for entry in cache.manifest.shards
        )
        config = {**cache.manifest.config, "dtype": dtype}
        changed = {"dtype": dtype, "config": config, "shards": shards}
        write_manifest(folder, dataclasses.replace(cache.manifest, **changed))


def _shard_again(
    shard: Shard, entry: ShardEntry, sites: list[str], dtype: CacheDtype, folder: Path
) -> ShardEntry:
    others = ("tokens", "doc", "position", "context", "offset", "contexts", "lengths", "held_out")
    tensors = {name: shard.tensor(name) for name in others}
    for site in sites:
        stored = encode_rows(shard.stored(site).restored(), dtype, site)
        tensors[f"activations.{site}"] = stored.values
        if stored.scale is not None:
            tensors[f"scale.{site}"] = stored.scale
    data = safetensors.torch.save(tensors)
    with atomic_file(folder / entry.file) as temporary:
        temporary.write_bytes(data)
    checksum = hashlib.sha256(data).hexdigest()
    return dataclasses.replace(entry, bytes=len(data), sha256=checksum)


def storage_error(rows_ND: Float[Tensor, "N D"], dtype: CacheDtype) -> float:
    """Squared error of storing rows, as a fraction of their variance."""
    error_ND = encode_rows(rows_ND, dtype, "rows").restored().double() - rows_ND
    return float(error_ND.square().sum() / (rows_ND.double() - rows_ND.mean(0)).square().sum())


def run_folder(runs: Path, dtype: str, seed: int) -> str:
    return str(runs / f"{dtype}-seed{seed}")


def trained(dtype: CacheDtype, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Held-out measures of the seeds on float32 rows."""
    runs = Path(arguments.runs)
    cache = arguments.cache if dtype == "float32" else str(runs / f"cache-{dtype}")
    if not Path(cache).exists():
        store_again(ActivationCache(arguments.cache), dtype, Path(cache))
    configs = [
        TrainConfig(
            cache=cache,
            out=run_folder(runs, dtype, seed),
            n_latents=arguments.latents,
            k=arguments.k,
            trainer=TrainerConfig(
                tokens=arguments.tokens,
                batch_size=1024,
                lr=arguments.lr,
                seed=seed,
                eval_every=10**9,
            ),
        )
        for seed in range(arguments.seeds)
    ]
    train_grid(configs, say=print)
    settings = EvalSettings(cache=arguments.cache, contexts=arguments.contexts)
    return evaluate_all([config.out for config in configs], settings, say=print)


def row_bytes(dtype: CacheDtype, d_model: int) -> int:
    stored = encode_rows(torch.ones(1, d_model), dtype, "rows")
    return _bytes(stored.values) + (0 if stored.scale is None else _bytes(stored.scale))


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cache")
    parser.add_argument("runs")
    parser.add_argument("--tokens", type=int, default=400_000)
    parser.add_argument("--latents", type=int, default=4096)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--contexts", type=int, default=32)
    arguments = parser.parse_args()
    cache = ActivationCache(arguments.cache)
    if cache.manifest.dtype != "float32":
        parser.error(f"{arguments.cache} is stored as {cache.manifest.dtype}; give a float32 cache")
    rows_ND = cache.held_out(limit=16_384)
    results = {dtype: trained(dtype, arguments) for dtype in DTYPES}
    saes = {
        (dtype, seed): SparseAutoencoder.load(run_folder(Path(arguments.runs), dtype, seed))
        for dtype in DTYPES
        for seed in range(arguments.seeds)
    }

    def spread(values: list[float]) -> str:
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        return f"{statistics.mean(values):.4f} ± {deviation:.4f}"

    seeds = range(arguments.seeds)
    lines = [
        [
            dtype,
            str(row_bytes(dtype, cache.d_model)),
            f"{storage_error(rows_ND, dtype):.1e}",
            *(spread([result[name] for result in results[dtype]]) for name in MEASURES),
            spread(
                [agreement_of_decoders(saes[dtype, seed], saes["float32", seed]) for seed in seeds]
            ),
        ]
        for dtype in DTYPES
    ]
    across = [
        agreement_of_decoders(saes["float32", one], saes["float32", other])
        for one in seeds
        for other in seeds
        if one != other
    ]
    header = ["dtype", "bytes a row", "storage error", "FVU", "loss recovered", "agreement"]
    notes = [
        f"topk, k={arguments.k}, {arguments.latents} latents, {arguments.tokens:,} tokens, "
        f"{arguments.seeds} seeds (mean and standard deviation), lr {arguments.lr:g}; "
        f"{cache.sites[0]} of {cache.manifest.model}, {cache.manifest.corpus.dataset}, "
        f"{cache.n_rows:,} rows cached, d_model {cache.d_model}. Measured on held-out float32 "
        f"rows, loss recovered over {arguments.contexts} contexts. Storage error: squared error "
        "of the stored rows as a fraction of their variance. Another seed's agreement: "
        f"{spread(across) if across else 'not measured'}.",
    ]
    write_table("cache-dtypes", header, lines, notes)


if __name__ == "__main__":
    main()
