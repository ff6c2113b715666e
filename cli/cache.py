"""The verb `cache`."""

import time
from typing import Any

from ..training.config import CacheConfig
from .console import Report, Terminal, count, duration, next_command, size, table


def run(config: CacheConfig, terminal: Terminal) -> Report:
    """Run a language model over a corpus and write an activation cache.

    The same command again goes on from the last whole shard of an interrupted run.
    """
    from ..training.harvest import cache_activations

    started = time.perf_counter()
    with terminal.progress("caching", "rows") as update:
        manifest = cache_activations(
            config, progress=lambda done, total, rate: update(done, total, ""), say=terminal.say
        )
    seconds = time.perf_counter() - started
    n_bytes = sum(shard.bytes for shard in manifest.shards)
    values: dict[str, Any] = {
        "cache": config.out,
        "model": manifest.model,
        "dataset": manifest.corpus.dataset,
        "sites": list(manifest.sites),
        "d_model": manifest.d_model,
        "dtype": manifest.dtype,
        "rows": manifest.rows,
        "held_out_rows": manifest.held_out_rows,
        "left_out": manifest.left_out,
        "documents": manifest.corpus.documents,
        "shards": len(manifest.shards),
        "bytes": n_bytes,
        "seconds": seconds,
        "notices": list(manifest.notices),
    }
    left_out = ", ".join(
        f"{count(number)} {reason.replace('_', ' ')}"
        for reason, number in manifest.left_out.items()
        if number
    )
    rows = (
        ("rows", count(manifest.rows), f"activations of width {manifest.d_model} at each site"),
        ("held out", count(manifest.held_out_rows), "rows of documents that training never sees"),
        ("documents", count(manifest.corpus.documents), "read from the corpus so far"),
        (
            "left out",
            count(sum(manifest.left_out.values())),
            f"positions: {left_out}",
        ),
        ("size", size(n_bytes), f"{manifest.dtype}, in {count(len(manifest.shards))} shards"),
        ("time", duration(seconds), "of this command"),
    )
    shown = (
        f"cached {', '.join(manifest.sites)} of {manifest.model} in {config.out}",
        table(*rows),
        next_command("train", "--cache", config.out, "--out", "RUN"),
    )
    return Report(values=values, shown=shown)
