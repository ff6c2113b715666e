"""Build the feature index of a run: one pass over an activation cache, then the directions.

RUN/features/ holds `manifest.json`, `statistics.parquet`, `vocabulary.parquet` and arrays that are
read by memory map; docs/features.md describes each. While it is built, RUN/.features-partial holds
what the pass has gathered; a build that is killed goes on from there.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ...sae.autoencoder import SparseAutoencoder
from ...sae.common.checksums import recorded_files, write_checked_json
from ...sae.common.devices import resolve_device
from ...sae.common.errors import InputError
from ...sae.common.files import atomic_folder
from ...sae.common.locks import hold, tidy
from ...sae.compatibility import require_fits
from ...sae.fingerprint import sae_fingerprint
from ...sae.language_model.model import LanguageModel
from ...training.data.cache.manifest import ShardEntry
from ...training.data.cache.reader import ActivationCache
from .arrays import save_array
from .collect import ROWS_AT_ONCE, Collector
from .config import BuildConfig
from .contents import example_arrays, shared_arrays, statistics_columns
from .directions import decoder_neighbors
from .layout import (
    FOLDER,
    FORMAT,
    LENS,
    MANIFEST,
    NEIGHBORS,
    PARTIAL,
    POSITIVE_LOGITS,
    STATE,
    STATISTICS,
    VERSION,
    VOCABULARY,
    unit_of,
)
from .near_misses import why_none
from .parquet import write_columns
from .progress import Progress
from .read_model import FromModel, read_language_model
from .run_folder import run_folder
from .shard_files import ShardFiles
from .windows import chunks, norm_bound

Report = Callable[[int, int, dict[str, float]], None]
"""Told after each chunk: rows done, rows in all, figures (none)."""


def build_index(
    config: BuildConfig,
    *,
    model: LanguageModel | None = None,
    say: Callable[[str], None] = lambda sentence: None,
    report: Report = lambda done, total, figures: None,
) -> dict[str, Any]:
    """Build RUN/features/, which appears whole and replaces an older one.

    Args:
        config: what to read and how much to keep.
        model: the language model if it is loaded already.
        say: sentences for a person.
        report: progress, after every 8,192 rows or so.

    Returns:
        index (its folder), never_fired (latents), and what the manifest holds: rows, n_latents, ...

    Raises:
        InputError: run, cache and language model do not belong together, RUN/features is something
            else, or another process is building it.
    """
    device = resolve_device(config.device)
    run = run_folder(config.run)
    sae = SparseAutoencoder.load(run / "sae").to(device)
    folder = run / FOLDER
    tidy(run)
    with hold(folder, remedy="wait for it"):
        if folder.exists() and not (folder / MANIFEST).exists():
            raise InputError(f"{folder} exists and is no feature index; move it elsewhere")
        return _build(sae, folder, config, model, say, report)


def _build(
    sae: SparseAutoencoder,
    folder: Path,
    config: BuildConfig,
    model: LanguageModel | None,
    say: Callable[[str], None],
    report: Report,
) -> dict[str, Any]:
    cache = ActivationCache(config.cache)
    site = _fitting_site(sae, cache, config, say)
    # Before the pass, so that a model that is missing or another one is found at once.
    read = read_language_model(sae, cache, site, config, model, say)
    del model
    identity = _identity(sae, cache, site)
    parts = ShardFiles(folder.parent / PARTIAL)
    collector = Collector(
        sae,
        config,
        total_rows=sum(entry.rows for entry in _first_shards(cache, config.rows)),
        special_ids=read.special_ids,
    )
    try:
        _pass(collector, cache, site, config, parts, identity, say, report)
    except BaseException:
        if not Progress(parts.folder / STATE, {}).exists:
            parts.clear()  # from which no later build could go on
        raise
    statistics = collector.statistics
    best = {**read.best, NEIGHBORS: decoder_neighbors(sae.W_dec, config.neighbors)}
    say("finding what fires together, and what tokens alone explain")
    columns = statistics_columns(collector, parts)
    with atomic_folder(folder) as temporary:
        edges, counts_FH = statistics.histogram()
        save_array(temporary / "histogram.npy", counts_FH.cpu().numpy())
        for name, (numbers, values) in best.items():
            save_array(temporary / f"{name}_numbers.npy", numbers.cpu().numpy())
            save_array(temporary / f"{name}_values.npy", values.cpu().numpy())
        # One at a time, as a large one is a copy of a part of the tables.
        for arrays in (example_arrays(collector, config), shared_arrays(collector, config, parts)):
            for name, array in arrays:
                save_array(temporary / f"{name}.npy", array)
        write_columns(temporary / STATISTICS, columns)
        write_columns(temporary / VOCABULARY, {"bytes": read.tokens})
        files = recorded_files(temporary, (path.name for path in temporary.iterdir()))
        manifest = {
            **identity,
            "rows": statistics.n_rows,
            "outliers": sum(e.rows for e in _first_shards(cache, config.rows)) - statistics.n_rows,
            **_settings(sae, config, read, collector),
            "histogram_edges": [float(edge) for edge in edges],
        }
        write_checked_json(temporary / MANIFEST, {**manifest, "files": files})
    parts.clear()
    return {"index": str(folder), "never_fired": int((statistics.fired == 0).sum()), **manifest}


def _pass(
    collector: Collector,
    cache: ActivationCache,
    site: str,
    config: BuildConfig,
    parts: ShardFiles,
    identity: dict[str, Any],
    say: Callable[[str], None],
    report: Report,
) -> None:
    """Read the shards, from where an earlier pass of the same settings stopped."""
    shards = _first_shards(cache, config.rows)
    total = sum(entry.rows for entry in shards)
    device = str(collector.special.device)
    settings = {name: getattr(config, name) for name in _DECIDING}
    place = {"device": device, "threads": torch.get_num_threads(), "torch": torch.__version__}
    progress = Progress(parts.folder / STATE, {**identity, **settings, **place, "total": total})
    n_done, numbers, tensors = progress.load(say)
    if n_done:
        collector.restore(numbers, tensors)
    else:
        parts.clear()
    del tensors
    bound = norm_bound(cache, shards[0], site, config.outlier_norm)
    done = sum(entry.rows for entry in shards[:n_done])
    for number, entry in list(enumerate(shards))[n_done:]:
        of_shard = chunks(
            cache,
            [entry],
            site,
            rows_at_once=ROWS_AT_ONCE,
            bound=bound,
            device=device,
            first_row=sum(before.rows for before in shards[:number]),
        )
        for chunk in of_shard:
            collector.add(chunk)
            done += len(chunk.rows_RD)
            report(done, total, {})
        parts.write(number, collector.take_shard())
        progress.save_if_due(number + 1, *collector.state())


_DECIDING = (
    *("examples", "quantiles", "quantile_examples", "near_misses", "before", "after"),
    *("coactivating", "outlier_norm", "seed"),
)
"""Settings that decide what the pass gathers."""


def _settings(
    sae: SparseAutoencoder, config: BuildConfig, read: FromModel, collector: Collector
) -> dict[str, Any]:
    """What the manifest says of what was asked for, and why some of it is not there."""
    missing = {"near_misses": why_none(sae), "lens": read.why_no_lens}
    kept = ("examples", "quantiles", "quantile_examples", "coactivating", "before", "after")
    return {
        "outlier_norm": config.outlier_norm,
        "n_latents": sae.config.n_latents,
        **{name: getattr(config, name) for name in kept},
        "near_misses": 0 if collector.near is None else config.near_misses,
        "seed": config.seed,
        "logits": POSITIVE_LOGITS in read.best,
        "lens": LENS in read.best,
        "missing": {name: why for name, why in missing.items() if why},
        "coactivation_rows_one_in": 1 if collector.firing is None else collector.firing.one_in,
        "unit": unit_of(sae),
    }


def _first_shards(cache: ActivationCache, rows: int | None) -> list[ShardEntry]:
    """The shards from the first on that hold at least so many rows together."""
    chosen: list[ShardEntry] = []
    n_rows = 0
    for entry in cache.manifest.shards:
        if rows is not None and n_rows >= rows:
            break
        chosen.append(entry)
        n_rows += entry.rows
    return chosen


def _fitting_site(
    sae: SparseAutoencoder,
    cache: ActivationCache,
    config: BuildConfig,
    say: Callable[[str], None],
) -> str:
    """The site of the cache to read; an InputError if the cache does not suit the autoencoder."""
    require_fits(
        sae,
        of=f"the autoencoder of {config.run}",
        cache=cache,
        allow_other_weights=config.allow_other_weights,
        say=say,
    )
    if config.site is None and sae.origin is not None:
        return cache.site_name(sae.origin.site)
    return cache.site_name(config.site)


def _identity(sae: SparseAutoencoder, cache: ActivationCache, site: str) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "sae": sae_fingerprint(sae),
        "cache": cache.fingerprint,
        "model": cache.manifest.model,
        "weights_hash": cache.manifest.weights_hash,
        "tokenizer_hash": cache.manifest.tokenizer_hash,
        "site": site,
    }
