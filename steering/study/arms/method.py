"""What a way to steer is to a study, and what it gives for each of its arms."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from ...interventions.intervention import Intervention
from ..arm import Arm
from ..config import StudyConfig
from ..rows import LEVELS

if TYPE_CHECKING:
    from ..context import StudyContext


@dataclass(frozen=True, kw_only=True)
class ArmSteering:
    """How an arm steers."""

    intervention: Intervention | None = None
    """At strength 1; None where nothing is steered."""
    prefix: str = ""
    """A text before each prompt."""
    start: float = 1.0
    """The strength that is tried first."""
    largest: float | None = None
    """The largest strength that means something, such as 1 of an ablation; None is any."""

    def at(self, strength: float) -> Intervention:
        """What steers at a strength.

        A clamp leads each feature to so many times its level; whatever else has features adds so
        many times as much; an edit of another kind goes so far from h to T(h).

        Raises:
            ValueError: nothing is steered.
        """
        if self.intervention is None:
            raise ValueError("this arm has no intervention, and so no strength")
        if all(edit.kind in LEVELS for edit in self.intervention.edits):
            return _at_level(self.intervention, strength)
        return self.intervention.scaled(strength)


def _at_level(intervention: Intervention, level: float) -> Intervention:
    """Every feature led to so many times its level."""
    edits = tuple(
        dataclasses.replace(
            edit,
            features=tuple(
                dataclasses.replace(feature, strength=level * feature.strength)
                for feature in edit.features
            ),
        )
        for edit in intervention.edits
    )
    return dataclasses.replace(intervention, edits=edits)


@runtime_checkable
class StudyMethod(Protocol):
    """An entry of `STUDY_METHODS`."""

    @property
    def needs_run(self) -> bool:
        """Whether it needs an autoencoder with its feature index."""
        ...

    def arms(self, config: StudyConfig) -> Sequence[Arm]:
        """Its arms under these settings, by their names alone; nothing is fitted or loaded."""
        ...

    def steering(self, arm: Arm, study: "StudyContext") -> ArmSteering:
        """How one of its arms steers; what it is fitted to is fitted when it is first asked for.

        Raises:
            NotDefined: it is not defined for the texts; the study goes on without the arm.
            InputError: something is missing or broken, which ends the study.
        """
        ...
