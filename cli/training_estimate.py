"""What `sparsteer train --dry-run` says."""

import dataclasses
from typing import TYPE_CHECKING

from ..sae.common.wording import count, counted, duration, size
from .console import Report, Terminal, table
from .training_process import training_process

if TYPE_CHECKING:
    from ..training.forecast.estimate import TrainingEstimate
    from .train import TrainOptions

_MEANT = {
    "parameters": "weights in float32",
    "moments": "Adam's",
    "counters": "since when latents are silent",
    "averages": "of the weights",
    "averages_measured": "a copy while they are measured",
    "rounded_weights": "weights in bfloat16",
    "gradients": "in float32",
    "step": "pre-activations, rows and kept values of a batch",
    "auxk": "where a tenth of the latents is dead",
    "windows": "stored rows that are shuffled together",
    "batches": "on their way",
    "held_out": "rows to measure on",
    "checkpoint_copy": "a checkpoint that is being written",
    "whole_dictionary": "of all shards, in the first process",
}


def estimate(options: "TrainOptions", terminal: Terminal) -> Report:
    """What the training would take; see `estimate_training`."""
    from ..training.train import estimate_training

    config = options.train
    with training_process(config.trainer.device):
        found = estimate_training(config, gpu=options.gpu, say=terminal.say)
    where = found.device if found.gpu is None else found.gpu
    shown = [
        f"training a {found.activation} autoencoder of {counted(found.n_latents, 'latent')} at "
        f"width {found.d_model} in {found.precision} on {where} would take:",
        table(*_rows(found), *_parts(found)),
        *found.unknown,
    ]
    values = {"dry_run": True, **dataclasses.asdict(found), "fits": found.fits}
    error = (
        "it does not fit into that memory or on that disk; lower --n-latents, --batch-size or "
        "--keep-checkpoints, or give --out on another disk"
    )
    return Report(values=values, shown=shown, status=0 if found.fits else 1, error=error)


def _rows(found: "TrainingEstimate") -> list[tuple[str, str, str]]:
    free = "" if found.memory_free is None else f"of {size(found.memory_free)}"
    rows = [
        *_settings(found),
        ("memory", size(found.memory_bytes), f"on the device {free}".rstrip()),
    ]
    if found.device != "cpu":
        rows.append(("host", size(found.host_bytes), "main memory of the process"))
    kept = f"checkpoints and autoencoder; {size(found.disk_free)} are free"
    rows.append(("disk", size(found.disk_bytes), kept))
    if found.seconds is None:
        rows.append(("time", "unknown", "see below"))
    else:
        least = "at least, predicted" if found.seconds_are == "predicted" else "by a few steps here"
        n_rows = found.steps * found.batch_size
        rate = f"{count(n_rows / found.seconds)} rows/s"
        rows.append(
            ("time", duration(found.seconds), f"{least}: {counted(found.steps, 'step')}, {rate}")
        )
    return rows


def _settings(found: "TrainingEstimate") -> list[tuple[str, str, str]]:
    """Batch size, rate and dead window, and whether they were given."""
    rows = (
        ("batch_size", "batch", f"{found.batch_size:,}", "rows of one update"),
        ("lr", "rate", f"{found.lr:g}", "Adam's learning rate at its highest"),
        (
            "dead_after_tokens",
            "dead after",
            f"{found.dead_after_tokens:,}",
            "rows without firing",
        ),
    )
    return [
        (shown, value, meant + (", by the rule" if name in found.derived_settings else ""))
        for name, shown, value, meant in rows
    ]


def _parts(found: "TrainingEstimate") -> list[tuple[str, str, str]]:
    """The parts of the memory, the largest first."""
    parts = sorted(found.memory.items(), key=lambda part: -part[1])
    return [(f"  {name}".replace("_", " "), size(n), _MEANT[name]) for name, n in parts if n]
