"""The plots of a study of steering: fronts of score against cost, and how strengths were chosen."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...steering.study.arm import Cost
from ...steering.study.fronts import AXES
from .plots import PAPER, Drawing, Palette, Plot, PlotStyle, styles
from .study_rows import IN_NATS, shown_cost

_COLUMNS = 2
_WIDEST_IN_COLUMNS = 24


def arm_styles(result: Mapping[str, Any]) -> dict[str, PlotStyle]:
    """A look for each way to steer, the same in every plot; random ones have one a method."""
    names = dict.fromkeys(
        row["method"] if row["family"] == "random" else row["arm"]
        for row in result["rows"]
        if row["family"] != "none"
    )
    return dict(zip(names, styles(list(names)), strict=True))


def study_fronts(
    result: Mapping[str, Any], palette: Palette = PAPER
) -> Iterator[tuple[Drawing, str]]:
    """The fronts of what `run_study` found, each with what to see in it."""
    looks = arm_styles(result)
    for front in result["fronts"]:
        axis, scorer = AXES[front["axis"]], front["scorer"]
        drawing = _front(f"{scorer} against {axis}", axis, scorer, front["points"], looks, palette)
        yield (
            drawing,
            f"Expected maximum score by {scorer} against {axis}; lower left is better. A line "
            "joins the strengths of one way to steer; the broad one is the front, which no other "
            "point beats. The dotted level is the unsteered model.",
        )


def calibration_sweeps(
    result: Mapping[str, Any], palette: Palette = PAPER
) -> Iterator[tuple[Drawing, str]]:
    """For each cost what each strength that was tried did cost; random ways are left out."""
    looks = arm_styles(result)
    for cost in result["costs"]:
        lines: list[tuple[PlotStyle, list[tuple[float, float]]]] = []
        for row in result["rows"]:
            tried = result["calibration"].get(row["name"])
            if row["cost"] != cost or row["family"] == "random" or not tried:
                continue
            points = sorted(
                (each["strength"], each["dose"])
                for each in tried["evaluations"]
                if each["dose"] and each["strength"] > 0
            )
            if points:
                lines.append((looks[row["arm"]], points))
        if lines:
            yield _sweep(cost, lines, palette)


def _front(
    title: str,
    axis: str,
    scorer: str,
    points: Sequence[Mapping[str, Any]],
    looks: Mapping[str, PlotStyle],
    palette: Palette,
) -> Drawing:
    with Plot(title, palette, height=3.4) as plot:
        best = sorted((one["x"], one["y"]) for one in points if one["on_front"])
        plot.axes.plot(
            [x for x, _ in best],
            [y for _, y in best],
            color=palette.neutral,
            linewidth=5,
            alpha=0.3,
            solid_capstyle="round",
            drawstyle="steps-post",
        )
        for base in (one for one in points if one["family"] == "none"):
            plot.axes.axhline(base["y"], color=palette.neutral, linewidth=1, linestyle="dotted")
            plot.axes.plot([base["x"]], [base["y"]], "*", color=palette.neutral, markersize=9)
            plot.note("unsteered", base["x"], base["y"], xytext=(4, 4))
        for name, look in looks.items():
            own = sorted((one["x"], one["y"]) for one in points if one["arm"] == name)
            if own:
                plot.marked_line(look, own)
        plot.axes.margins(x=0.08, y=0.08)
        plot.label(axis, f"expected maximum, {scorer}")
        plot.legend_below(_columns(looks))
    return plot.drawing


def _sweep(
    cost: str, lines: Sequence[tuple[PlotStyle, list[tuple[float, float]]]], palette: Palette
) -> tuple[Drawing, str]:
    wanted = shown_cost(cost)
    with Plot(f"Cost against strength, for {wanted}", palette, height=3.4) as plot:
        for look, points in lines:
            plot.marked_line(look, points)
        plot.axes.axhline(
            Cost.of(cost).target, color=palette.neutral, linewidth=1, linestyle="dotted"
        )
        plot.axes.set_xscale("log")
        plot.axes.set_yscale("log")
        plot.axes.margins(0.08)
        plot.plain_log_ticks(plot.axes.xaxis)
        plot.plain_log_ticks(plot.axes.yaxis)
        unit = "nats" if Cost.of(cost).kind in IN_NATS else "fraction"
        plot.label("strength (in each way's own unit)", f"cost ({unit})")
        plot.legend_below(_columns([look.name for look, _ in lines]))
    return plot.drawing, (
        f"How strengths were chosen for {wanted}, the dotted level, on texts that are not reported "
        "on. Each mark is one strength that was tried."
    )


def _columns(names: Sequence[str] | Mapping[str, Any]) -> int:
    return _COLUMNS if max(map(len, names)) <= _WIDEST_IN_COLUMNS else 1
