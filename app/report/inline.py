"""Plots as parts of an HTML page: SVG that is colored and lettered by the page's style."""

import html
import re

from . import plots
from .markup import Html

# matplotlib knows only fixed colors: these stand for the page's own, which differ in light and
# dark, and are replaced in the finished SVG.
_TEXT, _FAINT, FIRST, SECOND, _NEUTRAL = "#010101", "#010102", "#010103", "#010104", "#010105"
_COLORS = {
    _TEXT: "currentColor",
    _FAINT: "var(--line)",
    FIRST: "var(--first)",
    SECOND: "var(--second)",
    _NEUTRAL: "var(--neutral)",
}
PAGE = plots.Palette(text=_TEXT, faint=_FAINT, neutral=_NEUTRAL)


def for_page(drawing: plots.Drawing) -> Html:
    """The SVG as part of an HTML page: without prolog and style, with the page's colors and font.

    HTML needs no namespaces; ids that nothing refers to, which every figure repeats, are dropped.
    """
    svg = drawing.svg[drawing.svg.index("<svg") :]
    svg = re.sub(r"<style.*?</style>|<metadata.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda m: m[0] if m[1] in used else "", svg)
    svg = re.sub(r" ?font-family: [^;\"]+;?", "", svg)
    for fixed, own in _COLORS.items():
        svg = svg.replace(fixed, own)
    role = f'<svg role="img" aria-label="{html.escape(drawing.label)}"'
    return Html(re.sub(r'^<svg width="[^"]*" height="[^"]*"', role, svg))
