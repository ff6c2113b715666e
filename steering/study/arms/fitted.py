"""Arms that are fitted to texts without an autoencoder, each steered away from the concept."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..arm import Arm
from ..config import StudyConfig
from .method import ArmSteering

if TYPE_CHECKING:
    from ..context import StudyContext

_DIRECTION = "mean_difference"
_LEAST_TEXTS_PER_STEP, _TEXTS_PER_STEP = 4, 32


@dataclass(frozen=True)
class FittedMethod:
    """One arm that is an entry of `FIT_METHODS`, or a gate of those before the mean difference."""

    name: str
    tier: str = "constant"
    edit: str = "add"
    needs_run: bool = False

    def arms(self, config: StudyConfig) -> tuple[Arm, ...]:
        del config
        return (
            Arm(name=self.name, method=self.name, family="other", tier=self.tier, edit=self.edit),
        )

    def steering(self, arm: Arm, study: "StudyContext") -> ArmSteering:
        """The mean difference taken away, everywhere or behind the gate."""
        away = study.fitted(_DIRECTION).intervention.scaled(-1.0)
        if self.tier == "constant":
            return ArmSteering(intervention=away)
        gate = study.fitted(self.name).gate
        assert gate is not None  # methods of gates give one
        return ArmSteering(intervention=replace(away, gate=gate))


@dataclass(frozen=True)
class ProjectedOut(FittedMethod):
    """The part along the mean difference taken away (directional ablation, arXiv 2406.11717)."""

    def steering(self, arm: Arm, study: "StudyContext") -> ArmSteering:
        found = study.fitted(_DIRECTION, folder="project_out", edit_kind="project_out")
        return ArmSteering(intervention=found.intervention, largest=1.0)


@dataclass(frozen=True)
class LinEASMap(FittedMethod):
    """Maps trained to carry activations of the concept's texts to those of the others."""

    def steering(self, arm: Arm, study: "StudyContext") -> ArmSteering:
        texts = study.texts
        fewest = min(len(texts.positive), len(texts.negative))
        per_step = max(_LEAST_TEXTS_PER_STEP, min(_TEXTS_PER_STEP, fewest // 2))
        found = study.fitted(
            "lineas", swapped=True, steps=study.config.lineas_steps, texts_per_step=per_step
        )
        return ArmSteering(intervention=found.intervention, largest=1.0)


MEAN_DIFFERENCE = FittedMethod(_DIRECTION)
"""The difference of means, added with the sign that leads away from the concept."""

PROJECT_OUT = ProjectedOut("project_out", edit="project_out")

LINEAS = LinEASMap("lineas", edit="diagonal")
"""arXiv 2503.10679."""

CAST = FittedMethod("cast", tier="cosine")
"""The difference of means on prompts whose activation is similar to the condition's direction
(arXiv 2409.05907)."""

DSAS = FittedMethod("dsas", tier="logistic")
"""The difference of means at each token as much as it is taken for the concept's
(arXiv 2512.03661)."""
