"""An intervention at the strength that has a cost: what `sparsteer steer calibrate` does.

The folder that is written is an intervention, with what was measured beside it in
`calibration.json`, and `fit.json` where the intervention was a fit.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...sae.autoencoder import SparseAutoencoder
from ...sae.common.checksums import write_checked_json
from ...sae.common.errors import InputError
from ...sae.common.files import atomic_folder, json_text, other_content
from ...sae.common.paths import require_no_file_at
from ...sae.language_model.model import LanguageModel
from ..detox.prompts import prompts_of, reporting_prompts_among
from ..features.text_lists import read_text_list
from ..fitting.saving import FIT_FILE, model_fitted_to, require_fitted_to
from ..interventions.folder import write_files
from ..interventions.intervention import Intervention
from ..loading import load_for_intervention
from .calibrate_config import CalibrateConfig
from .calibration import Evaluation
from .strength import CostTexts, cost_function, find_strength, scaled_steering

CALIBRATION_FILE = "calibration.json"


def calibrate_intervention(
    config: CalibrateConfig,
    model: LanguageModel | None = None,
    sae: SparseAutoencoder | None = None,
    *,
    say: Callable[[str], None] = lambda sentence: None,
) -> dict[str, Any]:
    """Find the strength at which an intervention has the wanted cost, and write it so.

    Args:
        config: the intervention, the cost, and what it is measured on.
        model: the language model if it is loaded already, in place of the one that is named.
        sae: with it, the autoencoder of the intervention's features.
        say: told what takes time, and each strength that was tried.

    Returns:
        `strength`, a multiple of the intervention's own; the `cost` there; `met`, whether that is
        near enough to the wanted one; `evaluations`, each with `strength` and `cost`, null where
        the model broke; what was wanted and measured on; and `scaled`, the intervention at that
        strength as `Intervention.from_dict` reads it.

    Raises:
        InputError: the intervention, the texts or the model are wrong, or something else is at
            `config.out`.
        NoDose: no strength that was tried changes the model without breaking it.
    """
    if config.out is not None:
        require_calibration_free(config.out, force=config.force)
    intervention = Intervention.load(config.intervention)
    if intervention.changes_nothing:
        raise InputError(
            f"every strength of {config.intervention} is 0, and no multiple of it steers; give "
            "strengths",
            field="intervention",
        )
    named = _model_named(config, intervention) if model is None else None
    prompts, neutral = _texts(config, say)
    if model is None:
        model, sae = load_for_intervention(
            intervention,
            config.intervention,
            run=config.run,
            model=named,
            model_dtype=config.model_dtype,
            allow_other_weights=config.allow_other_weights,
            device=config.device,
            device_map=config.device_map,
            say=say,
        )
    if not config.allow_other_weights:
        require_fitted_to(config.intervention, model)
    texts = CostTexts(
        prompts=prompts,
        neutral=neutral,
        sampling=config.sampling,
        continuations=config.continuations,
        statistic=config.statistic,
        max_length=config.max_length,
        batch_size=config.batch_size,
    )
    budget = config.budget
    steered_at = scaled_steering(model, sae, intervention)
    found = find_strength(
        budget,
        cost_function(model, budget, steered_at, texts),
        start=config.start,
        largest=config.largest,
        tolerance=config.tolerance,
        most=config.evaluations,
        report=lambda one: say(_in_words(one, budget.kind)),
    )
    scaled = intervention.scaled(found.strength)
    values = {
        "intervention": config.intervention,
        "model": {"name": model.source, "weights_hash": model.weights_hash},
        "budget": asdict(budget),
        "tolerance": config.tolerance,
        "strength": found.strength,
        "cost": found.dose,
        "met": found.met,
        "evaluations": [
            {"strength": each.strength, "cost": each.dose} for each in found.evaluations
        ],
        "measured_on": _measured_on(config, prompts, neutral),
        "scaled": scaled.to_dict(),
    }
    if config.out is not None:
        _write(scaled, values, config)
    return {**values, "out": config.out}


def require_calibration_free(out: str | Path, *, force: bool) -> None:
    """Raise InputError if something is at `out` that a calibration may not replace: without `force`
    anything, and with it what is no calibration."""
    out = Path(out)
    require_no_file_at(out)
    if not out.exists() or not any(out.iterdir()):
        return
    if not (out / CALIBRATION_FILE).is_file():
        raise InputError(f"{out} is a folder of something else; give another --out", field="out")
    if not force:
        raise other_content(out)


def _model_named(config: CalibrateConfig, intervention: Intervention) -> str | None:
    """The language model to load; None where the autoencoder says which, or is missing."""
    if config.model is not None or config.run is not None or intervention.needs_autoencoder:
        return config.model
    fitted_to = model_fitted_to(config.intervention)
    if fitted_to is None:
        raise InputError(
            f"model is missing, and {config.intervention} has no fit.json that names one; give "
            "--model M",
            field="model",
        )
    return fitted_to


def _texts(
    config: CalibrateConfig, say: Callable[[str], None]
) -> tuple[Sequence[str], Sequence[str]]:
    """Prompts and neutral texts; those that the cost is not measured on are none."""
    if config.neutral is not None:
        return (), read_text_list(config.neutral, what="--neutral")
    if config.prompts is None:
        say("prompts: RealToxicityPrompts, of the side on which nothing is reported")
        return [prompt.text for prompt in prompts_of("tuning")[: config.n_prompts]], ()
    prompts = read_text_list(config.prompts, config.text_field, what="--prompts", prompts=True)
    prompts = prompts[: config.n_prompts]
    found = len(reporting_prompts_among(prompts))
    if found and not config.allow_reporting_side:
        raise InputError(
            f"{found:,} of {len(prompts):,} prompts are RealToxicityPrompts prompts of the "
            "reporting side: a strength that is chosen on them would be judged on them; leave them "
            "out, or give --allow-reporting-side",
            field="allow_reporting_side",
        )
    return prompts, ()


def _measured_on(
    config: CalibrateConfig, prompts: Sequence[str], neutral: Sequence[str]
) -> dict[str, Any]:
    """What the cost was measured on; of texts their number and a hash."""
    read = neutral or prompts
    about: dict[str, Any] = {
        "texts": len(read),
        "texts_sha256": hashlib.sha256(json.dumps(list(read)).encode()).hexdigest(),
    }
    if neutral:
        return {**about, "file": config.neutral, "max_length": config.max_length}
    sampled = {"temperature": config.temperature, "top_p": config.sampling.top_p}
    return {
        **about,
        "file": config.prompts,
        "continuations": config.continuations,
        "max_new_tokens": config.max_new_tokens,
        **sampled,
        "seed": config.seed,
        **({"statistic": config.statistic} if config.kl is not None else {}),
    }


def _in_words(one: Evaluation, kind: str) -> str:
    cost = "the model breaks" if one.dose is None else f"{one.dose:.4g}"
    return f"{kind.replace('_', ' ')} at strength {one.strength:.4g}: {cost}"


def _write(scaled: Intervention, values: dict[str, Any], config: CalibrateConfig) -> None:
    assert config.out is not None
    require_calibration_free(config.out, force=config.force)
    source = Path(config.intervention)
    with atomic_folder(config.out) as folder:
        write_files(folder, json_text(scaled.to_dict()), scaled.vectors)
        write_checked_json(folder / CALIBRATION_FILE, values)
        if source.is_dir() and (source / FIT_FILE).is_file():
            shutil.copyfile(source / FIT_FILE, folder / FIT_FILE)
