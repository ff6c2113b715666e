"""The strengths that a calibration tried, drawn and as a page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...sae.common.wording import count, counted
from .files import has_matplotlib, write_page
from .inline import PAGE, for_page
from .markup import Child, Html, table, tag
from .page import figure, page
from .plots import PAPER, Drawing, Palette, Plot

PAGE_FILE = "calibration.html"
DRAWING_FILE = "calibration.svg"

_COSTS = {
    "kl": "KL(steered || unsteered), nats",
    "perplexity": "rise of the perplexity of neutral text",
    "continuation_perplexity": "rise of the perplexity of what is written",
    "repetition": "rise of the repetition in what is written",
}


def cost_axis(result: Mapping[str, Any]) -> str:
    """What the cost of a calibration is, with its unit."""
    statistic = result["measured_on"].get("statistic")
    over = {"p95": " (95th percentile over tokens)", "mean": " (mean over tokens)"}
    return _COSTS[result["budget"]["kind"]] + over.get(statistic, "")


def shown_cost(result: Mapping[str, Any], cost: float | None) -> str:
    """A cost as a person reads it; None is a broken model."""
    if cost is None:
        return "the model broke"
    return f"{cost:.4g}" if result["budget"]["kind"] == "kl" else f"{100 * cost:.3g}%"


def calibration_drawing(result: Mapping[str, Any], palette: Palette = PAPER) -> Drawing | None:
    """Cost against strength, both axes logarithmic, with the wanted cost as a band as wide as the
    tolerance; None where no strength has a cost above 0.

    Args:
        result: what `calibrate_intervention` gives.
        palette: the colors.
    """
    tried = sorted(result["evaluations"], key=lambda each: abs(each["strength"]))
    points = [(abs(e["strength"]), e["cost"]) for e in tried if e["cost"]]
    broken = [abs(each["strength"]) for each in tried if each["cost"] is None]
    if not points:
        return None
    target, within = result["budget"]["target"], 1 + result["tolerance"]
    with Plot("Cost against strength, both on logarithmic axes", palette) as plot:
        plot.axes.axhspan(
            target / within, target * within, color=palette.neutral, alpha=0.25, linewidth=0
        )
        look = {"color": "#0072b2", "linewidth": 1.2, "marker": "o", "markersize": 5}
        plot.axes.plot(*zip(*points, strict=True), **look)
        chosen = (abs(result["strength"]), result["cost"])
        plot.axes.plot(*([value] for value in chosen), "D", color="#d55e00", markersize=8)
        plot.note(f"{result['strength']:.3g}", *chosen, xytext=(7, -9))
        for strength in broken:
            plot.axes.axvline(strength, color="#d55e00", linewidth=1, linestyle="dotted")
        plot.axes.set_xscale("log")
        plot.axes.set_yscale("log")
        plot.axes.margins(x=0.15, y=0.15)
        for axis in (plot.axes.xaxis, plot.axes.yaxis):
            plot.plain_log_ticks(axis)
        sign = "minus the strength" if result["strength"] < 0 else "strength"
        plot.label(f"{sign} (multiple of the intervention's own)", cost_axis(result))
    return plot.drawing


def calibration_page(result: Mapping[str, Any], drawing: Drawing | None) -> str:
    """The text of the page.

    Args:
        result: what `calibrate_intervention` gives.
        drawing: the costs, drawn for a page.
    """
    budget = result["budget"]
    wanted = shown_cost(result, budget["target"])
    outcome = (
        f"At {result['strength']:.4g} times its own strength the intervention "
        f"{result['intervention']} has the cost {shown_cost(result, result['cost'])}; "
        f"{wanted} was wanted."
    )
    if not result["met"]:
        outcome += " That is not met: no strength that was tried comes nearer."
    what = "The shaded band is what is near enough, the diamond what was chosen"
    what += "; at a dotted line the model broke."
    rows: list[list[Child]] = [
        [f"{each['strength']:.4g}", shown_cost(result, each["cost"])]
        for each in result["evaluations"]
    ]
    sections: list[Html] = [
        tag("h1", "Strength of an intervention"),
        tag("p", outcome),
        *([figure(for_page(drawing), what)] if drawing is not None else []),
        tag("h2", "What was tried, in this order"),
        table(["Strength", cost_axis(result)], rows, class_="plain"),
        tag("p", measured_on(result)),
    ]
    return page("Strength of an intervention", sections)


def measured_on(result: Mapping[str, Any]) -> str:
    """In a sentence, what the cost was measured on."""
    about = result["measured_on"]
    if result["budget"]["kind"] == "perplexity":
        return (
            f"Measured on {counted(about['texts'], 'neutral text')} of {about['file']}, of each at "
            f"most {counted(about['max_length'], 'token')}."
        )
    prompts = "RealToxicityPrompts" if about["file"] is None else about["file"]
    return (
        f"Measured on {counted(about['continuations'], 'continuation')} of at most "
        f"{counted(about['max_new_tokens'], 'token')} after each of {count(about['texts'])} "
        f"prompts of {prompts}, at temperature {about['temperature']:g} and top-p "
        f"{about['top_p']:g}, from seed {about['seed']} on."
    )


def write_calibration(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the page and, where matplotlib is installed, the drawing into a folder; their paths."""
    if not has_matplotlib():
        return [write_page(folder / PAGE_FILE, calibration_page(result, None))]
    paper, inline = calibration_drawing(result), calibration_drawing(result, PAGE)
    written = [write_page(folder / PAGE_FILE, calibration_page(result, inline))]
    if paper is not None:
        written.append(write_page(folder / DRAWING_FILE, paper.svg))
    return written
