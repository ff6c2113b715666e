"""The verb `train`."""

import dataclasses
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..app.report.measures import READ_FVU
from ..sae.common.errors import InputError
from ..sae.common.wording import count, counted, duration, percent
from ..training.config import TrainConfig
from ..training.data.corpus_config import CorpusConfig
from ..training.l0_rule import L0Rule, parse_l0, require_l0_for, with_number
from .console import Report, Terminal, Update, next_command, table
from .dry_runs import require_dry_run
from .training_estimate import estimate
from .training_process import training_process


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What to train: one autoencoder, or one for each choice of a grid."""

    train: TrainConfig
    """The autoencoder."""

    l0: str | None = None
    """Latents of a row, as the activation's k or as its target L0: a number, or how to find one
    before training. ppl:1%: the fewest with which perplexity is 1% above that of all 256 latents of
    a pilot that is trained briefly. cosine: of a few pilots the one whose decoder rows overlap
    least. Needs a cache; pilots lie in the folder OUT-l0."""

    grid: tuple[str, ...] = ()
    """Settings that vary, such as `k=32,64 seed=0,1`: one autoencoder for each choice, all on the
    same batches, each in a run folder of its own in --out."""

    dry_run: bool = False
    """Say what the run will take in memory, disk and time, and train nothing. On a CPU a few steps
    are tried; for a GPU time is predicted."""

    gpu: str | None = None
    """With --dry-run: a GPU to predict for, such as h100, a100, rtx-4090 or l4, which need not be
    here. Default: what --device is."""

    def __post_init__(self) -> None:
        require_dry_run(self.gpu, dry_run=self.dry_run)
        if self.l0 is not None:
            self._require_l0(parse_l0(self.l0))
        if self.dry_run and self.grid:
            raise InputError(
                "grid is given, but a dry run is of one autoencoder; leave one of them out",
                field="grid",
            )

    def _require_l0(self, rule: L0Rule) -> None:
        require_l0_for(self.train, rule)
        if self.grid:
            raise InputError(
                f"l0 is {rule}, but a grid is given, which can vary k; leave one of them out",
                field="l0",
            )
        if self.dry_run and rule.measures:
            raise InputError(
                f"l0 is {rule}, which trains to find a number, but a dry run trains nothing; give "
                "a number",
                field="l0",
            )


def run(options: TrainOptions, terminal: Terminal) -> Report:
    """Train a sparse autoencoder, or several at once, on activations.

    They come from a cache or, with a model and a dataset in its place, straight from the language
    model. The same command again goes on from the last checkpoint of an interrupted run, and ends
    with the very weights of one that was not interrupted.
    """
    if options.l0 is not None and (number := parse_l0(options.l0).number) is not None:
        options = dataclasses.replace(options, train=with_number(options.train, number), l0=None)
    if options.dry_run:
        return estimate(options, terminal)
    return (_grid if options.grid else _one)(options, terminal)


def _one(options: TrainOptions, terminal: Terminal) -> Report:
    from ..training.chosen_l0 import with_l0
    from ..training.train import train

    config = options.train
    found: dict[str, Any] = {}
    with training_process(config.trainer.device) as stop:
        if options.l0 is not None:
            config, found["chosen_l0"] = with_l0(
                config, parse_l0(options.l0), say=terminal.say, stop=stop
            )
        with terminal.progress("training", "rows") as update:
            summary = train(config, report=_Figures(update).report, say=terminal.say, stop=stop)
    held_out = summary["held_out"]
    silent_on = counted(held_out["rows"], "row")
    sae = Path(config.out) / "sae"
    rows = (
        ("FVU", f"{held_out['fvu']:.4f}", READ_FVU),
        ("L0", f"{held_out['l0']:.1f}", "latents active on a row, on average"),
        ("dead", percent(held_out["dead_fraction"]), f"latents silent on {silent_on}"),
        ("speed", count(summary["tokens_per_second"]), "tokens (rows) trained on in a second"),
        (
            "time",
            duration(summary["seconds"]),
            f"of the updates on {counted(summary['tokens'], 'token')}",
        ),
    )
    kind = "autoencoder" if config.target_site is None else "transcoder"
    shown = (
        f"trained a {summary['activation']} {kind} of {counted(summary['n_latents'], 'latent')}; "
        "on held-out rows:",
        table(*rows),
        f"it is in {sae}",
        *_what_next(config, config.out, shlex.quote(str(sae))),
    )
    return Report(
        values={**summary, "sae": str(sae), **found},
        shown=shown,
        warnings=summary.get("warnings", ()),
    )


def _grid(options: TrainOptions, terminal: Terminal) -> Report:
    from ..training.grid import grid_configs, parse_grid
    from ..training.train import train_grid

    config = options.train
    configs = grid_configs(config, parse_grid(options.grid))
    title = f"training {counted(len(configs), 'autoencoder')}"
    with (
        training_process(config.trainer.device) as stop,
        terminal.progress(title, "rows") as update,
    ):
        report = _GridFigures(update).report
        summaries = train_grid(configs, report=report, say=terminal.say, stop=stop)
    trained = [summary for summary in summaries if "failed" not in summary]
    rows = config.trainer.n_steps * config.trainer.rows_per_step
    shown = [
        f"trained {len(trained)} of {counted(len(configs), 'autoencoder')} on the same "
        f"{counted(rows, 'row')}; on held-out rows:",
        table(*(_grid_row(summary) for summary in summaries)),
    ]
    if trained:
        shown += _what_next(config, trained[0]["run"], f"{shlex.quote(config.out)}/*/")
    values = {"out": config.out, "runs": summaries}
    warnings = [f"{s['run']}: {text}" for s in trained for text in s.get("warnings", ())]
    failed = len(configs) - len(trained)
    error = (
        f"{counted(failed, 'autoencoder')} of {len(configs)} failed; the reasons stand beside them"
    )
    return Report(
        values=values, shown=shown, status=1 if failed else 0, warnings=warnings, error=error
    )


def _grid_row(summary: Mapping[str, Any]) -> tuple[str, str, str]:
    name = Path(summary["run"]).name
    if "failed" in summary:
        return name, "failed", summary["failed"]
    held_out = summary["held_out"]
    rest = f"L0 {held_out['l0']:.1f}, dead {percent(held_out['dead_fraction'])}"
    return name, f"FVU {held_out['fvu']:.4f}", rest


def _what_next(config: TrainConfig, run: str, saes: str) -> list[str]:
    """The commands that evaluate; after a stream the first makes a cache with held-out rows, in the
    dtypes that the run came to."""
    from ..training.run import RunFolder

    if config.cache is not None:
        return [f"next: sparsteer eval {saes} --cache {shlex.quote(config.cache)}"]
    found = RunFolder(run).settings()["stream"]
    dtypes = {"model_dtype": found["model_dtype"], "dtype": found["dtype"]}
    stream = dataclasses.replace(config.stream, **dtypes)
    words = ["--model", str(stream.model), "--dataset", str(stream.dataset)]
    if config.site is not None:
        words += ["--site", config.site]
    for field in dataclasses.fields(CorpusConfig):
        value = getattr(stream, field.name)
        if value != field.default:
            flag = f"--{field.name.replace('_', '-')}"
            words += [flag] if value is True else [flag, str(value)]
    rows = round(config.trainer.eval_rows / stream.held_out_fraction)
    return [
        next_command("cache", *words, "--tokens", str(rows), "--out", "CACHE"),
        f"then: sparsteer eval {saes} --cache CACHE",
    ]


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
            f"FVU {figures['fvu']:.3f}, L0 {figures['l0']:.1f}, "
            f"dead {percent(figures['dead_fraction'])}"
        )
        rows = round(figures["tokens"])
        self._update(rows, rows * total // done, text + self._held_out)


class _GridFigures:
    """Turns the figures of several trainers into one progress, with the range of their FVU."""

    def __init__(self, update: Update) -> None:
        self._update = update
        self._fvu: dict[str, float] = {}
        self._rows: dict[str, int] = {}

    def report(self, name: str, done: int, total: int, figures: Mapping[str, int | float]) -> None:
        if "held_out_fvu" in figures:
            return
        self._fvu[name] = figures["fvu"]
        self._rows[name] = round(figures["tokens"])
        behind = min(self._rows.values())
        text = f"FVU {min(self._fvu.values()):.3f} to {max(self._fvu.values()):.3f}"
        self._update(behind, self._rows[name] * total // done, text)
