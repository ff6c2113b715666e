"""Arms that mean nothing: what a push does at that cost, whatever its direction.

Each draw is calibrated to the cost by itself, so that its size plays no part. A draw is the same
however many there are.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ....kernels.numerics import row_norms
from ...directions.random_latents import draw_latents
from ...errors import NotDefined
from ...interventions.intervention import Intervention
from ...interventions.spec import Edit, SteeredFeature
from ...interventions.vectors import Vectors
from ..arm import Arm
from ..config import StudyConfig
from .method import ArmSteering

if TYPE_CHECKING:
    from ..context import StudyContext

_START = 0.5


@dataclass(frozen=True)
class RandomMethod:
    """Several draws of one kind, added at every token."""

    name: str
    needs_run: bool = False

    def arms(self, config: StudyConfig) -> tuple[Arm, ...]:
        return tuple(
            Arm(
                name=f"{self.name}-{draw}",
                method=self.name,
                family="random",
                tier="constant",
                edit="add",
                draw=draw,
            )
            for draw in range(config.draws)
        )

    def steering(self, arm: Arm, study: "StudyContext") -> ArmSteering:
        """A direction drawn from a normal distribution, as long as the mean difference."""
        vectors = study.fitted("mean_difference").edits[0].tensors
        length = row_norms(vectors["v"])
        generator = torch.Generator().manual_seed(study.config.seed + (arm.draw or 0))
        drawn_D = torch.randn(len(vectors["v"]), dtype=torch.float64, generator=generator)
        v_D = (drawn_D / row_norms(drawn_D)).to(length) * length
        edit = Edit(kind="add", site=study.site.name, vectors=Vectors({"v": v_D}))
        return ArmSteering(intervention=Intervention(edits=(edit,)))


@dataclass(frozen=True)
class RandomLatent(RandomMethod):
    """Latents that fire somewhere, neither picks nor of the group, with a random sign."""

    needs_run: bool = True

    def steering(self, arm: Arm, study: "StudyContext") -> ArmSteering:
        units = study.index.statistics["max_activation"]
        draw = arm.draw or 0
        alive = [number for number, unit in enumerate(units.tolist()) if unit > 0]
        if not alive:
            raise NotDefined("no feature of the index ever fires; build it on more tokens")
        latents, signs = draw_latents(
            alive, besides=study.chosen_latents(), n=draw + 1, seed=study.config.seed
        )
        feature = SteeredFeature(
            index=latents[draw],
            sign=1 if signs[draw] > 0 else -1,
            max_activation=float(units[latents[draw]]),
        )
        intervention = Intervention.of_features(site=study.site.name, features=(feature,))
        return ArmSteering(intervention=intervention, start=_START)


RANDOM_DIRECTION = RandomMethod("random_direction")

RANDOM_LATENT = RandomLatent("random_latent")
