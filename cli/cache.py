"""The verbs `cache`, `cache info` and `cache verify`."""

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..sae.common.paths import FilePath
from ..sae.common.wording import count, counted, duration, size
from ..training.data.cache.config import CacheConfig
from .console import Report, Terminal, next_command, table
from .dry_runs import require_dry_run
from .verify import damage

if TYPE_CHECKING:
    from ..training.data.cache.manifest import CacheManifest


@dataclass(frozen=True, kw_only=True)
class CacheOptions:
    """What to cache, or only what it would cost."""

    cache: CacheConfig
    """The cache."""

    dry_run: bool = False
    """Run a few forward passes, say what the cache will cost in bytes, time and memory, and write
    nothing."""

    gpu: str | None = None
    """With --dry-run: a GPU to predict time and memory for, such as h100, a100, rtx-4090 or l4,
    which need not be here."""

    def __post_init__(self) -> None:
        require_dry_run(self.gpu, dry_run=self.dry_run)


@dataclass(frozen=True, kw_only=True)
class FolderOptions:
    """Which cache is meant."""

    folder: FilePath
    """Folder of the activation cache."""


def run(options: CacheOptions, terminal: Terminal) -> Report:
    """Run a language model over a corpus and write an activation cache.

    The same command again goes on from the last whole shard of an interrupted run.
    """
    if options.dry_run:
        return _estimate(options.cache, options.gpu, terminal)
    return _write(options.cache, terminal)


def _write(config: CacheConfig, terminal: Terminal) -> Report:
    from ..training.cautions import why_not_trainable
    from ..training.data.cache.reader import ActivationCache
    from ..training.data.cache.rounding import rounding_cautions
    from ..training.data.cache.writer import cache_activations

    started = time.perf_counter()
    with terminal.progress("caching", "rows") as update:
        manifest = cache_activations(
            config, progress=lambda done, total, rate: update(done, total, ""), say=terminal.say
        )
    seconds = time.perf_counter() - started
    reason = why_not_trainable(config.out, manifest)
    shown = [
        f"cached {', '.join(manifest.sites)} of {manifest.model} in {config.out}",
        table(*_content_rows(manifest), ("time", duration(seconds), "of this command")),
    ]
    if reason is None:
        warnings = rounding_cautions(ActivationCache(config.out))
        shown.append(next_command("train", "--cache", config.out, "--out", "RUN"))
    else:
        warnings = [f"`sparsteer train` will refuse it: {reason}"]
    values = {**_values(config.out, manifest), "seconds": seconds, "warnings": warnings}
    return Report(values=values, shown=shown, warnings=warnings)


def info(options: FolderOptions, terminal: Terminal) -> Report:
    """Say what an activation cache holds, of which model and text.

    Only the manifest is read.
    """
    from ..training.data.cache.manifest import read_manifest

    manifest = read_manifest(Path(options.folder))
    state = "complete" if manifest.complete else "incomplete: give the command that wrote it again"
    shown = (
        f"{options.folder}: {', '.join(manifest.sites)} of {manifest.model}, {state}",
        table(
            *_content_rows(manifest),
            ("contexts", count(manifest.context_length), "tokens in each"),
            ("corpus", manifest.corpus.dataset, f"fingerprint {manifest.corpus.fingerprint[:16]}"),
            ("fingerprint", manifest.fingerprint[:16], "of all its content"),
        ),
        *manifest.notices,
    )
    values = {
        **_values(options.folder, manifest),
        "complete": manifest.complete,
        "context_length": manifest.context_length,
        "fingerprint": manifest.fingerprint,
        "corpus_fingerprint": manifest.corpus.fingerprint,
        "weights_hash": manifest.weights_hash,
        "tokenizer_hash": manifest.tokenizer_hash,
        "config": manifest.config,
    }
    return Report(values=values, shown=shown)


