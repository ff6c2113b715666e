"""Build the feature index of a run: one pass over an activation cache, then the directions.

RUN/features/ holds `manifest.json`, `statistics.parquet`, `vocabulary.parquet` and arrays that are
read by memory map; docs/features.md describes each.
"""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from torch import Tensor

from ...sae.autoencoder import SparseAutoencoder
from ...sae.common.checksums import recorded_files, write_checked_json
from ...sae.common.devices import resolve_device
from ...sae.common.errors import InputError
from ...sae.common.files import atomic_folder
from ...sae.common.locks import hold, tidy
from ...sae.compatibility import require_fits
from ...sae.fingerprint import sae_fingerprint
from ...sae.language_model.model import LanguageModel
from ...sae.language_model.names import named_again
from ...sae.language_model.reloading import load_again, require_same_weights
from ...training.data.cache.manifest import ShardEntry
from ...training.data.cache.reader import ActivationCache
from .collect import ROWS_AT_ONCE, Collected, collect
from .config import BuildConfig
from .directions import Best, decoder_neighbors, extreme_logits
from .layout import (
    FOLDER,
    FORMAT,
    MANIFEST,
    NEGATIVE_LOGITS,
    NEIGHBORS,
    POSITIVE_LOGITS,
    STATISTICS,
    VERSION,
    VOCABULARY,
    unit_of,
)
from .parquet import write_columns
from .run_folder import run_folder
from .statistics import LatentStatistics
from .tables import ExampleTable
from .vocabulary import load_tokenizer, token_bytes
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
    tokens, best = _read_language_model(sae, cache, config, model, say)
    collected = _collect(sae, cache, site, config, report)
    best[NEIGHBORS] = decoder_neighbors(sae.W_dec, config.neighbors)
    statistics = collected.statistics
    edges, counts_FH = statistics.histogram()
    arrays = {
        "histogram": counts_FH,
        **_example_arrays("top", collected.top),
        **_example_arrays("random", collected.random),
        **{f"{name}_numbers": numbers for name, (numbers, _) in best.items()},
        **{f"{name}_values": values for name, (_, values) in best.items()},
    }
    manifest = {
        **_identity(sae, cache, site),
        "rows": statistics.n_rows,
        "outliers": sum(e.rows for e in _first_shards(cache, config.rows)) - statistics.n_rows,
        "outlier_norm": config.outlier_norm,
        "n_latents": sae.config.n_latents,
        "examples": config.examples,
        "before": config.before,
        "after": config.after,
        "seed": config.seed,
        "logits": POSITIVE_LOGITS in best,
        "unit": unit_of(sae),
        "histogram_edges": [float(edge) for edge in edges],
    }
    with atomic_folder(folder) as temporary:
        for name, array in arrays.items():
            _save(temporary / f"{name}.npy", array.cpu().numpy())
        write_columns(temporary / STATISTICS, _statistics(statistics))
        write_columns(temporary / VOCABULARY, {"bytes": tokens})
        files = recorded_files(temporary, (path.name for path in temporary.iterdir()))
        write_checked_json(temporary / MANIFEST, {**manifest, "files": files})
    return {"index": str(folder), "never_fired": int((statistics.fired == 0).sum()), **manifest}


def _save(path: Path, array: np.ndarray) -> None:
    """Write a .npy file; of a full disk the error says so."""
    with path.open("wb") as file:
        # Given the file itself, numpy would write past Python and say only how much it wrote.
        np.save(cast(Any, SimpleNamespace(write=file.write)), array, allow_pickle=False)


def _collect(
    sae: SparseAutoencoder,
    cache: ActivationCache,
    site: str,
    config: BuildConfig,
    report: Report,
) -> Collected:
    shards = _first_shards(cache, config.rows)
    device = str(sae.W_dec.device)
    total = sum(entry.rows for entry in shards)
    done = 0

    def progress(n_rows: int) -> None:
        nonlocal done
        done += n_rows
        report(done, total, {})

    bound = norm_bound(cache, shards[0], site, config.outlier_norm)
    return collect(
        sae,
        chunks(cache, shards, site, rows_at_once=ROWS_AT_ONCE, bound=bound, device=device),
        examples=config.examples,
        before=config.before,
        after=config.after,
        seed=config.seed,
        progress=progress,
    )


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


def _read_language_model(
    sae: SparseAutoencoder,
    cache: ActivationCache,
    config: BuildConfig,
    model: LanguageModel | None,
    say: Callable[[str], None],
) -> tuple[list[bytes], dict[str, Best]]:
    """The bytes of every token; positive and negative logits unless they are left out."""
    made = cache.manifest
    if not config.logits:
        if model is not None:
            return token_bytes(model.tokenizer), {}
        source = named_again(made.model, config.model, config.cache)
        return token_bytes(load_tokenizer(source, say)), {}
    otherwise = ", or --logits 0 to use its tokenizer alone"
    if model is None:
        device = str(sae.W_dec.device)
        model = load_again(
            made,
            config.cache,
            given=config.model,
            device=device,
            dtype=config.model_dtype,
            otherwise=otherwise,
            allow_other_weights=config.allow_other_weights,
            say=say,
        )
    else:
        require_same_weights(
            model,
            made,
            config.cache,
            otherwise,
            allow_other_weights=config.allow_other_weights,
            say=say,
        )
    say("finding the positive and negative logits of each latent")
    positive, negative = extreme_logits(model, sae.W_dec, config.logits)
    return token_bytes(model.tokenizer), {POSITIVE_LOGITS: positive, NEGATIVE_LOGITS: negative}


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


def _example_arrays(kind: str, table: ExampleTable) -> dict[str, Tensor]:
    """A table's arrays by file name; a random example's score means nothing to a reader."""
    return {
        f"{kind}_rows": table.rows,
        f"{kind}_docs": table.docs,
        f"{kind}_positions": table.positions,
        f"{kind}_tokens": table.tokens,
        f"{kind}_activations": table.activations,
    }


def _statistics(statistics: LatentStatistics) -> dict[str, np.ndarray]:
    columns = {
        "fired": statistics.fired,
        "density": statistics.fired.double() / statistics.n_rows,
        "mean_activation": statistics.mean(),
        "median_activation": statistics.percentile(0.5),
        "p99_activation": statistics.percentile(0.99),
        "max_activation": statistics.largest,
    }
    numbers = np.arange(len(statistics.fired), dtype=np.int32)
    return {"feature": numbers} | {name: values.cpu().numpy() for name, values in columns.items()}
