"""The verb `train`."""

from collections.abc import Mapping
from pathlib import Path

from ..training.config import TrainConfig
from .console import READ_FVU, Report, Terminal, Update, count, duration, next_command, share, table


def run(config: TrainConfig, terminal: Terminal) -> Report:
    """Train a sparse autoencoder on an activation cache.

    The same command again goes on from the last checkpoint of an interrupted run, and ends with the
    very weights of one that was not interrupted.
    """
    from ..training.train import train

    with terminal.progress("training", "rows") as update:
        summary = train(config, report=_Figures(update).report, say=terminal.say)
    held_out = summary["held_out"]
    silent_on = count(held_out["rows"])
    sae = Path(config.out) / "sae"
    rows = (
        ("FVU", f"{held_out['fvu']:.4f}", READ_FVU),
        ("L0", f"{held_out['l0']:.1f}", "latents active on a row, on average"),
        ("dead", share(held_out["dead_share"]), f"latents silent on {silent_on} rows"),
        ("speed", count(summary["tokens_per_second"]), "tokens (rows) trained on in a second"),
        ("time", duration(summary["seconds"]), f"for {count(summary['tokens'])} tokens"),
    )
    shown = (
        f"trained a {summary['activation']} autoencoder of {count(summary['n_latents'])} latents; "
        "on held-out rows:",
        table(*rows),
        f"it lies in {sae}",
        next_command("eval", str(sae), "--cache", config.cache),
    )
    return Report(values={**summary, "sae": str(sae)}, shown=shown)


class _Figures:
    """Turns the trainer's figures into progress in rows, the held-out ones kept until the next."""

    def __init__(self, update: Update) -> None:
        self._update = update
        self._held_out = ""

    def report(self, done: int, total: int, figures: Mapping[str, int | float]) -> None:
        if "held_out_fvu" in figures:
            self._held_out = f", held-out {figures['held_out_fvu']:.3f}"
            return
        text = (
            f"FVU {figures['fvu']:.3f}, L0 {figures['l0']:.1f}, dead {share(figures['dead_share'])}"
        )
        rows = round(figures["tokens"])
        self._update(rows, rows * total // done, text + self._held_out)
