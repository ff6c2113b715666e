"""What the sections of the report draw on: results of the stages, names and styles."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..report.inline import FIRST, PAGE, SECOND, for_page
from ..report.markup import Html
from ..report.plots import PlotStyle, bars
from .config import DEMO_ACTIVATIONS, STEERED, DemoConfig
from .stage import StageResult

NAMES = {"topk": "top-k", "top_afa": "top-AFA"}
"""How the report calls the autoencoders."""

STYLES = {
    "topk": PlotStyle(name=NAMES["topk"], color=FIRST),
    "top_afa": PlotStyle(name=NAMES["top_afa"], color=SECOND, dashes=(0, (5, 2)), marker="D"),
}
"""How their plots draw them."""

Bar = tuple[str, float, str | None]
"""Label, length, and the autoencoder it belongs to, if any."""


def bars_for_page(title: str, axis: str, rows: Sequence[Bar], digits: int) -> Html:
    """Horizontal bars in the colors of the page, each in that of its autoencoder."""
    styled = [(label, length, None if of is None else STYLES[of]) for label, length, of in rows]
    return for_page(bars(title, axis, styled, digits, PAGE))


@dataclass(frozen=True)
class ReportContext:
    """A demo that ran: its configuration and the outcome of every stage, by name."""

    config: DemoConfig
    stages: Mapping[str, StageResult]

    def result(self, stage: str) -> dict[str, Any]:
        return self.stages[stage].result

    @property
    def steered(self) -> str:
        """The autoencoder whose features were used, in words."""
        if self.config.steers_own:
            return f"the {NAMES[STEERED]} autoencoder"
        return f"the dictionary {self.config.steered}"

    @property
    def cache(self) -> dict[str, Any]:
        return self.result("cache")

    @property
    def measures(self) -> dict[str, dict[str, Any]]:
        """The evaluation of each autoencoder."""
        return {name: self.result(f"eval_{name}") for name in DEMO_ACTIVATIONS}

    @property
    def training(self) -> dict[str, dict[str, Any]]:
        """The summary and curve of each autoencoder's training."""
        return {name: self.result(f"train_{name}") for name in DEMO_ACTIVATIONS}
