"""The plots of the report: SVG that goes into the page, coloured and lettered by the page's style.

matplotlib is imported when the first plot is drawn.
"""

import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, cast

from .markup import Html

# matplotlib knows only fixed colours: these stand for the page's own, which differ in light and
# dark, and are replaced in the finished SVG.
_TEXT, _FAINT, _FIRST, _SECOND, _NEUTRAL = "#010101", "#010102", "#010103", "#010104", "#010105"
_COLOURS = {
    _TEXT: "currentColor",
    _FAINT: "var(--line)",
    _FIRST: "var(--first)",
    _SECOND: "var(--second)",
    _NEUTRAL: "var(--neutral)",
}
_STYLE = {
    "svg.fonttype": "none",
    "font.size": 9.5,
    "axes.edgecolor": _TEXT,
    "axes.labelcolor": _TEXT,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _FAINT,
    "grid.linewidth": 0.7,
    "text.color": _TEXT,
    "xtick.color": _TEXT,
    "ytick.color": _TEXT,
    "legend.frameon": False,
    "patch.edgecolor": "none",
}
_WIDE, _HIGH = 4.4, 3.0

COLOURS = {"topk": _FIRST, "top_afa": _SECOND}
DASHES = {"topk": "solid", "top_afa": (0, (5, 2))}
NAMES = {"topk": "top-k", "top_afa": "top-AFA"}
"""How the report calls the autoencoders."""

Curves = Mapping[str, Sequence[Mapping[str, float | int]]]
"""For each autoencoder its logged steps: tokens, fvu, l0, dead_share."""


def fvu_curves(curves: Curves) -> Html:
    """FVU of the training batches, and of held-out rows, over the rows trained on."""
    with _Plot("FVU while training, over thousands of rows trained on") as plot:
        for name, points in curves.items():
            plot.line(name, [p["tokens"] / 1e3 for p in points], [p["fvu"] for p in points])
            held_out = [p for p in points if "held_out_fvu" in p]
            plot.axes.plot(
                [p["tokens"] / 1e3 for p in held_out],
                [p["held_out_fvu"] for p in held_out],
                linestyle="none",
                marker="o",
                markersize=4,
                color=COLOURS[name],
                label=f"{NAMES[name]}, held out",
            )
        plot.axes.set_ylim(0, max(1.0, *(p["fvu"] for c in curves.values() for p in c[1:])) * 1.02)
        plot.label("rows trained on (thousands)", "FVU (share of variance missed)")
        plot.axes.legend()
    return plot.svg


def l0_curves(curves: Curves, d_model: int) -> Html:
    """Active latents per row over the rows trained on, with the width of the activations."""
    with _Plot("L0 while training, over thousands of rows trained on") as plot:
        plot.axes.axhline(d_model, color=_NEUTRAL, linewidth=1, linestyle="dotted")
        for name, points in curves.items():
            plot.line(name, [p["tokens"] / 1e3 for p in points], [p["l0"] for p in points])
        plot.axes.set_yscale("log")
        plot.axes.margins(y=0.12)
        plot.plain_log_ticks(plot.axes.yaxis)
        where = ("axes fraction", "data")
        plot.note(f"width {d_model}", 1, d_model, xycoords=where, xytext=(0, 3), ha="right")
        plot.label("rows trained on (thousands)", "L0 (latents active per row)")
        plot.axes.legend()
    return plot.svg


def fvu_against_l0(curves: Curves, final: Mapping[str, Mapping[str, Any]], d_model: int) -> Html:
    """Where training went, and ended, in the plane of L0 and FVU; lower left is better."""
    with _Plot("FVU against L0: the way of training and the final held-out values") as plot:
        for name, points in curves.items():
            plot.axes.plot(
                [p["l0"] for p in points],
                [p["fvu"] for p in points],
                color=COLOURS[name],
                linestyle=DASHES[name],
                linewidth=1,
                alpha=0.5,
            )
            end = final[name]
            plot.axes.plot(
                [end["l0"]],
                [end["fvu"]],
                linestyle="none",
                marker="o" if name == "topk" else "D",
                markersize=7,
                color=COLOURS[name],
                label=f"{NAMES[name]}, held out at the end",
            )
        largest = max(d_model, *(p["l0"] for points in curves.values() for p in points))
        plot.axes.set_xscale("log")
        plot.axes.axvspan(d_model, largest * 1.5, color=_NEUTRAL, alpha=0.15, linewidth=0)
        where = {"xycoords": "axes fraction", "xytext": (-2, -2), "ha": "right", "va": "top"}
        plot.note(f"{d_model} or more", 1, 1, **where)
        plot.axes.set_xlim(right=largest * 1.5)
        plot.axes.set_ylim(0, 1.02)
        plot.plain_log_ticks(plot.axes.xaxis)
        plot.label("L0 (latents active per row)", "FVU (share of variance missed)")
        plot.axes.legend(loc="upper left")
    return plot.svg


