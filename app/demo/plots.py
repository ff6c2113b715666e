"""The plots of the report, in the colors of its page."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..report import plots
from ..report.inline import FIRST, PAGE, SECOND, for_page
from ..report.markup import Html

NAMES = {"topk": "top-k", "top_afa": "top-AFA"}
"""How the report calls the autoencoders."""

_LOOKS = {
    "topk": plots.PlotStyle(name=NAMES["topk"], color=FIRST),
    "top_afa": plots.PlotStyle(name=NAMES["top_afa"], color=SECOND, dashes=(0, (5, 2)), marker="D"),
}

Curves = Mapping[str, plots.Points]
"""For each autoencoder its logged steps: tokens, fvu, l0, dead_fraction."""


def fvu_curves(curves: Curves) -> Html:
    """FVU of the training batches, and of held-out rows, over the rows trained on."""
    return for_page(plots.fvu_curves(_with_looks(curves), PAGE))


def l0_curves(curves: Curves, d_model: int) -> Html:
    """Active latents per row over the rows trained on, with the width of the activations."""
    return for_page(plots.l0_curves(_with_looks(curves), d_model, PAGE))


def fvu_against_l0(curves: Curves, final: Mapping[str, Mapping[str, Any]], d_model: int) -> Html:
    """Where training went, and ended, in the plane of L0 and FVU; lower left is better."""
    ends = [final[name] for name in curves]
    return for_page(plots.fvu_against_l0(_with_looks(curves), ends, d_model, PAGE))


def density(name: str, histogram: Mapping[str, Any], rows: int) -> Html:
    """How many latents fire how often; the bar on the far left is those that never did."""
    return for_page(plots.density(_LOOKS[name], histogram, rows, PAGE))


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
    return for_page(plots.bars(title, axis, rows, digits, PAGE))


def _with_looks(curves: Curves) -> plots.Curves:
    return [(_LOOKS[name], points) for name, points in curves.items()]
