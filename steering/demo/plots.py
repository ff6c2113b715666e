"""The plots of the report: SVG that goes into the page, coloured and lettered by its style."""

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ...training import plots
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
_PAGE = plots.Palette(text=_TEXT, faint=_FAINT, neutral=_NEUTRAL)

NAMES = {"topk": "top-k", "top_afa": "top-AFA"}
"""How the report calls the autoencoders."""

_LOOKS = {
    "topk": plots.Look(name=NAMES["topk"], colour=_FIRST),
    "top_afa": plots.Look(name=NAMES["top_afa"], colour=_SECOND, dashes=(0, (5, 2)), marker="D"),
}

Curves = Mapping[str, plots.Points]
"""For each autoencoder its logged steps: tokens, fvu, l0, dead_share."""


def fvu_curves(curves: Curves) -> Html:
    """FVU of the training batches, and of held-out rows, over the rows trained on."""
    return _for_page(plots.fvu_curves(_with_looks(curves), _PAGE))


def l0_curves(curves: Curves, d_model: int) -> Html:
    """Active latents per row over the rows trained on, with the width of the activations."""
    return _for_page(plots.l0_curves(_with_looks(curves), d_model, _PAGE))


def fvu_against_l0(curves: Curves, final: Mapping[str, Mapping[str, Any]], d_model: int) -> Html:
    """Where training went, and ended, in the plane of L0 and FVU; lower left is better."""
    ends = [final[name] for name in curves]
    return _for_page(plots.fvu_against_l0(_with_looks(curves), ends, d_model, _PAGE))


def density(name: str, histogram: Mapping[str, Any], rows: int) -> Html:
    """How many latents fire how often; the bar on the far left is those that never did."""
    return _for_page(plots.density(_LOOKS[name], histogram, rows, _PAGE))


Bar = tuple[str, float, str | None]
"""Label, length, and the autoencoder it belongs to, if any."""


def loss_bars(bars: Sequence[Bar]) -> Html:
    """Next-token losses: what was done to the model, nats per token, and by which autoencoder."""
    return _bars("Next-token loss in nats per token", "next-token loss (nats per token)", bars, 2)


def toxicity_bars(bars: Sequence[Bar]) -> Html:
    """Mean toxicity of texts: the condition they were written under, and whose features steered."""
    return _bars("Toxicity of the texts", "mean toxicity (probability)", bars, 3)


def _bars(title: str, axis: str, bars: Sequence[Bar], digits: int) -> Html:
    rows = [(label, length, None if of is None else _LOOKS[of]) for label, length, of in bars]
    return _for_page(plots.bars(title, axis, rows, digits, _PAGE))


def _with_looks(curves: Curves) -> plots.Curves:
    return [(_LOOKS[name], points) for name, points in curves.items()]


def _for_page(drawing: plots.Drawing) -> Html:
    """The SVG as part of an HTML page: without prolog and style, with the page's colours and font.

    HTML needs no namespaces; ids that nothing refers to, which every figure repeats, are dropped.
    """
    svg = drawing.svg[drawing.svg.index("<svg") :]
    svg = re.sub(r"<style.*?</style>|<metadata.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda m: m[0] if m[1] in used else "", svg)
    svg = re.sub(r" ?font-family: [^;\"]+;?", "", svg)
    for fixed, own in _COLOURS.items():
        svg = svg.replace(fixed, own)
    role = f'<svg role="img" aria-label="{html.escape(drawing.label)}"'
    return Html(re.sub(r'^<svg width="[^"]*" height="[^"]*"', role, svg))
