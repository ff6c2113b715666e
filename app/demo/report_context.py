"""What the sections of the report draw on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .config import ACTIVATIONS, DemoConfig
from .stage import StageResult


@dataclass(frozen=True)
class ReportContext:
    """A demo that ran: its configuration and the outcome of every stage, by name."""

    config: DemoConfig
    stages: Mapping[str, StageResult]

    def result(self, stage: str) -> dict[str, Any]:
        return self.stages[stage].result

    @property
    def cache(self) -> dict[str, Any]:
        return self.result("cache")

    @property
    def measures(self) -> dict[str, dict[str, Any]]:
        """The evaluation of each autoencoder."""
        return {name: self.result(f"eval_{name}") for name in ACTIVATIONS}

    @property
    def training(self) -> dict[str, dict[str, Any]]:
        """The summary and curve of each autoencoder's training."""
        return {name: self.result(f"train_{name}") for name in ACTIVATIONS}
