"""Plots of autoencoders as SVG: training curves, firing rates, norms, L0 against FVU, bars.

matplotlib is imported when the first plot is drawn.
"""

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, cast

from .page import GENERATOR


@dataclass(frozen=True)
class Drawing:
    """A finished plot."""

    label: str
    """What it shows, in words."""
    svg: str
    figure: Any = field(compare=False, repr=False)
    """matplotlib's own, from which `png` draws."""

    def png(self) -> bytes:
        """The same as a picture of dots, for a page that shows no SVG; the same bytes each time."""
        target = io.BytesIO()
        self.figure.savefig(target, format="png", dpi=_DOTS_PER_INCH, metadata={"Software": None})
        return target.getvalue()


@dataclass(frozen=True, kw_only=True)
class Palette:
    """The colors of everything that belongs to no autoencoder."""

    text: str
    faint: str
    """Lines of the grid."""
    neutral: str
    """References and shaded ranges."""
    background: str | None = None
    """None is transparent."""


PAPER = Palette(text="#222222", faint="#dddddd", neutral="#888888", background="#ffffff")
"""For a file that is looked at by itself."""

_DOTS_PER_INCH = 130

_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#666666")
_MARKERS = ("o", "D", "s", "^", "v", "P", "X")
_MOST_LETTERS = 36  # of a line, beside a legend's mark and what it says after the name
_DASHES = ("solid", (0, (5, 2)), (0, (1, 1.5)))


@dataclass(frozen=True, kw_only=True)
class PlotStyle:
    """How one autoencoder is drawn."""

    name: str
    color: str
    dashes: Any = "solid"
    """As matplotlib's `linestyle`."""
    marker: str = "o"

    @property
    def shown(self) -> str:
        """The name for matplotlib, to which $ begins a formula and _ a label to leave out; a long
        one in several lines."""
        name = "\n".join(textwrap.wrap(self.name, _MOST_LETTERS)).replace("$", r"\$")
        return f"\u200b{name}" if name.startswith("_") else name


