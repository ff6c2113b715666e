"""The suite: every part measures every autoencoder once, and what is measured is kept."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache as remembered
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ...sae.common.devices import resolve_device
from ...sae.common.errors import InputError
from ...sae.common.files import write_json
from ...sae.common.locks import hold_folder
from ...sae.config import build_dataclass
from ...sae.fingerprint import sae_fingerprint
from ...sae.language_model.model import LanguageModel
from ...training.chosen_precision import measuring_precision
from ...training.data.cache.reader import ActivationCache
from ...training.evaluation.config import EvalSettings
from ...training.evaluation.language_model_figures import model_of_cache
from ...training.evaluation.subjects import Subject
from ...training.run_places import is_run, run_of, shared_folder
from ..registries import SUITE_PARTS
from .comparing import with_probing_above_pca
from .config import SuiteSettings, parsed_part_settings
from .part import Part, SuiteContext
from .seeds import common_name, over_seeds, seed_groups
from .store import PartResults, as_saved, key_of
from .subjects import opened_subjects

RESULT = "suite.json"
"""What `run_suite` gives, in the suite's folder."""

Say = Callable[[str], None]
Progress = Callable[[str, int, int], None]
"""Told the part, what is done of it, and what there is in all."""


def run_suite(
    saes: Sequence[str],
    settings: EvalSettings,
    suite: SuiteSettings,
    *,
    say: Say = lambda sentence: None,
    progress: Progress = lambda part, done, total: None,
) -> dict[str, Any]:
    """Measure autoencoders and baselines with every part of the suite.

    Each part's results are saved when it is done, in `parts/PART.json` of the folder that
    `suite_folder` gives, each under a hash of all that it depends on: the autoencoder's weights,
    the cache, the settings and this version. The same command goes on after an interruption, and
    another one measures what is new.

    Args:
        saes: folders of autoencoders, or of runs.
        settings: the cache, and how much of it.
        suite: which parts, and which baselines.
        say: sentences for a person.
        progress: see `Progress`.

    Returns:
        `folder`; `cache`; `parts`, for each its `heading` and `reading`; `autoencoders`, of each
        its `name`, `sae` (its path, None of a baseline), `baseline`, `site`, `activation`,
        `d_model`, `n_latents`, `fingerprint`, and in `parts` for each part `figures` by name,
        `details`, `warnings` and whether it was `reused`; and `seeds`, for runs that differ in the
        seed alone their `name`, `members` and in `parts` figures as of `over_seeds`. The same is
        written as suite.json.

    Raises:
        InputError: as `evaluate_all`; a part has no such setting, or needs the language model that
            `contexts` 0 leaves out; another process writes the folder; or a saved part has changed.
    """
    device = resolve_device(settings.device)
    precision = measuring_precision(settings.precision, device)
    parts = chosen_parts(suite.parts, settings, say)
    options = part_options(parts, suite)
    cache = ActivationCache(settings.cache)
    named = opened_subjects(saes, cache, settings, suite, device, say)
    subjects = [subject for _, subject in named]
    seeds = seed_groups([subject.path for subject in subjects if subject.baseline is None])
    fingerprints = [sae_fingerprint(subject.sae) for subject in subjects]

    @remembered
    def model() -> LanguageModel:
        return model_of_cache(cache, settings, device, say)

    facts = {
        "cache": cache.fingerprint,
        "rows": settings.rows,
        "contexts": settings.contexts,
        "model": [settings.model, settings.model_dtype, settings.device_map],
        "precision": precision,
    }
    folder = suite_folder(saes, suite)
    found: list[dict[str, Any]] = [{} for _ in subjects]
    with hold_folder(folder):
        for name, part in parts.items():
            keys = _keys(name, part, options[name], subjects, fingerprints, facts, suite.seed)
            results = PartResults(folder, name)
            missing = [number for number, key in enumerate(keys) if key not in results.by_key]
            reused = set(range(len(subjects))) - set(missing)
            if missing and part.together:
                missing, reused = list(range(len(subjects))), set[int]()
            if reused:
                say(f"{name}: {len(reused)} of {len(subjects)} measured before")
            if missing:
                say(f"{name}: measuring {len(missing)}")
                chosen = [subjects[number] for number in missing]
                context = SuiteContext(
                    subjects=tuple(chosen),
                    seeds=tuple(
                        tuple(subjects[number] for number in group)
                        for group in seeds
                        if set(group) <= set(missing)
                    ),
                    cache=cache,
                    settings=settings,
                    options=options[name],
                    seed=suite.seed,
                    model=model,
                    say=say,
                    progress=partial(progress, name),
                )
                results.save(_measured(part, context, [keys[number] for number in missing]))
            for number, key in enumerate(keys):
                found[number][name] = {**results.by_key[key], "reused": number in reused}
        found = with_probing_above_pca(subjects, found)
        result = _result(folder, settings, parts, named, fingerprints, found, seeds)
        write_json(folder / RESULT, result)
    return result


