"""The verb `eval`."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..app.report.measures import fvu, held_out, measures, place, places
from ..sae.common.errors import InputError
from ..sae.common.paths import FilePath
from ..sae.common.wording import count, counted, percent
from ..steering.suite.config import SuiteSettings
from ..training.evaluation.config import EvalSettings
from .console import Report, Terminal, table

if TYPE_CHECKING:
    from rich.console import RenderableType

_BARS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """What to measure, and how."""

    sae: tuple[FilePath, ...]
    """Folders of autoencoders, or of the runs that trained them; several share the work."""

    settings: EvalSettings
    """How they are measured."""

    plots: bool = False
    """Write a page, report.html, into each run, its training curves, firing rates and norms as SVG
    into plots/, and of several runs a page that compares them into the folder that holds them or
    their folders."""

    force: bool = False
    """With plots or suite: replace files of these names that sparsteer did not make."""

    suite: bool = False
    """Measure with every part of the suite, baselines beside the autoencoders, and write results
    and a page into a folder, from which the same command goes on after an interruption."""

    suite_settings: SuiteSettings = field(default_factory=SuiteSettings)
    """What the suite measures."""

    def __post_init__(self) -> None:
        if self.suite and self.plots:
            raise InputError(
                "plots is given with suite, whose page has its own; leave it out", field="plots"
            )
        if self.suite:
            return
        for option in fields(SuiteSettings):
            if getattr(self.suite_settings, option.name) != option.default:
                raise InputError(
                    f"{option.name} is given without suite, which alone takes it; add --suite",
                    field=option.name,
                )


def run(options: EvalOptions, terminal: Terminal) -> Report:
    """Measure sparse autoencoders on the held-out part of an activation cache.

    SAE is the folder of an autoencoder, or of the run that trained it.
    """
    from ..app.report.files import require_matplotlib, require_no_other, write_plots
    from ..training.evaluation.evaluation import evaluate_all

    if options.suite:
        return _suite(options, terminal)
    if options.plots:
        require_matplotlib()
        require_no_other(options.sae, force=options.force)
    with terminal.progress("measuring", "tokens") as update:
        results = evaluate_all(
            options.sae,
            options.settings,
            say=terminal.say,
            progress=lambda done, total: update(done, total, ""),
        )
    paths = [str(path) for path in write_plots(results)] if options.plots else []
    shown = _one(results[0]) if len(results) == 1 else _several(results)
    values = results[0] if len(results) == 1 else {"evaluations": results}
    if options.plots:
        values = {**values, "plots": paths}
    return Report(
        values=values,
        shown=[*shown, *(f"written: {path}" for path in paths)],
        warnings=[f"{result['sae']}: {text}" for result in results for text in result["warnings"]],
    )


def _suite(options: EvalOptions, terminal: Terminal) -> Report:
    """Measure with the suite, and write its page."""
    from ..app.report.files import has_matplotlib, require_page_replaceable
    from ..app.report.suite_page import PAGE_FILE, write_suite_page
    from ..steering.suite.runner import run_suite, suite_folder
    from .suite_table import suite_table

    suite = options.suite_settings
    require_page_replaceable(
        suite_folder(options.sae, suite) / PAGE_FILE,
        force=options.force,
        remedy="give --force to replace it",
    )
    try:
        with terminal.progress("measuring", "units") as update:
            result = run_suite(
                options.sae,
                options.settings,
                suite,
                say=terminal.say,
                progress=lambda part, done, total: update(done, total, part),
            )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            "interrupted; the same command goes on with the part that was not finished"
        ) from None
    drawn = has_matplotlib()
    if not drawn:
        terminal.say("the page has no plots without matplotlib; pip install 'sparsteer[plots]'")
    page = write_suite_page(result, with_plots=drawn)
    readings = [about["reading"] for about in result["parts"].values()]
    return Report(
        values={**result, "page": str(page)},
        shown=[
            suite_table(result),
            "",
            "after ± stands the standard error; of several seeds, the standard deviation over them",
            *readings,
            f"written: {page}",
        ],
        warnings=list(
            dict.fromkeys(
                f"{one['name']}: {text}"
                for one in result["autoencoders"]
                if one["baseline"] is None
                for part in one["parts"].values()
                for text in part["warnings"]
            )
        ),
    )


def _one(result: dict[str, Any]) -> "Sequence[RenderableType]":
    return (
        f"{result['sae']} {place(result)}, on {held_out(result)}:",
        table(*measures(result)),
        "the figure after ± is the standard error, over documents or contexts",
        *_density_lines(result["density_histogram"]),
    )


def _several(results: Sequence[dict[str, Any]]) -> "Sequence[RenderableType]":
    """A line for each autoencoder."""
    from rich.table import Table

    from ..training.run_places import short_names

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    grid.add_column("autoencoder", overflow="fold")
    for heading in ("FVU", "L0", "dead", "overlap", "loss", "recovered", "KL"):
        grid.add_column(heading, justify="right", no_wrap=True)
    names = short_names([Path(result["sae"]) for result in results])
    for name, result in zip(names, results, strict=True):
        losses = result["language_model"]
        grid.add_row(
            name,
            fvu(result),
            f"{result['l0']:.1f}",
            percent(result["dead_fraction"]),
            f"{result['decoder_overlap']:.4f}",
            *(
                ("", "", "")
                if losses is None
                else (
                    f"{losses['loss_with_sae']:.3f}",
                    percent(losses["loss_recovered"]),
                    f"{losses['kl_with_sae']:.3f}",
                )
            ),
        )
    one = results[0]
    lines: list[RenderableType] = [f"on {held_out(one)}:", grid]
    if standing := places(results):
        lines.append("only those that stand at the same place compare:")
        lines += [f"  {name} {where}" for name, where in zip(names, standing, strict=True)]
    if losses := one["language_model"]:
        lines.append(
            f"the model's own loss is {losses['loss']:.3f} nats a token over "
            f"{counted(losses['tokens'], 'token')}; KL is from its own predictions, in nats"
        )
    return lines


def _density_lines(histogram: dict[str, Any]) -> tuple[str, str]:
    edges, latents = histogram["log10_edges"], histogram["latents"]
    most = max(1, *latents)
    bars = "".join(_BARS[-(-number * (len(_BARS) - 1) // most)] for number in latents)
    return (
        f"density: |{bars}|",
        f"latents by the fraction of rows they fire on, from 1e{edges[0]:.0f} to 1 on a log scale "
        f"(highest bar {count(most)}); {count(histogram['dead'])} never fired",
    )
