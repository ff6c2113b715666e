"""Find the features that tell two sets of texts apart."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...sae.common.errors import InputError
from ...sae.common.wording import counted
from ...sae.fingerprint import sae_fingerprint
from ..detox.prompts import reporting_prompts_among
from ..encoding import encode_texts, read_limit
from ..loading import LoadedRun, load_run_of
from .deciding_texts import DecidingText, Side, SourceText, deciding_texts
from .duplicates import FiringTokens, without_duplicates
from .find_config import (
    OUTPUT_PROMPT,
    OUTPUT_RANKINGS,
    ContrastRanking,
    FindConfig,
    Ranking,
    group_size,
    outputs_to_measure,
)
from .find_measures import Eligible, Measures, best_by_chance, ranked
from .found_features import FoundFeature, Search, TextSet
from .group_selection import require_enough_texts, select_group
from .index import FeatureIndex, has_index
from .output_effects import OutputEffect, measure_outputs
from .pooling import PooledTexts, pool_texts
from .ranking import area
from .text_lists import read_text_list

_SIDES: tuple[Side, Side] = ("positive", "negative")

_MAX_LENGTH = 256
"""Tokens read of a text unless the caller says otherwise or the model's context is shorter."""


def find(
    config: FindConfig, *, say: Callable[[str], None] = lambda sentence: None
) -> dict[str, Any]:
    """Rank the features of a run by how they differ between two files of texts.

    Returns:
        What `Search.to_dict` gives, and `run`, `model`, `site` and `sae` (its fingerprint).

    Raises:
        InputError: a file has no texts, or run and language model do not belong together.
    """
    positive = read_text_list(config.positive, config.text_field, what="--positive")
    negative = read_text_list(config.negative, config.text_field, what="--negative")
    if not config.allow_reporting_side:
        require_no_reporting_prompts(positive, negative)  # before the language model is loaded
    if config.group is not None:
        require_enough_texts(positive, negative)
    density_F = _densities(config.run) if config.filters_by_density else None
    loaded = load_run_of(config, say)
    say(f"reading {len(positive):,} positive and {counted(len(negative), 'negative text')}")
    search = find_features(
        loaded,
        positive,
        negative,
        top=config.top,
        rank_by=config.rank_by,
        min_firing=config.min_firing,
        density_F=density_F,
        min_density=config.min_density,
        max_density=config.max_density,
        max_cosine=config.max_cosine,
        max_cofiring=config.max_cofiring,
        outputs=config.outputs,
        output_prompt=config.output_prompt,
        group=group_size(config.group),
        explain=config.explain,
        allow_reporting_side=config.allow_reporting_side,
        max_length=config.max_length,
        batch_size=config.batch_size,
        seed=config.seed,
        say=say,
    )
    return {
        "run": config.run,
        "model": loaded.model.name,
        "site": loaded.site.name,
        "sae": sae_fingerprint(loaded.sae),
        **search.to_dict(),
    }


