"""Fronts: a measure of several autoencoders against their L0, each kind one line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...sae.common.wording import count
from .plots import PAPER, Drawing, Palette, Plot, styles

FVU_AXIS = "FVU (fraction of variance missed)"
RECOVERED_AXIS = "loss recovered (fraction)"


@dataclass(frozen=True, kw_only=True)
class Point:
    """One autoencoder in the plane of L0 and a measure."""

    family: str
    """Points of one kind of autoencoder are joined, from the smallest L0 to the largest."""
    l0: float
    value: float
    error: float | None = None
    """Half the length of its bar: a standard error."""


def front(
    title: str, axis: str, points: Sequence[Point], palette: Palette = PAPER
) -> Drawing | None:
    """The measure against L0, on a logarithmic axis; None where fewer than two points can be shown.

    Args:
        title: what the plot shows, in words.
        axis: what the measure is, with its unit.
        points: autoencoders; those without any active latent are left out.
    """
    shown = [point for point in points if point.l0 > 0]
    if len(shown) < 2:
        return None
    families = list(dict.fromkeys(point.family for point in shown))
    with Plot(title, palette) as plot:
        for look, family in zip(styles(families), families, strict=True):
            own = sorted((p for p in shown if p.family == family), key=lambda p: p.l0)
            plot.axes.errorbar(
                [point.l0 for point in own],
                [point.value for point in own],
                yerr=[point.error or 0.0 for point in own],
                color=look.color,
                linestyle=look.dashes,
                linewidth=1.2,
                marker=look.marker,
                markersize=6,
                capsize=2,
                label=look.shown,
            )
        plot.axes.set_xscale("log")
        plot.axes.margins(x=0.1, y=0.1)
        plot.plain_log_ticks(plot.axes.xaxis)
        plot.label("L0 (latents active per row)", axis)
        plot.legend_below()
    return plot.drawing


def fronts_of(results: Sequence[Mapping[str, Any]], palette: Palette = PAPER) -> dict[str, Drawing]:
    """The fronts of FVU and, where the language model was run, of the loss recovered, by `fvu` and
    `recovered`, of what `evaluate_all` found."""
    fvu = [
        Point(
            family=family_of(one),
            l0=one["l0"],
            value=one["fvu"],
            error=one.get("fvu_standard_error"),
        )
        for one in results
    ]
    recovered = [
        Point(
            family=family_of(one),
            l0=one["l0"],
            value=losses["loss_recovered"],
            error=losses["loss_recovered_standard_error"],
        )
        for one in results
        if (losses := one.get("language_model")) and losses["loss_recovered"] is not None
    ]
    drawn = {
        "fvu": front("FVU against L0", FVU_AXIS, fvu, palette),
        "recovered": front("Loss recovered against L0", RECOVERED_AXIS, recovered, palette),
    }
    return {name: drawing for name, drawing in drawn.items() if drawing is not None}


def family_of(one: Mapping[str, Any]) -> str:
    """What joins autoencoders to one line of a front: the kind of baseline, or activation, width
    and whether it is nested."""
    if one.get("baseline"):
        return str(one["baseline"])
    nested = " nested" if one.get("prefixes") else ""
    return f"{one['activation']}{nested}, {count(one['n_latents'])} latents"
