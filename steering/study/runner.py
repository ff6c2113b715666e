"""A study from its settings to its result: fits, strengths, continuations, figures, comparison."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any

from ...sae.common.files import write_json
from ...sae.common.locks import hold_folder
from ...sae.language_model.model import LanguageModel
from ..detox.toxicity import Scorer, toxicity_scores
from ..errors import NoDose, NotDefined, TooStrong
from ..evaluation.reading import Steered
from ..interventions.intervention import Intervention
from ..interventions.steering import steer
from ..registries import SCORERS, STUDY_METHODS
from .arm import Arm, Setting
from .arms.choosing import chosen_arms
from .arms.method import ArmSteering
from .asking import require_askable
from .calibrating import Calibrations, calibrated
from .comparing import compare_rows
from .config import StudyConfig
from .context import StudyContext
from .identity import require_free_or_study, require_same_study
from .known_arms import KnownArms
from .measuring import measure
from .texts import StudyTexts, study_texts
from .writing import FOLDER, write_continuations
from .written import Written

RESULT = "result.json"
"""What `run_study` gives, in the study's folder."""

_SAMPLES = 5

Say = Callable[[str], None]
Progress = Callable[[str, int, int], None]
"""Told the setting, how many continuations there are of it, and how many there will be."""


def run_study(
    config: StudyConfig,
    model: LanguageModel | None = None,
    *,
    say: Say = lambda sentence: None,
    progress: Progress = lambda setting, done, total: None,
) -> dict[str, Any]:
    """Compare ways to steer, as the settings say.

    Everything is kept in `config.out` as soon as it is there: fits, features, the strength of each
    setting, each batch of continuations, each measure. The same command goes on after an
    interruption, and gives the same bytes as without one. More methods, costs, draws and scorers
    may be asked for later.

    Args:
        config: the settings.
        model: the language model if it is loaded already, in place of the one that is named.
        say: told what takes time.
        progress: see `Progress`.

    Returns:
        What `compare_rows` gives, with `folder`, `run`, `model`, `site`, `scorers`, `costs`,
        `sizes` (how many texts there are of each kind, and `continuations`), `failed` (settings
        that have no row, with why), `calibration` (of each setting the strengths that were tried)
        and `samples` (a few continuations of each setting). The same is written as result.json.

    Raises:
        InputError: a method needs a run and there is none, a scorer cannot be used, texts are
            missing or not apart, what is asked does not fit the model, or the folder holds another
            study or an arm that steered otherwise.
    """
    arms = chosen_arms(config)
    scorers = {name: SCORERS.get(name) for name in config.scorer}
    for scorer in scorers.values():
        toxicity_scores(["a word"], scorer)  # missing, it is said now and not after hours
    folder = Path(config.out)
    require_free_or_study(folder)
    with hold_folder(folder):
        texts = study_texts(config)
        study = StudyContext(config, texts, folder, model=model, say=say)
        if any(STUDY_METHODS.get(arm.method).needs_run for arm in arms):
            _ = study.index  # missing, it is said now
        require_askable(study.model, config)
        require_same_study(study)
        kept, known = KnownArms(folder), Calibrations(folder)
        rows: list[dict[str, Any]] = []
        samples: dict[str, Any] = {}
        failed: list[dict[str, str]] = []
        for arm in arms:
            found = _rows_of(study, arm, kept, known, scorers, progress, failed)
            for name, row, written in found:
                rows.append(row)
                samples[name] = _samples(written)
        result = {
            **compare_rows(rows, config),
            **_about(study),
            "failed": failed,
            "calibration": known.of([name for arm in arms for name in _names(arm, config)]),
            "samples": samples,
        }
        write_json(folder / RESULT, result)
    return result


def _rows_of(
    study: StudyContext,
    arm: Arm,
    arms: KnownArms,
    known: Calibrations,
    scorers: Mapping[str, Scorer],
    progress: Progress,
    failed: list[dict[str, str]],
) -> Sequence[tuple[str, dict[str, Any], Written]]:
    """The rows of an arm, one for each cost; what cannot be measured is told to `failed`."""
    try:
        steering = STUDY_METHODS.get(arm.method).steering(arm, study)
    except NotDefined as error:
        failed.append({"name": arm.name, "why": str(error)})
        study.say(f"left out: {arm.name}: {error}")
        return []
    arms.require_same(arm, steering)
    found: list[tuple[str, dict[str, Any], Written]] = []
    for cost in study.config.costs if steering.intervention is not None else (None,):
        setting = Setting(arm=arm, cost=cost)
        try:
            if cost is not None:
                setting = calibrated(study, arm, steering, cost, known)
            row, written = _row(study, setting, steering, scorers, progress)
        except (NoDose, TooStrong) as error:
            if arm.family == "none":
                raise
            failed.append({"name": setting.name, "why": str(error)})
            study.say(f"left out: {setting.name}: {error}")
            continue
        found.append((setting.name, row, written))
    return found


def _row(
    study: StudyContext,
    setting: Setting,
    steering: ArmSteering,
    scorers: Mapping[str, Scorer],
    progress: Progress,
) -> tuple[dict[str, Any], Written]:
    """What one setting writes, measured."""
    config = study.config
    intervention = None if setting.strength is None else steering.at(setting.strength)
    written = write_continuations(
        study.model,
        study.texts.prompts,
        config.sampling,
        config.continuations,
        study.folder / FOLDER / f"{setting.name}.jsonl",
        intervention=intervention,
        sae=study.sae,
        prefix=steering.prefix,
        progress=lambda done, total: progress(setting.name, done, total),
    )
    row = measure(
        study.model,
        setting,
        _steered(study, intervention),
        None if intervention is None else intervention.site,
        written,
        scorers,
        config,
        study.folder,
        study.say,
        neutral=study.texts.neutral,
    )
    return row, written


def _steered(study: StudyContext, intervention: Intervention | None) -> Steered:
    if intervention is None:
        return nullcontext
    return lambda: steer(study.model, study.sae, intervention)


def _names(arm: Arm, config: StudyConfig) -> list[str]:
    """Of the settings that an arm may have, one for each cost."""
    return [Setting(arm=arm, cost=cost).name for cost in config.costs]


def _samples(written: Written) -> list[dict[str, str]]:
    """The first continuation of the first prompts."""
    pairs = zip(written.prompts, written.texts_PN, strict=True)
    return [{"prompt": prompt, "text": texts[0]} for prompt, texts in list(pairs)[:_SAMPLES]]


def _about(study: StudyContext) -> dict[str, Any]:
    config, texts = study.config, study.texts
    return {
        "folder": str(study.folder),
        "run": config.run,
        "model": study.model.name,
        "site": study.site.name,
        "scorers": list(config.scorer),
        "costs": [cost.name for cost in config.costs],
        "sizes": {
            **{name: len(own) for name, own in _kinds(texts).items()},
            "continuations": config.continuations,
        },
    }


def _kinds(texts: StudyTexts) -> dict[str, tuple[str, ...]]:
    return {each.name: getattr(texts, each.name) for each in fields(texts)}
