"""The stages of the demo, one after the other.

A further stage is a `Stage` in `STAGES`, and a section of the report that reads its result.
"""

import importlib.util
import time
from collections.abc import Callable
from typing import Any

from ...sae.common.errors import InputError
from ...sae.common.files import atomic_file, sha256_file
from ...sae.common.locks import hold_folder
from ...steering.detox.toxicity import toxicity_scores
from ...steering.interventions.intervention import TIERS
from ...training.config import ActivationName
from ...training.run import RunFolder
from ...training.runtime.stopping import StopRequest
from .application import APPLICATIONS, picked_features
from .checks import fetched_names, require_possible
from .config import DEMO_ACTIVATIONS, DemoConfig
from .stage import Demo, Progress, Result, Stage, no_progress, run_stage, settings_of


def run_demo(
    config: DemoConfig,
    *,
    say: Callable[[str], None] = lambda sentence: None,
    report: Progress = no_progress,
    stop: StopRequest | None = None,
) -> dict[str, Any]:
    """Run the whole chain, or what of it is not there yet, and write `demo-report.html`.

    Args:
        config: what to run, and in which folder.
        say: sentences for a person.
        report: opens a display of progress for a stage (title, unit), which is a context manager
            that gives the function to tell about it (done, total, figures in words).
        stop: as for `train`; looked at in the stages that train.

    Returns:
        model, site, tokens (activation rows); seconds {stage: seconds of this run}; saes {topk,
        top_afa: {fvu, l0, dead_fraction, loss_recovered, tokens_per_second}}; dictionary, the
        autoencoder whose features were used, a name or a folder; features_found, a list of
        {feature, auroc_mean, firing_positive, firing_negative}; toxicity, the mean probability for
        {base, constant, per_input, per_token, random_feature}, and toxic_fraction, the fraction of
        texts above one half (random_feature: the mean over several); selection {pool, selected,
        precision_of_target_source, precision_of_random}; report, its path.

    Raises:
        InputError: matplotlib or the scorer's package is missing, or something that the
            configuration names is not there or does not suit; nothing is written then. Or another
            process runs a demo in the folder.
        FetchError: the model or the text cannot be downloaded.
        Interrupted: `stop` was set; the step in hand was saved.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError(
            "the demo's report needs matplotlib, which is not installed; "
            "run `pip install 'sparsteer[plots]'`"
        )
    toxicity_scores(["a word"], config.scorer)  # missing, it is said now and not after minutes
    require_possible(config, say)
    demo = Demo(config, say, report, stop or StopRequest())
    with hold_folder(config.folder):
        return _run(demo)


def _run(demo: Demo) -> dict[str, Any]:
    config, say = demo.config, demo.say
    stages = [stage for stage in STAGES if stage.is_needed(config)]
    for number, stage in enumerate(stages, start=1):
        demo.stages[stage.name] = outcome = run_stage(stage, demo)
        done = "reused; made in" if outcome.reused else "done in"
        say(f"{number}/{len(stages)} {stage.title}: {done} {outcome.made_in:.0f} s")
    started = time.perf_counter()
    _write_report(demo)
    seconds = {name: stage.seconds for name, stage in demo.stages.items()}
    return {
        "model": config.model,
        "site": demo.result("cache")["site"],
        "tokens": demo.result("cache")["rows"],
        "seconds": {**seconds, "report": time.perf_counter() - started},
        "saes": {activation: _headline(demo, activation) for activation in DEMO_ACTIVATIONS},
        "dictionary": config.steered,
        "features_found": [
            {name: found[name] for name in _OF_A_FEATURE}
            for found in picked_features(config, demo.result("features"))
        ],
        "toxicity": _toxicity(demo, "mean"),
        "toxic_fraction": _toxicity(demo, "fraction"),
        "selection": _selected(demo),
        "report": str(config.report),
    }


def _headline(demo: Demo, activation: ActivationName) -> dict[str, float | None]:
    measures = demo.result(f"eval_{activation}")
    names = ("fvu", "l0", "dead_fraction", "loss_recovered")
    speed = demo.result(f"train_{activation}")["tokens_per_second"]
    return {**{name: measures[name] for name in names}, "tokens_per_second": speed}


_OF_A_FEATURE = ("feature", "auroc_mean", "firing_positive", "firing_negative")


def _toxicity(demo: Demo, measure: str) -> dict[str, float]:
    """A measure for each condition; for the random features its mean."""
    from ...steering.detox.measure import BASE, RANDOM_FEATURE

    conditions = demo.result("steering")["conditions"]
    randoms = [found[measure] for name, found in conditions.items() if RANDOM_FEATURE in name]
    named = {name: conditions[name][measure] for name in (BASE, *TIERS)}
    return {**named, RANDOM_FEATURE: sum(randoms) / len(randoms)}


def _selected(demo: Demo) -> dict[str, int | float]:
    found = demo.result("selection")["groups"][demo.config.subject]
    names = ("pool", "selected", "precision_of_target_source", "precision_of_random")
    return {name: found[name] for name in names}


def _write_report(demo: Demo) -> None:
    from .report import render

    page = render(demo.config, demo.stages)
    with atomic_file(demo.config.report) as temporary:
        temporary.write_text(page, encoding="utf-8")


# The stages. What they import is heavy, and counts among their seconds.


def _fetch(demo: Demo) -> Result:
    from ...sae.fetching.fetch import ARTIFACTS, fetch

    for name in fetched_names(demo.config):
        fetch(name, progress=demo.say)
    found = [ARTIFACTS[name] for name in fetched_names(demo.config)]
    return {
        "artifacts": [
            {"name": a.name, "summary": a.summary, "license": a.license, "origin": a.origin}
            for a in found
        ]
    }


def _is_fetched(demo: Demo) -> bool:
    from ...sae.fetching.fetch import is_fetched

    return all(is_fetched(name) for name in fetched_names(demo.config))


def _cache(demo: Demo) -> Result:
    from ...training.data.cache.writer import cache_activations

    with demo.progress("caching activations", "rows") as update:
        manifest = cache_activations(
            demo.config.cache_config(),
            progress=lambda done, wanted, rate: update(done, wanted, ""),
            say=demo.say,
        )
    return {
        "site": manifest.sites[0],
        "d_model": manifest.d_model,
        "rows": manifest.rows,
        "held_out_rows": manifest.held_out_rows,
        "excluded": manifest.excluded,
        "documents": manifest.corpus.documents,
        "held_out_documents": manifest.corpus.held_out_documents,
        "context_length": manifest.context_length,
        "dtype": manifest.dtype,
        "weights_hash": manifest.weights_hash,
        "corpus_fingerprint": manifest.corpus.fingerprint,
        "fingerprint": manifest.fingerprint,
        "notices": list(manifest.notices),
    }


def _is_cached(demo: Demo) -> bool:
    from ...training.data.cache.reader import ActivationCache

    try:
        ActivationCache(demo.config.cache)
    except InputError:
        return False  # missing or damaged: caching again repairs it
    return True


def _train_stage(activation: ActivationName) -> Stage:
    def run(demo: Demo) -> Result:
        from ...training.train import train

        with demo.progress(f"training {activation}", "steps") as update:
            summary = train(
                demo.config.train_config(activation),
                report=lambda done, total, figures: update(done, total, _figures(figures)),
                say=demo.say,
                stop=demo.stop,
            )
        folder = RunFolder(demo.config.run(activation))
        return {
            **summary,
            "curve": folder.curve(),
            "environment": folder.environment(),
        }

    def key(demo: Demo) -> Result:
        settings = settings_of(demo.config.train_config(activation))
        return {**settings, "activations": demo.result("cache")["fingerprint"]}

    return Stage(
        name=f"train_{activation}",
        title=f"train the {activation} autoencoder",
        run=run,
        key=key,
        is_there=lambda demo: RunFolder(demo.config.run(activation)).is_complete(),
    )


def _figures(figures: dict[str, Any]) -> str:
    """The newest figures in words; those of a held-out evaluation have names of their own."""
    if "held_out_fvu" in figures:
        return f"held-out FVU {figures['held_out_fvu']:.3f}, L0 {figures['held_out_l0']:.0f}"
    return f"FVU {figures['fvu']:.3f}, L0 {figures['l0']:.0f}"


def _eval_stage(activation: ActivationName) -> Stage:
    def run(demo: Demo) -> Result:
        from ...training.evaluation.evaluation import evaluate

        return evaluate(demo.config.eval_config(activation), say=demo.say)

    def key(demo: Demo) -> Result:
        weights = RunFolder(demo.config.run(activation)).sae / "sae.safetensors"
        return {
            **settings_of(demo.config.eval_config(activation)),
            "activations": demo.result("cache")["fingerprint"],
            "autoencoder": sha256_file(weights),
        }

    return Stage(
        name=f"eval_{activation}",
        title=f"evaluate the {activation} autoencoder",
        run=run,
        key=key,
    )


STAGES: tuple[Stage, ...] = (
    Stage(
        name="fetch",
        title="fetch the model and the text",
        run=_fetch,
        key=lambda demo: {
            "names": fetched_names(demo.config),
            "instructions": demo.config.instructions,
            "subject": demo.config.subject,
        },
        is_there=_is_fetched,
    ),
    Stage(
        name="cache",
        title="cache the activations",
        run=_cache,
        key=lambda demo: settings_of(demo.config.cache_config()),
        is_there=_is_cached,
    ),
    *(_train_stage(activation) for activation in DEMO_ACTIVATIONS),
    *(_eval_stage(activation) for activation in DEMO_ACTIVATIONS),
    *APPLICATIONS,
)
"""In the order they run; each may read the results of those before it."""
