"""What is compared: the untouched model, the steered one, the needle and its controls."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from ...sae.autoencoder import SparseAutoencoder
from ...sae.language_model.model import LanguageModel
from ..evaluation.reading import Steered
from ..interventions.intervention import Intervention
from .config import TraceConfig
from .needle import needle
from .value_vectors import DownProjection, ValueVector, drawn_like

NONE, STEERED, NEEDLE, CONTROL = "none", "steered", "needle", "random needle"


@dataclass(frozen=True)
class TraceArm:
    """One way in which the model is treated; arms of one name are draws of one control."""

    name: str
    steered: Steered


def trace_arms(
    model: LanguageModel,
    intervention: Intervention,
    sae: SparseAutoencoder | None,
    projections: Sequence[DownProjection],
    vectors: Sequence[ValueVector],
    config: TraceConfig,
) -> list[TraceArm]:
    """All arms, the untouched model first.

    Raises:
        InputError: a layer has too few value vectors for a control.
    """

    def treated(chosen: Sequence[ValueVector], seed: int) -> Steered:
        return lambda: needle(projections, chosen, config.needle, noise=config.noise, seed=seed)

    drawn = [drawn_like(projections, vectors, config.seed + n) for n in range(config.draws)]
    return [
        TraceArm(NONE, nullcontext),
        TraceArm(STEERED, lambda: intervention.apply(model, sae)),
        TraceArm(NEEDLE, treated(vectors, config.seed)),
        *(TraceArm(CONTROL, treated(each, config.seed + n)) for n, each in enumerate(drawn)),
    ]
