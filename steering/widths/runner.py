"""Steering over widths from its settings to its result: a study a dictionary, and how it splits."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...sae.common.files import write_json
from ...sae.common.locks import hold_folder
from ...sae.fingerprint import sae_fingerprint
from ...sae.language_model.model import LanguageModel
from ..errors import NotDefined
from ..loading import LoadedRun, load_run
from ..study.config import StudyConfig
from ..study.context import StudyContext
from ..study.identity import require_free_or_study
from ..study.runner import run_study
from ..study.texts import study_texts
from .comparing import RunStudy, compare_widths
from .config import METHODS, WidthsConfig
from .runs import WidthsRun, opened_runs, require_indexes, require_model
from .splitting import ReferenceLatent, difference_of_means, splitting

RESULT = "widths.json"
"""What `run_widths` gives, in the folder of the results."""

Say = Callable[[str], None]
Progress = Callable[[str, int, int], None]
"""Told the run and the setting, how many continuations there are of it, and how many there will
be."""


def run_widths(
    config: WidthsConfig,
    *,
    say: Say = lambda sentence: None,
    progress: Progress = lambda setting, done, total: None,
) -> dict[str, Any]:
    """Compare steering with the latents of several dictionaries of one site.

    In each dictionary latents are chosen on texts that are not reported on, as `features find`
    does: the best one, and the group of a sparse logistic regression. A study of its own, in a
    folder of the run's name, measures steering away with the best latent, with the group, along the
    mean direction of the group, and with random latents, all at the same costs; so the same command
    goes on after an interruption.

    Args:
        config: the settings.
        say: told what takes time.
        progress: see `Progress`.

    Returns:
        `folder`, `model`, `site`, `reference` (the name of the narrowest dictionary in which a
        latent tells the texts apart; None where there is none), `costs`, `tiers`, `scorers`,
        `least_cosine`; `runs`, of each, the narrowest first, `name`, `run`, `sae` (its
        fingerprint), `n_latents`, `activation`, `best` (`feature`, `auroc`, `firing_positive`,
        `firing_negative`; None where no latent tells the texts apart), `group` (its latents),
        `splitting` (see `Splitting`; None likewise), `rows` and `against_random` (of its study)
        and `failed`; and `comparisons`, as `compare_widths` gives them. The same is written as
        widths.json.

    Raises:
        InputError: as `run_study`; runs are missing, of other sites or of other models; or a run
            has no feature index, and there is no cache to build it from.
    """
    runs = opened_runs(config)
    folder = Path(config.out)
    require_free_or_study(folder)
    with hold_folder(folder):
        loaded = _loaded(runs[0], config, say)
        for run in runs[1:]:
            allowed = config.allow_other_weights
            require_model(run, loaded.model, allow_other_weights=allowed, say=say)
        require_indexes(runs, config, loaded.model, say)
        studies = [config.study_of(run.run, folder / run.name) for run in runs]
        results = [
            _studied(run, study, loaded.model, say, progress)
            for run, study in zip(runs, studies, strict=True)
        ]
        found = _split(runs, studies, results, loaded, config, say)
        reference = next((one["name"] for one in found if one["best"] is not None), None)
        result = {
            "folder": str(folder),
            "model": loaded.model.name,
            "site": loaded.site.name,
            "reference": reference,
            "costs": [cost.name for cost in studies[0].costs],
            "tiers": list(config.tiers),
            "scorers": list(config.scorer),
            "least_cosine": config.least_cosine,
            "runs": found,
            "comparisons": compare_widths(
                [
                    RunStudy(run.name, folder / run.name, one["rows"])
                    for run, one in zip(runs, results, strict=True)
                ],
                tiers=config.tiers,
                costs=[cost.name for cost in studies[0].costs],
                scorers=config.scorer,
                reference=reference,
            ),
        }
        write_json(folder / RESULT, result)
    return result


def _loaded(run: WidthsRun, config: WidthsConfig, say: Say) -> LoadedRun:
    return load_run(
        run.run,
        model=config.model,
        site=config.site,
        model_dtype=config.model_dtype,
        allow_other_weights=config.allow_other_weights,
        device=config.device,
        say=say,
    )


def _studied(
    run: WidthsRun, study: StudyConfig, model: LanguageModel, say: Say, progress: Progress
) -> dict[str, Any]:
    say(f"{run.name}: {run.n_latents:,} latents")
    return run_study(
        study,
        model,
        say=lambda sentence: say(f"{run.name}: {sentence}"),
        progress=lambda setting, done, total: progress(f"{run.name}, {setting}", done, total),
    )


def _split(
    runs: Sequence[WidthsRun],
    studies: Sequence[StudyConfig],
    results: Sequence[Mapping[str, Any]],
    loaded: LoadedRun,
    config: WidthsConfig,
    say: Say,
) -> list[dict[str, Any]]:
    """What is told of each run."""
    texts = study_texts(studies[0])  # the same of each
    say("measuring how the concept is shared out among latents")
    difference_D = difference_of_means(
        loaded, texts.positive, texts.negative, batch_size=config.batch_size
    )
    reference: ReferenceLatent | None = None
    found: list[dict[str, Any]] = []
    for run, study, result in zip(runs, studies, results, strict=True):
        context = StudyContext(study, texts, Path(study.out), model=loaded.model, say=say)
        chosen, failed = _chosen(context, result)
        told: dict[str, Any] = {"best": None, "group": [], "splitting": None}
        if chosen is not None:
            best, W_dec_FD = chosen["features"][0], run.sae.W_dec.detach()
            group = [member["feature"] for member in chosen["group"] if member["weight"] > 0]
            shared = splitting(
                W_dec_FD,
                best["feature"],
                group,
                reference=reference,
                difference_D=difference_D,
                least_cosine=config.least_cosine,
                seed=config.seed,
            )
            reference = reference or ReferenceLatent(W_dec_FD, best["feature"])
            told = {
                "best": {
                    "feature": best["feature"],
                    "auroc": best["auroc_mean"],
                    "firing_positive": best["firing_positive"],
                    "firing_negative": best["firing_negative"],
                },
                "group": group,
                "splitting": shared.to_dict(),
            }
        found.append(
            {
                "name": run.name,
                "run": run.run,
                "sae": sae_fingerprint(run.sae),
                "n_latents": run.n_latents,
                "activation": run.sae.config.activation,
                **told,
                "rows": result["rows"],
                "against_random": [
                    one for one in result["comparisons"] if one["relation"] == "random"
                ],
                "failed": failed,
            }
        )
    return found


def _chosen(
    context: StudyContext, result: Mapping[str, Any]
) -> tuple[dict[str, Any] | None, list[dict[str, str]]]:
    """The latents that were chosen in a dictionary, and what was left out of its study; None where
    no latent tells the texts apart, and then why."""
    failed = list(result["failed"])
    try:
        return context.found, failed
    except NotDefined as error:
        if all(one["why"] != str(error) for one in failed):
            failed.append({"name": METHODS["sae"], "why": str(error)})
        return None, failed
