"""The verb `steer calibrate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..steering.evaluation.calibrate_config import CalibrateConfig
from .console import Report, Terminal, headed_grid

if TYPE_CHECKING:
    from rich.console import RenderableType


def run(config: CalibrateConfig, terminal: Terminal) -> Report:
    """Find the strength at which an intervention has a cost, such as a KL of 0.5 nats.

    INTERVENTION is the folder of a fit, of `Intervention.save`, or a JSON file. Give the cost:
    --kl, --perplexity with --neutral texts, --continuation-perplexity or --repetition. Three to
    five strengths are usually tried. With --out the intervention is written at that strength, with
    a page that draws what was tried.
    """
    from ..app.report.calibration_page import (
        cost_axis,
        measured_on,
        shown_cost,
        write_calibration,
    )
    from ..steering.evaluation.calibrated import calibrate_intervention

    values: dict[str, Any] = calibrate_intervention(config, say=terminal.say)
    grid = headed_grid(">strength", f">{cost_axis(values)}")
    for each in sorted(values["evaluations"], key=lambda each: each["strength"]):
        grid.add_row(f"{each['strength']:.4g}", shown_cost(values, each["cost"]))
    shown: list[RenderableType] = [
        f"strength {values['strength']:.4g} has the cost {shown_cost(values, values['cost'])}; "
        f"{shown_cost(values, config.budget.target)} was wanted",
        grid,
        measured_on(values),
    ]
    if config.out is None:
        shown.append("nothing is written; give --out DIR for the intervention at this strength")
    else:
        written = write_calibration(values, Path(config.out))
        values["written"] = [str(path) for path in written]
        shown += [f"written: {path}" for path in (config.out, *written)]
    return Report(values=values, shown=shown, warnings=_warnings(values))


def _warnings(values: dict[str, Any]) -> list[str]:
    if values["met"]:
        return []
    return [
        "the wanted cost is not met: this strength comes nearest of those that were tried; give "
        "another --start, more --evaluations, or a cost that can be reached"
    ]
