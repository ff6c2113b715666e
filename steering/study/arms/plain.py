"""Arms without an intervention: the model as it is, and a text before each prompt."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..arm import Arm, Family
from ..config import StudyConfig
from .method import ArmSteering

if TYPE_CHECKING:
    from ..context import StudyContext


@dataclass(frozen=True)
class Plain:
    """One arm that steers nothing."""

    name: Family
    has_prefix: bool = False
    needs_run: bool = False

    def arms(self, config: StudyConfig) -> tuple[Arm, ...]:
        del config
        return (Arm(name=self.name, method=self.name, family=self.name),)

    def steering(self, arm: Arm, study: "StudyContext") -> ArmSteering:
        del arm
        return ArmSteering(prefix=study.config.prefix if self.has_prefix else "")


NONE = Plain("none")
"""The unsteered model."""

PROMPT = Plain("prompt", has_prefix=True)
"""A text before each prompt, which no autoencoder and no fit is needed for."""
