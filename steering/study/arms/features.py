"""Arms that steer with latents of an autoencoder: each edit under each tier.

An ablation changes a latent only where it fires, so that it is the same under every tier; there is
one arm of it.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...interventions.intervention import Intervention
from ..arm import Arm
from ..config import StudyConfig
from .method import ArmSteering

if TYPE_CHECKING:
    from ..context import StudyContext

_ONLY_WHERE_FIRING = ("ablate",)
_AS_FITTED = {"ablate": 1.0, "project_out": 1.0}
"""Edits that lead somewhere, and the strength at which they are there."""
_START = 0.5


@dataclass(frozen=True)
class FeatureMethod:
    """Some latents, under every edit and tier of the settings."""

    name: str
    group: bool = False
    """Whether the latents are the group that tells the texts apart together, which is added to
    alone; otherwise they are the picks."""
    needs_run: bool = True

    def arms(self, config: StudyConfig) -> tuple[Arm, ...]:
        return tuple(
            Arm(
                name=f"{self.name}-{edit}-{tier}",
                method=self.name,
                family="sae",
                tier=tier,
                edit=edit,
            )
            for edit in (("add",) if self.group else config.edits)
            for tier in _tiers(edit, config.tiers)
        )

    def steering(self, arm: Arm, study: "StudyContext") -> ArmSteering:
        assert arm.tier is not None and arm.edit is not None  # as `arms` has made them
        intervention = Intervention.of_features(
            site=study.site.name,
            features=study.group() if self.group else study.features(),
            tier=arm.tier,
            edit=arm.edit,
        )
        largest = _AS_FITTED.get(arm.edit)
        return ArmSteering(intervention=intervention, start=largest or _START, largest=largest)


def _tiers(edit: str, tiers: tuple[str, ...]) -> tuple[str, ...]:
    if edit not in _ONLY_WHERE_FIRING:
        return tiers
    return ("per_token",) if "per_token" in tiers else tiers[:1]


SAE = FeatureMethod("sae")
"""The picks, each with its own strength."""

SAE_GROUP = FeatureMethod("sae_group", group=True)
"""The latents of positive weight in a sparse logistic regression, in proportion to it."""
