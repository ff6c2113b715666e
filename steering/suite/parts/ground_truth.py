"""The part `ground_truth`: does this kind of autoencoder find features that are known?"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from ....training.evaluation.ground_truth.benchmark import ground_truth as measure_ground_truth
from ....training.evaluation.ground_truth.config import GroundTruthSettings
from ....training.evaluation.ground_truth.recipes import autoencoder_at, training_at
from ....training.evaluation.subjects import Subject
from ....training.run import RunFolder
from ....training.run_places import is_run, run_of
from ....training.trainer_config import TrainerConfig
from ..part import Figure, Measured, Part, SuiteContext

_SHOWN = (("f1", "F1"), ("mcc", "MCC"), ("explained_variance", "variance"))


def ground_truth(context: SuiteContext) -> Sequence[Measured]:
    """Train autoencoders of each one's kind on rows whose features are known, and measure them.

    Those of one kind and one training share the result; nothing about baselines, which nobody
    trains.
    """
    settings: GroundTruthSettings = context.options
    found: dict[str, Measured] = {}
    given: list[Measured] = []
    for number, subject in enumerate(context.subjects):
        if subject.baseline is not None:
            given.append(Measured())
            continue
        trainer = _training_of(subject)
        kind = autoencoder_at(subject.sae.config, settings)
        key = repr((kind, training_at(kind, trainer, settings, seed=0)))
        if key not in found:
            context.say(f"ground_truth: training the kind of {subject.path}")
            result = measure_ground_truth(subject.sae.config, trainer, settings, say=context.say)
            found[key] = Measured(figures=_figures(result["measures"]), details=result)
        given.append(found[key])
        context.progress(number + 1, len(context.subjects))
    return given


def _training_of(subject: Subject) -> TrainerConfig:
    """How the run was trained; of an autoencoder in no run the default."""
    run = run_of(Path(subject.path))
    if not is_run(run):
        return TrainerConfig()
    known = {field.name for field in dataclasses.fields(TrainerConfig)}
    values: dict[str, Any] = RunFolder(run).settings()["trainer"]
    given: dict[str, Any] = {
        name: tuple(cast(list[Any], value)) if isinstance(value, list) else value
        for name, value in values.items()
        if name in known
    }
    return TrainerConfig(**given)


def _figures(measures: Mapping[str, Mapping[str, Any]]) -> list[Figure]:
    return [
        Figure(
            name=name,
            value=(of := measures[name])["mean"],
            heading=dict(_SHOWN).get(name, name),
            interval=None if of["low"] is None else (of["low"], of["high"]),
            in_table=name in dict(_SHOWN),
        )
        for name in measures
    ]


GROUND_TRUTH = Part(
    measure=ground_truth,
    heading="Known features",
    reading="Autoencoders of this kind, trained on made-up rows whose features are known: F1 of "
    "each latent as a detector of its feature, mean cosine of latents and features matched one to "
    "one (MCC), and explained variance. Of the kind of autoencoder and its training, not of these "
    "weights, and with intervals over seeds.",
    options=GroundTruthSettings,
    depends_on=(),
    by_default=False,
)
