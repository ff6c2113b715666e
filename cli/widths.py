"""The verb `detox widths`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..steering.widths.config import WidthsConfig
from .console import Report, Terminal, headed_grid

if TYPE_CHECKING:
    from rich.console import RenderableType


def run(config: WidthsConfig, terminal: Terminal) -> Report:
    """Compare steering with the latents of several dictionaries, such as a grid of widths.

    RUNS are folders of runs of one site, or a folder that holds them. In each, the best latent and
    the best group are chosen as `features find` does, and a study measures steering with them and
    along the group's mean direction, at one cost. How many latents share the concept's direction
    says how far it is split.
    """
    from ..app.report.files import has_matplotlib, require_page_replaceable
    from ..app.report.widths_page import PAGE_FILE, write_widths_page
    from ..steering.widths.runner import run_widths

    require_page_replaceable(Path(config.out) / PAGE_FILE)
    with terminal.progress("writing", "continuations") as update:
        result = run_widths(
            config,
            say=terminal.say,
            progress=lambda setting, done, total: update(done, total, setting),
        )
    plots = has_matplotlib()
    if not plots:
        terminal.say("the page has no plots without matplotlib; pip install 'sparsteer[plots]'")
    return report_of(result, write_widths_page(result, with_plots=plots))


def report_of(result: Mapping[str, Any], page: Path) -> Report:
    """What is shown of the result of `run_widths`, whose page was written."""
    return Report(
        values={**result, "page": str(page)},
        shown=[*_tables(result), f"written: {page}"],
        warnings=list(_warnings(result)),
    )


def _tables(result: Mapping[str, Any]) -> "list[RenderableType]":
    from ..app.report.widths_page import (
        SPLITTING_HEADINGS,
        about_reference,
        splitting_rows,
        steering_headings,
        steering_rows,
    )

    shown: list[RenderableType] = [
        f"latents with a cosine of at least {result['least_cosine']:g} share a direction; "
        f"{about_reference(result)}, and cosines are with the difference of means:",
        _grid(SPLITTING_HEADINGS, splitting_rows(result)),
    ]
    for cost in result["costs"]:
        for tier in result["tiers"]:
            shown += [
                f"expected maximum scores at {cost}, {tier}:",
                _grid(steering_headings(result), steering_rows(result, cost, tier)),
            ]
    return shown


def _grid(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> "RenderableType":
    words = (headings[0], "steered with")
    grid = headed_grid(*(each if each in words else f">{each}" for each in headings))
    for row in rows:
        grid.add_row(*row)
    return grid


def _warnings(result: Mapping[str, Any]) -> Sequence[str]:
    failed = [
        f"{run['name']}: left out: {one['name']}: {one['why']}"
        for run in result["runs"]
        for one in run["failed"]
    ]
    missed = [
        f"{run['name']}: the strength of {row['name']} misses its cost (*)"
        for run in result["runs"]
        for row in run["rows"]
        if not row["reached"]
    ]
    return [*failed, *missed]
