"""The strength at which each arm of a study costs as much as the others.

What was found lies in `calibration.json` of the study's folder: of each setting the strength, its
cost, and every strength that was tried.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...sae.common.checksums import read_checked_json, write_checked_json
from ..errors import NoDose
from ..evaluation.budget import Budget
from ..evaluation.calibration import Calibration, Evaluation
from ..evaluation.reading import Steered
from ..evaluation.strength import CostTexts, cost_function, find_strength
from ..interventions.steering import steer
from .arm import Arm, Cost, Setting
from .arms.method import ArmSteering
from .context import StudyContext

FILE = "calibration.json"

LARGEST = 32.0
"""Of all strengths that are tried: beyond that a push is as long as the activation itself, many
times over, and a cost that it has not is one that the arm cannot have."""


class Calibrations:
    """The strengths that were found so far.

    Attributes:
        by_setting: of each setting, by its name, what `calibrated` gives as plain values.
    """

    by_setting: dict[str, dict[str, Any]]

    def __init__(self, folder: Path) -> None:
        """Read what there is; raises InputError if the file is not as it was written."""
        self._path = folder / FILE
        self.by_setting = {}
        if self._path.exists():
            remedy = "remove it, and the same command finds the strengths again"
            found = read_checked_json(self._path, "calibration of the study", remedy=remedy)
            self.by_setting = found["settings"]

    def add(self, name: str, values: Mapping[str, Any]) -> None:
        """Keep a setting's, and write all, whole."""
        self.by_setting[name] = dict(values)
        write_checked_json(self._path, {"settings": self.by_setting})

    def of(self, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        """What was found of these settings, in this order; the file may have others."""
        return {name: self.by_setting[name] for name in names if name in self.by_setting}


def calibrated(
    study: StudyContext, arm: Arm, steering: ArmSteering, cost: Cost, known: Calibrations
) -> Setting:
    """The arm at the strength that has the cost, as found now or before.

    Args:
        study: model, texts and settings; strengths are chosen on its tuning texts.
        arm: the arm.
        steering: how it steers.
        cost: what it may cost.
        known: what was found before; this is added.

    Raises:
        NoDose: no strength has a cost to go by, such as where a gate never opens.
        InputError: there are no texts to measure the cost on.
    """
    if cost.kind == "strength":
        return Setting(arm=arm, cost=cost, strength=cost.target)
    name = Setting(arm=arm, cost=cost).name
    if name not in known.by_setting:
        study.say(f"choosing the strength of {name}")
        known.add(name, _found(study, steering, cost))
    values = known.by_setting[name]
    if values.get("failed"):
        raise NoDose(values["failed"])
    return Setting(
        arm=arm,
        cost=cost,
        strength=values["strength"],
        reached=values["reached"],
        dose=values["dose"],
        evaluations=len(values["evaluations"]),
    )


def _found(study: StudyContext, steering: ArmSteering, cost: Cost) -> dict[str, Any]:
    """What `calibration.json` says of a setting: `strength`, `dose`, `reached`, `evaluations`; or
    why it `failed`."""
    function = _cost_function(study, steering, cost)
    try:
        found = _solved(study, steering, cost, function)
    except NoDose as error:
        return {"failed": str(error), "evaluations": []}
    return {
        "strength": found.strength,
        "dose": found.dose,
        "reached": found.met,
        "evaluations": [asdict(each) for each in found.evaluations],
    }


def _cost_function(
    study: StudyContext, steering: ArmSteering, cost: Cost
) -> Callable[[float], float]:
    config, texts = study.config, study.texts

    def steered_at(strength: float) -> Steered:
        intervention = steering.at(strength)
        return lambda: steer(study.model, study.sae, intervention)

    return cost_function(
        study.model,
        _budget(cost),
        steered_at,
        CostTexts(
            prompts=texts.tuning_prompts,
            neutral=texts.tuning_neutral,
            sampling=config.sampling,
            statistic="mean" if cost.kind == "kl_mean" else "p95",
            max_length=config.neutral_tokens,
            batch_size=config.batch_size,
        ),
    )


def _solved(
    study: StudyContext, steering: ArmSteering, cost: Cost, function: Callable[[float], float]
) -> Calibration:
    def report(one: Evaluation) -> None:
        dose = "breaks the model" if one.dose is None else f"costs {one.dose:.3g}"
        study.say(f"  strength {one.strength:.4g} {dose}")

    return find_strength(
        _budget(cost),
        function,
        start=steering.start,
        largest=steering.largest or LARGEST,
        tolerance=study.config.tolerance,
        most=study.config.most_evaluations,
        report=report,
    )


def _budget(cost: Cost) -> Budget:
    assert cost.kind != "strength"  # which nothing is solved for
    return Budget("kl" if cost.kind == "kl_mean" else cost.kind, cost.target)
