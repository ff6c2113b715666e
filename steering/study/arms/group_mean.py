"""Arms that steer along one direction for all latents of the group: the mean of their rows."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ....kernels.numerics import row_norms
from ...features.shared_directions import mean_direction
from ...interventions.added_vector import added_vector
from ...interventions.intervention import Intervention
from ...interventions.spec import Edit, Gate
from ...interventions.vectors import Vectors
from ..arm import Arm
from ..config import StudyConfig
from .method import ArmSteering

if TYPE_CHECKING:
    from ..context import StudyContext

_START = 0.5


@dataclass(frozen=True)
class GroupMean:
    """The mean of the group's decoder rows, each of norm 1, taken away under every tier.

    A tier asks whether latents of the group fire. Where a concept is split into many latents, the
    mean keeps what they have in common, and what each has for itself averages out.
    """

    name: str
    needs_run: bool = True

    def arms(self, config: StudyConfig) -> tuple[Arm, ...]:
        return tuple(
            Arm(
                name=f"{self.name}-add-{tier}",
                method=self.name,
                family="sae",
                tier=tier,
                edit="add",
            )
            for tier in config.tiers
        )

    def steering(self, arm: Arm, study: "StudyContext") -> ArmSteering:
        """At strength 1 as long as what the group itself adds."""
        assert study.sae is not None and arm.tier is not None  # it needs a run, and has a tier
        group = study.group()
        site = study.site.name
        push_D = added_vector(Intervention.of_features(site=site, features=group), study.sae)
        direction_D = mean_direction(study.sae.W_dec, [feature.index for feature in group])
        v_D = -row_norms(push_D) * direction_D.to(push_D)
        edit = Edit(kind="add", site=site, vectors=Vectors({"v": v_D}))
        gate = Gate() if arm.tier == "constant" else Gate(kind=arm.tier, features=group)
        return ArmSteering(intervention=Intervention(edits=(edit,), gate=gate), start=_START)


SAE_GROUP_MEAN = GroupMean("sae_group_mean")