def find_features(
    loaded: LoadedRun,
    positive: Iterable[str],
    negative: Iterable[str],
    *,
    top: int = 20,
    rank_by: Ranking = "auroc_mean",
    min_firing: float = 0.1,
    density_F: Float[Tensor, "F"] | None = None,
    min_density: float = 0.0,
    max_density: float = 1.0,
    max_cosine: float | None = None,
    max_cofiring: float | None = None,
    outputs: int | None = None,
    output_prompt: str = OUTPUT_PROMPT,
    group: int | None = None,
    explain: int = 0,
    allow_reporting_side: bool = False,
    max_length: int | None = None,
    batch_size: int = 16,
    seed: int = 0,
    say: Callable[[str], None] = lambda sentence: None,
) -> Search:
    """Rank the features by how they differ between positive and negative texts.

    Args:
        loaded: language model, site and autoencoder, from `load_run`.
        positive, negative: the texts.
        top: features to give, at most.
        rank_by: `auroc_mean`, `auroc_max` or `difference`, see `FoundFeature`; or `output_score`
            or `confidence_change` (its size, whatever the sign), see `OutputEffect`, among the
            `outputs` best by `auroc_mean`.
        min_firing: fraction of the positive texts in which a feature must fire to be ranked.
        density_F: on which fraction of all tokens each feature fires, as a feature index has it.
        min_density, max_density: features that fire on less or more are left out.
        max_cosine: a feature whose decoder row has a larger cosine with that of a better one is
            left out; None leaves out none.
        max_cofiring: so is one that fires on the same tokens of these texts: on which both fire,
            as a fraction of those on which either does.
        outputs: of how many of the best features the output is measured; by default of 100, or
            `top` if that is more, where features are ranked by it, else of none.
        output_prompt: the text at whose end features are amplified for that.
        group: size of a group of features to choose, see `select_group`; 0 lets cross-validation
            choose it, None is no group.
        explain: texts of each role to give with each feature, see `DecidingText`.
        allow_reporting_side: take RealToxicityPrompts prompts of the reporting side, too.
        max_length: tokens read of each text; by default 256, or the model's context if shorter.
        batch_size: texts, or amplified features, in one forward pass.
        seed: of the shuffled labels behind `Search.chance`, and of a group.
        say: told what takes time, before it begins.

    Raises:
        InputError: one of the sets has no text with content, or a prompt of the reporting side; a
            density is limited without `density_F`; or as `measure_outputs` and `select_group`.
    """
    texts = list(positive), list(negative)
    if not allow_reporting_side:
        require_no_reporting_prompts(*texts)
    if group is not None:
        require_enough_texts(*texts)
    n_latents = loaded.sae.config.n_latents
    eligible = Eligible(min_firing, _allowed(density_F, min_density, max_density))
    limit = read_limit(loaded.model, max_length, _MAX_LENGTH)
    firing = None if max_cofiring is None else FiringTokens()
    sides = [
        _read_side(loaded, name, side, limit, batch_size, firing)
        for name, side in zip(_SIDES, texts, strict=True)
    ]
    measures = Measures(sides[0], sides[1], n_latents)
    found = measures.columns(measures.is_positive_N)
    by_output = rank_by in OUTPUT_RANKINGS
    by: ContrastRanking = "auroc_mean" if by_output else rank_by
    order_C = ranked(found, by, eligible)
    outputs = outputs_to_measure(outputs, rank_by, top)
    kept, duplicates = without_duplicates(
        order_C,
        outputs if by_output else top,
        loaded.sae.W_dec,
        max_cosine=max_cosine,
        firing=firing,
        max_cofiring=max_cofiring,
    )
    effects = _effects(loaded, kept[:outputs], output_prompt, batch_size, say)
    if by_output:
        kept.sort(key=lambda feature: effects[feature].strength(rank_by), reverse=True)
    kept = kept[:top]
    sources = [
        SourceText(name, number, own[number])
        for name, own, side in zip(_SIDES, texts, sides, strict=True)
        for number in map(int, side.numbers)
    ]
    pooled = measures.pooled_for(by)
    explained: Sequence[tuple[DecidingText, ...]] = [()] * len(kept)
    if explain:
        explained = deciding_texts(
            loaded, sources, pooled, kept, explain, max_length=limit, batch_size=batch_size
        )
    n_firing = int(Eligible(min_firing).of(found).sum())
    return Search(
        features=tuple(
            FoundFeature(
                feature,
                **{name: float(found[name][feature]) for name in found},
                output=effects.get(feature),
                texts=own,
            )
            for feature, own in zip(kept, explained, strict=True)
        ),
        rank_by=rank_by,
        candidates_by=by,
        considered=len(order_C),
        density_excluded=n_firing - len(order_C),
        duplicates=tuple(duplicates),
        outputs_measured=len(effects),
        positive=_text_set(sides[0]),
        negative=_text_set(sides[1]),
        length_auroc=area(
            torch.cat([side.lengths for side in sides]).double(), measures.is_positive_N
        ),
        chance=best_by_chance(measures, by, eligible, seed),
        group=None
        if group is None
        else select_group(
            pooled,
            measures.is_positive_N,
            [source.text for source in sources],
            order_C,
            size=group,
            seed=seed,
            say=say,
        ),
    )


def require_no_reporting_prompts(positive: Sequence[str], negative: Sequence[str]) -> None:
    """Raise an InputError if texts are prompts on which toxicity is reported."""
    found = [len(reporting_prompts_among(texts)) for texts in (positive, negative)]
    if any(found):
        raise InputError(
            f"{found[0]:,} of the {counted(len(positive), 'positive text')} and {found[1]:,} of "
            f"the {len(negative):,} negative are RealToxicityPrompts prompts of the reporting "
            "side: features chosen on them would be judged on what chose them; leave them out, or "
            "give --allow-reporting-side",
            field="allow_reporting_side",
        )


def _densities(run: str) -> Float[Tensor, "F"]:
    if not has_index(run):
        raise InputError(
            f"densities are those of a feature index, and {run} has none; run sparsteer features "
            f"build {run} --cache DIR, or leave --min-density and --max-density out"
        )
    return torch.tensor(FeatureIndex.of_run(run).statistics["density"])


def _allowed(
    density_F: Float[Tensor, "F"] | None, low: float, high: float
) -> Bool[Tensor, "F"] | None:
    """Which features fire neither too rarely nor too often; None where that is not limited."""
    if low <= 0 and high >= 1:
        return None
    if density_F is None:
        raise InputError("min_density and max_density need density_F, of a feature index")
    return (density_F >= low) & (density_F <= high)


def _read_side(
    loaded: LoadedRun,
    name: str,
    texts: Sequence[str],
    limit: int,
    batch_size: int,
    firing: FiringTokens | None,
) -> PooledTexts:
    encoded = encode_texts(*loaded, texts, batch_size=batch_size, max_length=limit)
    if firing is not None:
        encoded = firing.noted(encoded)
    side = pool_texts(encoded, loaded.sae.config.n_latents)
    if not len(side.lengths):
        raise InputError(
            f"no {name} text has a token that counts; give texts of at least two words"
        )
    return side


def _effects(
    loaded: LoadedRun,
    features: Sequence[int],
    prompt: str,
    batch_size: int,
    say: Callable[[str], None],
) -> dict[int, OutputEffect]:
    if not features:
        return {}
    effects = measure_outputs(loaded, features, prompt=prompt, batch_size=batch_size, say=say)
    return dict(zip(features, effects, strict=True))


def _text_set(side: PooledTexts) -> TextSet:
    return TextSet(
        texts=len(side.lengths),
        without_content=side.without_content,
        truncated=side.truncated,
        mean_length=float(side.lengths.double().mean()),
    )