def density(name: str, histogram: Mapping[str, Any], rows: int) -> Html:
    """How many latents fire how often; the bar on the far left is those that never did."""
    edges: Sequence[float] = histogram["log10_edges"]
    counts: Sequence[int] = histogram["latents"]
    bins = zip(edges, edges[1:], counts, strict=False)
    # A latent cannot be seen to fire more rarely than once in all rows.
    shown = [(a, b, n) for a, b, n in bins if b > -math.log10(rows)]
    first = shown[0][0]
    with _Plot(f"{NAMES[name]}: latents by how often they fire") as plot:
        plot.axes.axvspan(-1, 0, color=_NEUTRAL, alpha=0.15, linewidth=0)
        plot.axes.bar(
            [a for a, _, _ in shown],
            [n for _, _, n in shown],
            width=[b - a for a, b, _ in shown],
            align="edge",
            color=COLOURS[name],
            edgecolor="none",
        )
        never = first - 0.7
        plot.axes.bar([never], [histogram["dead"]], width=0.4, color=_NEUTRAL, edgecolor="none")
        plot.note(f"{histogram['dead']:,}", never, histogram["dead"], xytext=(0, 2), ha="center")
        decades = range(math.ceil(first), 1)
        plot.axes.set_xticks([never, *decades], ["never", *map(_share, decades)])
        plot.axes.set_xlim(never - 0.5, 0)
        plot.axes.grid(visible=False, axis="x")
        plot.axes.set_title(NAMES[name], color=_TEXT)
        plot.label("share of held-out rows on which a latent fires (log scale)", "latents")
    return plot.svg


Bar = tuple[str, float, str | None]
"""Label, length, and the autoencoder it belongs to, if any."""


def loss_bars(bars: Sequence[Bar]) -> Html:
    """Next-token losses: what was done to the model, nats per token, and by which autoencoder."""
    return _bars("Next-token loss in nats per token", "next-token loss (nats per token)", bars, 2)


def toxicity_bars(bars: Sequence[Bar]) -> Html:
    """Mean toxicity of texts: the condition they were written under, and whose features steered."""
    return _bars("Toxicity of the texts", "mean toxicity (probability)", bars, 3)


def _bars(title: str, axis: str, bars: Sequence[Bar], digits: int) -> Html:
    labels, lengths, names = zip(*bars, strict=True)
    colours = [_NEUTRAL if name is None else COLOURS[name] for name in names]
    with _Plot(title, width=_WIDE, height=0.9 + 0.3 * len(bars)) as plot:
        plot.axes.barh(labels, lengths, color=colours, height=0.62)
        plot.axes.invert_yaxis()
        for row, length in enumerate(lengths):
            plot.note(f"{length:.{digits}f}", length, row, xytext=(4, 0), va="center")
        plot.axes.set_xlim(0, max(lengths) * 1.15)
        plot.axes.grid(visible=False, axis="y")
        plot.axes.tick_params(axis="y", length=0)
        plot.label(axis, "")
    return plot.svg


class _Plot:
    """One figure with one pair of axes; after the `with` block `svg` holds it."""

    # matplotlib's own types leave out most of what its methods take, hence `Any` here and below.
    axes: Any
    svg: Html

    def __init__(self, label: str, *, width: float = _WIDE, height: float = _HIGH) -> None:
        self._label = label
        self._size = (width, height)
        self._style = ExitStack()

    def __enter__(self) -> "_Plot":
        import matplotlib
        from matplotlib.figure import Figure

        # The salt makes ids repeatable, and different from those of the page's other plots.
        style = _STYLE | {"svg.hashsalt": self._label}
        self._style.enter_context(cast(Any, matplotlib).rc_context(style))
        self._figure = Figure(figsize=self._size, layout="constrained")
        self.axes = self._figure.add_subplot()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        with self._style:
            if error is None:
                self.svg = _for_page(self._drawn(), self._label)

    def line(self, name: str, x: Sequence[float], y: Sequence[float]) -> None:
        """The line of an autoencoder, in its colour and dashes."""
        look = {"color": COLOURS[name], "linestyle": DASHES[name], "linewidth": 1.6}
        self.axes.plot(x, y, label=f"{NAMES[name]}, training", **look)

    def label(self, x: str, y: str) -> None:
        """Name both axes, with units."""
        self.axes.set_xlabel(x)
        self.axes.set_ylabel(y)

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
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        cast(Any, self._figure).savefig(target, format="svg", metadata=nothing, transparent=True)
        return target.getvalue()


def _for_page(svg: str, label: str) -> Html:
    """The SVG as part of an HTML page: without prolog and style, with the page's colours and font.

    HTML needs no namespaces; ids that nothing refers to, which every figure repeats, are dropped.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style.*?</style>|<metadata.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda m: m[0] if m[1] in used else "", svg)
    svg = re.sub(r" ?font-family: [^;\"]+;?", "", svg)
    for fixed, own in _COLOURS.items():
        svg = svg.replace(fixed, own)
    role = f'<svg role="img" aria-label="{html.escape(label)}"'
    return Html(re.sub(r'^<svg width="[^"]*" height="[^"]*"', role, svg))


def _plain_number(value: float, position: int | None = None) -> str:
    del position
    return f"{value:,.4g}"


def _share(decade: int) -> str:
    """10 ** decade as a share that is read at once."""
    return "all" if decade == 0 else f"{100 * 10.0**decade:g}%"