def verify(options: FolderOptions, terminal: Terminal) -> Report:
    """Compare every byte of an activation cache with its checksums.

    As `sparsteer verify`, of a cache alone. The exit status is 1 if a shard is missing or differs.
    """
    from ..training.data.cache.manifest import read_manifest
    from ..training.verification import verify

    n_shards = len(read_manifest(Path(options.folder)).shards)
    with terminal.progress("verifying", "bytes") as update:
        found = verify(options.folder, progress=lambda done, total: update(done, total, ""))
    problems = [file.problem for file in found if file.state == "damaged"]
    values = {"cache": options.folder, "whole": not problems, "problems": problems}
    shown = problems or [f"{options.folder} is whole: every byte is as it was written"]
    error = damage(options.folder, problems, n_shards + 1)
    return Report(values=values, shown=shown, status=1 if problems else 0, error=error)


def _estimate(config: CacheConfig, gpu: str | None, terminal: Terminal) -> Report:
    from ..training.data.cache.estimate import estimate_cache

    estimate = estimate_cache(config, gpu=gpu, say=terminal.say)
    ended = "all that the corpus gives" if estimate.corpus_ended else "if the corpus has the text"
    there = f"{ended}; {count(estimate.rows_there)} are there" if estimate.rows_there else ended
    measured = (
        f"by {counted(estimate.measured_rows, 'row')}, {count(estimate.rows_per_second)} rows/s"
    )
    rows = [
        ("rows", count(estimate.rows), f"{there}; width {estimate.d_model}"),
        (
            "size",
            size(estimate.bytes),
            f"in {counted(estimate.shards, 'shard')}; {size(estimate.bytes_free)} are free",
        ),
        ("time", duration(estimate.seconds), f"{measured}; the disk's own not counted"),
        ("memory", size(estimate.memory_bytes), "at most, the language model included"),
    ]
    if estimate.device_memory_bytes:
        free = estimate.device_memory_free
        of = "" if free is None else f" of {size(free)}"
        rows.append(("on the GPU", size(estimate.device_memory_bytes), f"at most{of}"))
    if estimate.gpu_seconds is not None:
        ceilings = f"at least on {estimate.gpu}, predicted from its published ceilings"
        rows.append(("GPU time", duration(estimate.gpu_seconds), ceilings))
    shown = [
        f"caching {', '.join(estimate.sites)} of {config.model} in {config.out} would take:",
        table(*rows),
    ]
    values = {**dataclasses.asdict(estimate), "fits": estimate.fits}
    error = (
        "it does not fit on that disk or that GPU; lower --tokens or --batch-size, or give --out "
        "on another disk"
    )
    return Report(values=values, shown=shown, status=0 if estimate.fits else 1, error=error)


def _values(folder: str, manifest: "CacheManifest") -> dict[str, Any]:
    return {
        "cache": folder,
        "model": manifest.model,
        "dataset": manifest.corpus.dataset,
        "sites": list(manifest.sites),
        "d_model": manifest.d_model,
        "dtype": manifest.dtype,
        "rows": manifest.rows,
        "held_out_rows": manifest.held_out_rows,
        "excluded": manifest.excluded,
        "documents": manifest.corpus.documents,
        "shards": len(manifest.shards),
        "bytes": _bytes(manifest),
        "notices": list(manifest.notices),
    }


def _bytes(manifest: "CacheManifest") -> int:
    return sum(shard.bytes for shard in manifest.shards)


def _content_rows(manifest: "CacheManifest") -> tuple[tuple[str, str, str], ...]:
    excluded = ", ".join(
        f"{count(number)} {reason.replace('_', ' ')}"
        for reason, number in manifest.excluded.items()
        if number
    )
    return (
        ("rows", count(manifest.rows), f"activations of width {manifest.d_model} at each site"),
        ("held out", count(manifest.held_out_rows), "rows of documents that training never sees"),
        ("documents", count(manifest.corpus.documents), "read from the corpus so far"),
        (
            "left out",
            count(sum(manifest.excluded.values())),
            f"positions: {excluded}",
        ),
        (
            "size",
            size(_bytes(manifest)),
            f"{manifest.dtype}, in {counted(len(manifest.shards), 'shard')}",
        ),
    )