def styles(names: Sequence[str]) -> list[PlotStyle]:
    """Looks that differ, also without colors, for up to 21 autoencoders.

    What cannot be printed in a name becomes U+FFFD, since a drawing could not hold it.
    """
    return [
        PlotStyle(
            name="".join(c if c.isprintable() else "\ufffd" for c in name),
            color=_COLORS[i % len(_COLORS)],
            marker=_MARKERS[i % len(_MARKERS)],
            dashes=_DASHES[i // len(_COLORS) % len(_DASHES)],
        )
        for i, name in enumerate(names)
    ]


Points = Sequence[Mapping[str, float | int]]
"""The logged steps of an autoencoder: tokens, fvu, l0, and where it was measured held_out_fvu."""

Curves = Sequence[tuple[PlotStyle, Points]]


def fvu_curves(curves: Curves, palette: Palette = PAPER) -> Drawing:
    """FVU of the training batches, and of held-out rows, over the rows trained on."""
    with Plot("FVU while training, over thousands of rows trained on", palette) as plot:
        for style, points in curves:
            plot.line(style, [p["tokens"] / 1e3 for p in points], [p["fvu"] for p in points])
            held_out = [p for p in points if "held_out_fvu" in p]
            plot.axes.plot(
                [p["tokens"] / 1e3 for p in held_out],
                [p["held_out_fvu"] for p in held_out],
                linestyle="none",
                marker="o",
                markersize=4,
                color=style.color,
                label=f"{style.shown}, held out",
            )
        seen = [p["fvu"] for _, points in curves for p in points[1:]]
        plot.axes.set_ylim(0, max([1.0, *seen]) * 1.02)
        plot.label("rows trained on (thousands)", "FVU (fraction of variance missed)")
        plot.axes.legend()
    return plot.drawing


def l0_curves(curves: Curves, d_model: int, palette: Palette = PAPER) -> Drawing:
    """Active latents per row over the rows trained on, with the width of the activations."""
    with Plot("L0 while training, over thousands of rows trained on", palette) as plot:
        plot.axes.axhline(d_model, color=palette.neutral, linewidth=1, linestyle="dotted")
        for style, points in curves:
            plot.line(style, [p["tokens"] / 1e3 for p in points], [p["l0"] for p in points])
        plot.axes.set_yscale("log")
        plot.axes.margins(y=0.12)
        plot.plain_log_ticks(plot.axes.yaxis)
        where = ("axes fraction", "data")
        plot.note(f"width {d_model}", 1, d_model, xycoords=where, xytext=(0, 3), ha="right")
        plot.label("rows trained on (thousands)", "L0 (latents active per row)")
        plot.axes.legend()
    return plot.drawing


def fvu_against_l0(
    curves: Curves,
    final: Sequence[Mapping[str, Any]],
    d_model: int,
    palette: Palette = PAPER,
) -> Drawing:
    """Where training went, and ended, in the plane of L0 and FVU; lower left is better."""
    title = "FVU against L0: the way of training and the final held-out values"
    with Plot(title, palette) as plot:
        for (style, points), end in zip(curves, final, strict=True):
            plot.axes.plot(
                [p["l0"] for p in points],
                [p["fvu"] for p in points],
                color=style.color,
                linestyle=style.dashes,
                linewidth=1,
                alpha=0.5,
            )
            plot.axes.plot(
                [end["l0"]],
                [end["fvu"]],
                linestyle="none",
                marker=style.marker,
                markersize=7,
                color=style.color,
                label=f"{style.shown}, held out at the end",
            )
        seen = [p["l0"] for _, points in curves for p in points]
        largest = max([d_model, *seen, *(end["l0"] for end in final)])
        plot.axes.set_xscale("log")
        plot.axes.axvspan(d_model, largest * 1.5, color=palette.neutral, alpha=0.15, linewidth=0)
        where = {"xycoords": "axes fraction", "xytext": (-2, -2), "ha": "right", "va": "top"}
        plot.note(f"{d_model} or more", 1, 1, **where)
        plot.axes.set_xlim(right=largest * 1.5)
        plot.axes.set_ylim(0, 1.02 * max([1.0, *(end["fvu"] for end in final)]))
        plot.plain_log_ticks(plot.axes.xaxis)
        plot.label("L0 (latents active per row)", "FVU (fraction of variance missed)")
        plot.legend_below()
    return plot.drawing


def density(
    style: PlotStyle, histogram: Mapping[str, Any], rows: int, palette: Palette = PAPER
) -> Drawing:
    """How many latents fire how often; the bar on the far left is those that never did."""
    edges: Sequence[float] = histogram["log10_edges"]
    counts: Sequence[int] = histogram["latents"]
    bins = zip(edges, edges[1:], counts, strict=False)
    # A latent cannot be seen to fire more rarely than once in all rows.
    shown = [(a, b, n) for a, b, n in bins if b > -math.log10(rows)]
    first = shown[0][0]
    with Plot(f"{style.name}: latents by how often they fire", palette) as plot:
        plot.axes.axvspan(-1, 0, color=palette.neutral, alpha=0.15, linewidth=0)
        plot.axes.bar(
            [a for a, _, _ in shown],
            [n for _, _, n in shown],
            width=[b - a for a, b, _ in shown],
            align="edge",
            color=style.color,
            edgecolor="none",
        )
        never = first - 0.7
        plot.axes.bar(
            [never], [histogram["dead"]], width=0.4, color=palette.neutral, edgecolor="none"
        )
        plot.note(f"{histogram['dead']:,}", never, histogram["dead"], xytext=(0, 2), ha="center")
        decades = range(math.ceil(first), 1)
        plot.axes.set_xticks([never, *decades], ["never", *map(_fraction, decades)])
        plot.axes.set_xlim(never - 0.5, 0)
        plot.axes.grid(visible=False, axis="x")
        plot.axes.set_title(style.shown, color=palette.text)
        plot.label("fraction of held-out rows on which a latent fires (log scale)", "latents")
    return plot.drawing


def zf(style: PlotStyle, norms: Mapping[str, Sequence[float]], palette: Palette = PAPER) -> Drawing:
    """Norms of rows against those of their codes (ZF plot, arXiv 2503.24277), the largest hundredth
    left out; on the line they are equal."""
    row, code = norms["row"], norms["code"]
    largest = [sorted(both)[(len(row) - 1) * 99 // 100] for both in (row, code)]
    end = 1.1 * max(*largest, 1e-9)
    with Plot(f"{style.name}: norms of codes against norms of rows", palette) as plot:
        plot.axes.plot([0, end], [0, end], color=palette.neutral, linewidth=1, linestyle="dotted")
        plot.axes.plot(
            row,
            code,
            linestyle="none",
            marker="o",
            markersize=2.5,
            alpha=0.5,
            markeredgewidth=0,
            color=style.color,
        )
        plot.axes.set_xlim(0, end)
        plot.axes.set_ylim(0, end)
        plot.axes.set_title(style.shown, color=palette.text)
        plot.label("norm of a row (scaled units)", "norm of its code")
    return plot.drawing


Bar = tuple[str, float, PlotStyle | None]
"""Label, length, and the autoencoder it belongs to, if any."""


def bars(
    title: str, axis: str, rows: Sequence[Bar], digits: int, palette: Palette = PAPER
) -> Drawing:
    """Lengths below each other, each with its number."""
    labels, lengths, of = zip(*rows, strict=True)
    colors = [palette.neutral if style is None else style.color for style in of]
    with Plot(title, palette, height=0.9 + 0.3 * len(rows)) as plot:
        plot.axes.barh(labels, lengths, color=colors, height=0.62)
        plot.axes.invert_yaxis()
        for row, length in enumerate(lengths):
            plot.note(f"{length:.{digits}f}", length, row, xytext=(4, 0), va="center")
        plot.axes.set_xlim(0, max(lengths) * 1.15)
        plot.axes.grid(visible=False, axis="y")
        plot.axes.tick_params(axis="y", length=0)
        plot.label(axis, "")
    return plot.drawing


class Plot:
    """One figure with one pair of axes; after the `with` block `drawing` holds it."""

    # matplotlib's own types leave out most of what its methods take, hence `Any` here and below.
    axes: Any
    drawing: Drawing

    def __init__(self, label: str, palette: Palette = PAPER, *, height: float = 3.0) -> None:
        self._label = label
        self._palette = palette
        self._size = (4.4, height)
        self._style = ExitStack()

    def __enter__(self) -> "Plot":
        import matplotlib
        from matplotlib.figure import Figure

        # The salt makes ids repeatable, and different from those of the page's other plots.
        style = _style(self._palette) | {"svg.hashsalt": self._label}
        self._style.enter_context(cast(Any, matplotlib).rc_context(style))
        self._figure = Figure(figsize=self._size, layout="constrained")
        self.axes = self._figure.add_subplot()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        with self._style:
            if error is None:
                self.drawing = Drawing(self._label, self._drawn(), self._figure)

    def line(self, style: PlotStyle, x: Sequence[float | int], y: Sequence[float | int]) -> None:
        """The line of an autoencoder, in its color and dashes."""
        how = {"color": style.color, "linestyle": style.dashes, "linewidth": 1.6}
        self.axes.plot(x, y, label=f"{style.shown}, training", **how)

    def marked_line(
        self, style: PlotStyle, points: Sequence[tuple[float | int, float | int]]
    ) -> None:
        """A thin line through measured points, each with its mark, in their looks."""
        self.axes.plot(
            [x for x, _ in points],
            [y for _, y in points],
            color=style.color,
            linestyle=style.dashes,
            linewidth=1,
            marker=style.marker,
            markersize=5,
            label=style.shown,
        )

    def label(self, x: str, y: str) -> None:
        """Name both axes, with units."""
        self.axes.set_xlabel(x)
        self.axes.set_ylabel(y)

    def legend_below(self, columns: int = 1) -> None:
        """The legend under the axes, where it hides nothing; the figure grows by its height."""
        names = self.axes.get_legend_handles_labels()[1]
        n_lines = math.ceil(sum(name.count("\n") + 1 for name in names) / columns)
        width, height = self._size
        self._figure.set_size_inches(width, height + 0.2 * n_lines)
        cast(Any, self._figure).legend(loc="outside lower left", ncols=columns)

    def note(self, text: str, x: float | int, y: float | int, **where: Any) -> None:
        """Text at a point of the data, or of what `xycoords` says, moved by `xytext` points."""
        self.axes.annotate(text, (x, y), textcoords="offset points", **where)

    def plain_log_ticks(self, which: Any) -> None:
        """Numbers as they are read, 100 and not a power of ten, on a logarithmic axis."""
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

        which.set_major_locator(LogLocator(subs=(1, 2, 5)))
        which.set_major_formatter(FuncFormatter(_plain_number))
        which.set_minor_formatter(NullFormatter())

    def _drawn(self) -> str:
        target = io.StringIO()
        about = {"Creator": GENERATOR} | dict.fromkeys(("Date", "Format", "Type"))
        background = self._palette.background
        paper = {"transparent": True} if background is None else {"facecolor": background}
        cast(Any, self._figure).savefig(target, format="svg", metadata=about, **paper)
        return target.getvalue()


def _style(palette: Palette) -> dict[str, Any]:
    return {
        "svg.fonttype": "none",
        "font.size": 9.5,
        "axes.edgecolor": palette.text,
        "axes.labelcolor": palette.text,
        "axes.titlesize": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": palette.faint,
        "grid.linewidth": 0.7,
        "text.color": palette.text,
        "xtick.color": palette.text,
        "ytick.color": palette.text,
        "legend.frameon": False,
        "patch.edgecolor": "none",
    }


def _plain_number(value: float, position: int | None = None) -> str:
    del position
    return f"{value:,.4g}"


def _fraction(decade: int) -> str:
    """10 ** decade as a fraction that is read at once."""
    return "all" if decade == 0 else f"{100 * 10.0**decade:g}%"
