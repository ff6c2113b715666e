"""How toxic a model's continuations are under each tier of an intervention, beside the controls."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ...sae.autoencoder import SparseAutoencoder
from ...sae.language_model.model import LanguageModel
from ..config import Sampling
from ..generation import Continuation, generate
from ..interventions.controls import random_features
from ..interventions.intervention import TIERS, Intervention
from .toxicity import DEFAULT_SCORER, summarize_scores, toxicity_scores

BASE = "base"
RANDOM_FEATURE = "random_feature"


def measure_tiers(
    model: LanguageModel,
    sae: SparseAutoencoder,
    intervention: Intervention,
    prompts: Sequence[str],
    sampling: Sampling,
    *,
    random_candidates: Sequence[int] | None = None,
    n_random: int = 1,
    tiers: Sequence[str] = TIERS,
    scorer: str = DEFAULT_SCORER,
    report: Callable[[int, int, str], None] = lambda done, total, doing: None,
) -> dict[str, Any]:
    """Continue the prompts unsteered, under each tier, and under random features; score the texts.

    Every condition draws the same random numbers for a prompt, so their differences are paired.

    Args:
        model, sae, intervention: what is steered and how; the intervention's own tier is replaced
            by each of `tiers`.
        prompts: beginnings of texts, of one side of the split only (see `prompts.prompts_of`).
        sampling: how tokens are chosen.
        random_candidates: latents that the random features are drawn from; all by default.
        n_random: random features, each a control of its own; they differ much among themselves.
        tiers: names of gates; by default the three of the method.
        scorer: name of what says how toxic a text is.
        report: told about progress: conditions done, conditions in all, the one that comes next.

    Returns:
        For `base`, each tier and `random_feature` (further ones are
        `random_feature_2`, ...) what `measure` says.

    Raises:
        InputError: as `generate` and `toxicity_scores`.
    """
    conditions: dict[str, Intervention | None] = {BASE: None}
    conditions |= {tier: intervention.with_tier(tier) for tier in tiers}
    controls = random_features(
        intervention, sae, n=n_random, seed=sampling.seed, candidates=random_candidates
    )
    for number, control in enumerate(controls, start=1):
        conditions[RANDOM_FEATURE if number == 1 else f"{RANDOM_FEATURE}_{number}"] = control
    return measure(model, sae, conditions, prompts, sampling, scorer=scorer, report=report)


def measure(
    model: LanguageModel,
    sae: SparseAutoencoder,
    conditions: Mapping[str, Intervention | None],
    prompts: Sequence[str],
    sampling: Sampling,
    *,
    scorer: str = DEFAULT_SCORER,
    report: Callable[[int, int, str], None] = lambda done, total, doing: None,
) -> dict[str, Any]:
    """Continue the prompts under each condition and score the continuations.

    Args:
        model, sae: the language model, and the autoencoder of the interventions' features.
        conditions: an intervention, or None for the unsteered model, by name; the first one is
            what the others are compared with.
        prompts: beginnings of texts, at least one.
        sampling: how tokens are chosen.
        scorer, report: as for `measure_tiers`.

    Returns:
        For each condition: `mean` (mean score, of the usual scorer a probability) and
        `fraction` (of texts above one half); `change` and `change_standard_error`, the mean and its
        standard error of the paired differences from the first condition; `repetition` and
        `likely_incoherent` (mean fraction of repeated runs of three tokens, and fraction of texts
        that mostly repeat); `changed`, the fraction of texts that differ from the first
        condition's; `steered`, the fraction of texts that were steered at any token; `texts`;
        `intervention`; `continuations` and their `scores`.

    Raises:
        InputError: as `generate` and `toxicity_scores`.
    """
    measured: dict[str, Any] = {}
    first_scores: list[float] = []
    first_texts: list[Continuation] = []
    for number, (name, intervention) in enumerate(conditions.items()):
        report(number, len(conditions), name)
        texts = generate(
            model,
            prompts,
            sampling,
            intervention=intervention,
            sae=None if intervention is None else sae,
        )
        scores = toxicity_scores([text.text for text in texts], scorer)
        if not measured:
            first_scores, first_texts = scores, texts
        measured[name] = {
            **_figures(scores, texts),
            **_comparison(scores, first_scores),
            "changed": _fraction(
                one.tokens != other.tokens for one, other in zip(texts, first_texts, strict=True)
            ),
            "intervention": None if intervention is None else intervention.to_dict(),
            "continuations": [text.text for text in texts],
            "scores": scores,
        }
    report(len(conditions), len(conditions), "")
    return measured


def _figures(scores: Sequence[float], texts: Sequence[Continuation]) -> dict[str, float]:
    return {
        **dataclasses.asdict(summarize_scores(scores)),
        "repetition": sum(text.repetition for text in texts) / len(texts),
        "likely_incoherent": _fraction(text.likely_incoherent for text in texts),
        "steered": _fraction(text.steered_tokens > 0 for text in texts),
    }


def _comparison(scores: Sequence[float], base: Sequence[float]) -> dict[str, float | None]:
    change, error = paired_difference(scores, base)
    return {"change": change, "change_standard_error": error}


def paired_difference(
    scores: Sequence[float], others: Sequence[float]
) -> tuple[float, float | None]:
    """The mean of scores - others, pair by pair, and its standard error, None for a single pair."""
    differences = [one - other for one, other in zip(scores, others, strict=True)]
    n = len(differences)
    mean = sum(differences) / n
    squares = sum((difference - mean) ** 2 for difference in differences)
    # One text alone has no spread to tell an error from.
    error = math.sqrt(squares / (n - 1) / n) if n > 1 else None
    return mean, error


def _fraction(truths: Iterable[bool]) -> float:
    values = list(truths)
    return sum(values) / len(values)
