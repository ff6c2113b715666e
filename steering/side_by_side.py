"""What a model writes by itself and steered, from the same prompts and the same random numbers."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ..sae.autoencoder import SparseAutoencoder
from ..sae.common.errors import InputError
from ..sae.common.wording import counted
from ..sae.fingerprint import sae_fingerprint
from ..sae.language_model.model import LanguageModel
from ..sae.language_model.sites import Site
from .config import GenerateConfig
from .features.index import FeatureIndex
from .features.picks import Picks
from .features.run_folder import run_folder
from .features.text_lists import read_text_list
from .fitting.saving import require_fitted_to
from .generation import Continuation, Generation, in_room
from .interventions.intervention import Intervention
from .interventions.named import named_paths
from .interventions.spec import SteeredFeature
from .loading import load_for_intervention, load_run
from .registries import FEATURE_GATES
from .texts import prompt_tokens

Watch = Callable[[list[tuple[str, dict[str, str]]]], None]
"""Told the batch that is being written: of each row the prompt, and by their names the texts so
far: `base` and `steered`, or `base` and each tier or named intervention."""


def side_by_side(
    config: GenerateConfig,
    *,
    say: Callable[[str], None] = lambda sentence: None,
    watch: Watch = lambda rows: None,
) -> dict[str, Any]:
    """Continue every prompt with and without steering, token by token in turns.

    Args:
        config: prompts, features, tier and settings.
        say: told what takes time, and where the longest prompt makes all texts shorter.
        watch: told the texts so far after each token.

    Returns:
        `run`, `model`, `site`, `intervention` (as `Intervention.from_dict` reads it), the settings,
        and for each prompt in `results` its text, its number of tokens and the continuations `base`
        and `steered`: a `Continuation`'s values with `repetition` and `likely_incoherent`. With all
        tiers, or interventions under names, there are `interventions`, one by the name of each, in
        place of `intervention`,
        and `steered` is an object with a continuation by the name of each.

    Raises:
        InputError: no such run, feature, picks or site, or a prompt that does not fit.
    """
    prompts = [*config.prompt]
    if config.prompts is not None:
        prompts += read_text_list(config.prompts, config.text_field, what="--prompts", prompts=True)
    (model, site, sae), interventions = _loaded_and_steered(config, say)
    rows = [prompt_tokens(model, prompt, chat=config.chat) for prompt in prompts]
    sampling = in_room(config.sampling, model, rows, say=say)
    several = config.tier == "all" or bool(config.interventions)
    results: list[dict[str, Any]] = []
    for start in range(0, len(prompts), sampling.batch_size):
        batch = rows[start : start + sampling.batch_size]
        generations = {"base": Generation(model, batch, sampling, use_cache=config.kv_cache)}
        for tier, intervention in interventions.items():
            generations[tier if several else "steered"] = Generation(
                model,
                batch,
                sampling,
                intervention=intervention,
                sae=sae,
                use_cache=config.kv_cache,
            )
        texts = prompts[start : start + sampling.batch_size]
        while going := [each for each in generations.values() if not each.done]:
            for generation in going:
                generation.step()
            watch(
                [
                    (text, {name: each.text(n) for name, each in generations.items()})
                    for n, text in enumerate(texts)
                ]
            )
        found = {name: map(_plain, each.results()) for name, each in generations.items()}
        for text, row in zip(texts, batch, strict=True):
            written = {name: next(each) for name, each in found.items()}
            if several:
                written = {"base": written.pop("base"), "steered": written}
            results.append({"prompt": text, "prompt_tokens": len(row), **written})
    plain = {tier: intervention.to_dict() for tier, intervention in interventions.items()}
    return {
        "run": config.run,
        "model": model.name,
        "model_dtype": model.dtype_name,
        "site": site.name,
        **({"interventions": plain} if several else {"intervention": next(iter(plain.values()))}),
        "chat": config.chat,
        "kv_cache": config.kv_cache and model.kv_cache_works,
        **dataclasses.asdict(sampling),
        "results": results,
    }


def _loaded_and_steered(
    config: GenerateConfig, say: Callable[[str], None]
) -> tuple[tuple[LanguageModel, Site, SparseAutoencoder | None], dict[str, Intervention]]:
    """What the settings load, and how they steer: an intervention by the name of each tier, or by
    its own name."""
    paths: dict[str, Path] = named_paths(config.interventions, "interventions")
    if config.intervention is not None:
        paths["steered"] = Path(config.intervention)
    if paths:
        given = {name: Intervention.load(path) for name, path in paths.items()}
        # What asks for most: one with features needs the run, any other only the model.
        name = next(
            (name for name, each in given.items() if each.needs_autoencoder), next(iter(given))
        )
        model, sae = load_for_intervention(
            given[name],
            str(paths[name]),
            run=config.run,
            model=config.model,
            model_dtype=config.model_dtype,
            allow_other_weights=config.allow_other_weights,
            device=config.device,
            device_map=config.device_map,
            say=say,
            remedy="give the folder of its run, too",
        )
        if not config.allow_other_weights:
            for path in paths.values():
                require_fitted_to(path, model)
        return (model, model.site(next(iter(given.values())).site), sae), given
    assert config.run is not None  # as the settings have checked
    features = steered_features(config.run, config, SparseAutoencoder.load(config.run), say)
    loaded = load_run(
        config.run,
        model=config.model,
        site=config.site,
        model_dtype=config.model_dtype,
        allow_other_weights=config.allow_other_weights,
        device=config.device,
        device_map=config.device_map,
        say=say,
    )
    return loaded, {
        tier: Intervention.of_features(
            site=loaded.site.name,
            features=features,
            tier=tier,
            threshold=config.threshold,
            edit=config.edit,
            direction=config.direction,
            seed=0 if config.direction == "decoder" else config.sampling.seed,
        )
        for tier in (FEATURE_GATES.names() if config.tier == "all" else (config.tier,))
    }


def intervention_of_picks(
    run: str,
    sae: SparseAutoencoder,
    site: str,
    *,
    picks: str | None = None,
    tier: str = "constant",
    threshold: float = 0.0,
) -> Intervention:
    """The intervention that steers with all picks of a run, each with its strength.

    Args:
        run: run folder with the autoencoder, its feature index and its picks.
        sae: the autoencoder of the run.
        site: name of the site, such as `blocks.15.hook_resid_post`.
        picks: file of picks, or another run folder that has them.
        tier, threshold: as of `Intervention`.

    Raises:
        InputError: as `steered_features`.
    """
    config = GenerateConfig(run=run, picks=picks or run, prompt=("",), tier=tier)
    return Intervention.of_features(
        site=site, features=steered_features(run, config, sae), tier=tier, threshold=threshold
    )


@runtime_checkable
class FeatureSettings(Protocol):
    """The settings that say which features are steered, and how far."""

    @property
    def feature(self) -> tuple[int, ...]: ...
    @property
    def picks(self) -> str | None: ...
    @property
    def strength(self) -> float | None: ...
    @property
    def max_activation(self) -> float | None: ...


def steered_features(
    run: str,
    config: FeatureSettings,
    sae: SparseAutoencoder,
    say: Callable[[str], None] = lambda sentence: None,
) -> tuple[SteeredFeature, ...]:
    """The features that the settings name, each with its strength and its own unit.

    Args:
        run: folder with the feature index, which knows the largest activations.
        config: numbers of features or picks, and strengths.
        sae: the autoencoder of the features.
        say: told of rejected picks, which do not steer.

    Raises:
        InputError: a feature does not exist or never fires, the picks are of another autoencoder or
            all rejected, or there is no feature index that knows the largest activations.
    """
    fingerprint = sae_fingerprint(sae)
    factor = 1.0 if config.strength is None else config.strength
    strengths = dict.fromkeys(config.feature, factor)
    if config.picks is not None:
        # Those of an autoencoder that is in no run lie where `pick` keeps them.
        place = run_folder(run) if config.picks == run else config.picks
        every = Picks.load(place, sae=fingerprint).picks
        picks = [pick for pick in every if pick.steers]
        if not picks:
            raise InputError(
                f"all picks of {config.picks} are rejected, so none steers; pick another feature, "
                "or take a verdict back with `sparsteer pick RUN add N --verdict none`"
                if every
                else f"{config.picks} has no picks; add one with `sparsteer pick`"
            )
        if len(picks) < len(every):
            say(f"left out: {counted(len(every) - len(picks), 'rejected pick')}")
        strengths = {pick.feature: factor * pick.strength for pick in picks}
    for number in strengths:
        if not 0 <= number < sae.config.n_latents:
            raise InputError(
                f"there is no feature {number}; this autoencoder has features 0 to "
                f"{sae.config.n_latents - 1}"
            )
    units = dict.fromkeys(strengths, config.max_activation)
    if config.max_activation is None:
        index = FeatureIndex(run, sae=fingerprint)
        units = {number: index.max_activation(number) for number in strengths}
    return tuple(
        SteeredFeature(index=number, strength=strengths[number], max_activation=unit)
        for number, unit in units.items()
        if unit is not None
    )


def _plain(text: Continuation) -> dict[str, Any]:
    return {
        **dataclasses.asdict(text),
        "repetition": text.repetition,
        "likely_incoherent": text.likely_incoherent,
    }