def chosen_parts(names: Sequence[str], settings: EvalSettings, say: Say) -> dict[str, Part]:
    """The parts that are named, in the order of the registry; by default those that measure without
    being named, without those that `contexts` 0 leaves out, which is said.

    Raises InputError if a named one needs the language model and `contexts` is 0.
    """
    for name in names:
        SUITE_PARTS.require(name)
    found: dict[str, Part] = {}
    for name in SUITE_PARTS.names():
        if names and name not in names:
            continue
        part = SUITE_PARTS.get(name)
        if part.needs_model and not settings.contexts:
            if names:
                raise InputError(
                    f"contexts is 0, which leaves the language model out, but the part {name} "
                    "needs it; give 1 or more, or other parts",
                    field="contexts",
                )
            say(f"without the language model the part {name} is left out")
        elif names or part.by_default:
            found[name] = part
    return found


def part_options(parts: Mapping[str, Part], suite: SuiteSettings) -> dict[str, Any]:
    """The settings of each part, None of one that has none.

    Raises InputError if a part that is measured has no such setting, or refuses its value, or a
    setting is of a part that is not measured.
    """
    given = parsed_part_settings(suite.part_setting)
    for name in given:
        if name not in parts:
            raise InputError(
                f"part_setting is of the part {name}, which is not measured; name it in parts",
                field="part_setting",
            )
    found: dict[str, Any] = {}
    for name, part in parts.items():
        own = given.get(name, {})
        if part.options is None and own:
            raise InputError(
                f"part_setting is of the part {name}, which has no settings; leave it out",
                field="part_setting",
            )
        where = f"part_setting of {name}"
        found[name] = None if part.options is None else build_dataclass(part.options, own, where)
    return found


def suite_folder(saes: Sequence[str], suite: SuiteSettings) -> Path:
    """Where results go: the folder that is given; else suite/ in the one run, or in the folder that
    holds several; NAME-suite beside an autoencoder of no run, and in the working folder for what is
    no folder."""
    if suite.suite_out is not None:
        return Path(suite.suite_out)
    folders = list(dict.fromkeys(run_of(Path(sae)) for sae in saes))
    if not all(folder.exists() for folder in folders):
        return Path("suite")
    if len(folders) > 1:
        return shared_folder(folders) / "suite"
    (folder,) = folders
    return folder / "suite" if is_run(folder) else folder.with_name(f"{folder.name}-suite")


def _keys(
    name: str,
    part: Part,
    options: Any,
    subjects: Sequence[Subject],
    fingerprints: Sequence[str],
    facts: Mapping[str, Any],
    seed: int,
) -> list[str]:
    """By what the part's result about each subject is found again."""
    same = {
        "part": name,
        "version": version("sparsteer"),
        "options": repr(options),
        "seed": seed,
        "together": sorted(fingerprints) if part.together else None,
        **{fact: facts[fact] for fact in part.depends_on},
    }
    return [
        key_of({**same, "sae": fingerprint, "sites": subject.sites})
        for subject, fingerprint in zip(subjects, fingerprints, strict=True)
    ]


def _measured(part: Part, context: SuiteContext, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
    started = time.monotonic()
    measured = part.measure(context)
    about = {
        "seconds_of_part": round(time.monotonic() - started, 1),
        "measured_together": len(context.subjects),
    }
    return {
        key: as_saved(one, {"sae": subject.path, **about})
        for key, subject, one in zip(keys, context.subjects, measured, strict=True)
    }


def _result(
    folder: Path,
    settings: EvalSettings,
    parts: Mapping[str, Part],
    named: Sequence[tuple[str, Subject]],
    fingerprints: Sequence[str],
    found: Sequence[Mapping[str, Any]],
    seeds: Sequence[Sequence[int]],
) -> dict[str, Any]:
    return {
        "folder": str(folder),
        "cache": settings.cache,
        "parts": {
            name: {"heading": part.heading, "reading": part.reading} for name, part in parts.items()
        },
        "autoencoders": [
            {
                "name": name,
                "sae": None if subject.baseline else subject.path,
                "baseline": subject.baseline,
                "site": subject.site,
                **({"target_site": subject.target_site} if subject.target_site else {}),
                "activation": subject.sae.config.activation,
                "d_model": subject.sae.config.d_model,
                "n_latents": subject.sae.config.n_latents,
                "prefixes": list(subject.sae.config.prefixes),
                "fingerprint": fingerprint,
                "parts": dict(of_parts),
            }
            for (name, subject), fingerprint, of_parts in zip(
                named, fingerprints, found, strict=True
            )
        ],
        "seeds": [
            {
                "name": common_name([named[number][0] for number in group]),
                "members": [named[number][0] for number in group],
                "parts": {
                    name: over_seeds([found[number][name]["figures"] for number in group])
                    for name in parts
                },
            }
            for group in seeds
        ],
    }
