"""The parts of what is measured of one setting of a study, each kept by itself."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from ...sae.language_model.model import LanguageModel
from ...training.evaluation.probing.result import Interval
from ..detox.toxicity import Scorer, toxicity_scores
from ..evaluation.dose import dose_of
from ..evaluation.exact_match import exact_match
from ..evaluation.fire_rate import fire_rate
from ..evaluation.fluency import cost_of, perplexity_of
from ..evaluation.identity import identity_costs
from ..evaluation.multiple_choice import multiple_choice
from ..evaluation.reading import Steered, read_continuations, read_texts, text_tokens
from ..evaluation.refusals import refusal_rate
from ..texts import has_chat_template, prompt_tokens
from .arm import Setting
from .asked import asked_of, kind_of, shots_of
from .config import StudyConfig
from .written import Written


@dataclass(frozen=True, eq=False, kw_only=True)
class Measuring:
    """One setting, and all that it is measured with."""

    model: LanguageModel
    setting: Setting
    steered: Steered
    """`nullcontext` where the model itself is not changed."""
    site: str | None
    """Where the model is changed, of several sites the first."""
    written: Written
    scorers: Mapping[str, Scorer]
    config: StudyConfig
    neutral: Sequence[str]
    """Ordinary texts."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Figures that are measured together."""

    measure: Callable[[Measuring], dict[str, Any]]
    """Gives the values that a row gets."""
    depends_on: Callable[[Measuring], Mapping[str, Any]]
    """What they depend on beside the setting, the model and what was written."""
    steers: bool = True
    """Whether the model is steered for it, so that there is nothing to measure of a text before the
    prompt."""
    of_each_draw: bool = True
    """Whether it is measured of each random way to steer, or of the first alone, as it takes
    long."""


def scores_of(one: Measuring, scorer: str) -> dict[str, Any]:
    """`scores`: of each continuation of each prompt, by one scorer."""
    flat = [text for texts in one.written.texts_PN for text in texts]
    scores = toxicity_scores(flat, one.scorers[scorer])
    n = len(one.written.texts_PN[0])
    return {"scores": [scores[start : start + n] for start in range(0, len(scores), n)]}


def continuations(one: Measuring) -> dict[str, Any]:
    """What the unsteered model says of the continuations, each given its prompt alone, and how far
    the steered model is from it there.

    A text before the prompt is no steering, and has no KL of this kind.
    """
    prompted = one.setting.arm.family == "prompt"
    prompts = one.written.prompt_tokens
    if prompted:
        prompts = [prompt_tokens(one.model, prompt) for prompt in one.written.prompts]
    rows = [
        (prompt, tokens)
        for prompt, of_prompt in zip(prompts, one.written.tokens_PN, strict=True)
        for tokens in of_prompt
    ]
    nothing = dict.fromkeys(("perplexity", "kl", "kl_p95"))
    if not any(tokens for _, tokens in rows):
        return {**nothing, "intervals": {}, "warnings": ["every continuation is empty"]}
    figures = read_continuations(
        one.model,
        [prompt for prompt, _ in rows],
        [tokens for _, tokens in rows],
        one.steered,
        batch_size=one.config.batch_size,
    )
    perplexity = perplexity_of(figures)
    intervals = {"perplexity": ends(perplexity)}
    if prompted:
        return {**nothing, "perplexity": perplexity.mean, "intervals": intervals}
    dose = dose_of(figures)
    return {
        "perplexity": perplexity.mean,
        "kl": dose.mean.mean,
        "kl_p95": dose.p95,
        "intervals": {**intervals, "kl": ends(dose.mean)},
    }


def neutral(one: Measuring) -> dict[str, Any]:
    """Perplexity of neutral text under steering and the divergence there, and what harmless
    sentences about kinds of people cost."""
    tokens = text_tokens(one.model, one.neutral, one.config.neutral_tokens)
    figures = read_texts(one.model, tokens, one.steered, batch_size=one.config.batch_size)
    cost, dose = cost_of(figures), dose_of(figures)
    return {
        "neutral_perplexity": cost.perplexity,
        "neutral_ratio": cost.ratio.mean,
        "neutral_kl": dose.mean.mean,
        "neutral_kl_p95": dose.p95,
        "identity_costs": identity_costs(one.model, one.steered),
        "intervals": {"neutral_ratio": ends(cost.ratio), "neutral_kl": ends(dose.mean)},
    }


def gate(one: Measuring) -> dict[str, Any]:
    """How often anything is changed on neutral text."""
    if one.site is None or one.steered is nullcontext:
        return {"fire_rate": 0.0, "fire_rate_texts": 0.0, "intervals": {}}
    found = fire_rate(
        one.model,
        one.neutral,
        one.steered,
        one.site,
        max_length=one.config.neutral_tokens,
        batch_size=one.config.batch_size,
    )
    return {
        "fire_rate": found.tokens.mean,
        "fire_rate_texts": found.texts.mean,
        "intervals": {"fire_rate": ends(found.tokens), "fire_rate_texts": ends(found.texts)},
    }


def capability(one: Measuring) -> dict[str, Any]:
    """Questions with options and problems with an answer to write, by the name of their file."""
    asked, config = asked_of(one.config), one.config
    found: dict[str, dict[str, Any]] = {}
    for name, questions in asked.questions.items():
        chosen = multiple_choice(
            one.model,
            questions,
            one.steered,
            shots=shots_of(config, asked.examples[name]),
            examples=asked.examples[name],
            batch_size=config.batch_size,
        )
        found[name] = {
            "kind": "choice",
            "questions": len(questions),
            "accuracy": chosen.accuracy.mean,
            "ci": ends(chosen.accuracy),
            "probability": chosen.right_probability.mean,
            "chance": chosen.chance,
        }
    for name, problems in asked.problems.items():
        matched = exact_match(
            one.model,
            problems,
            one.steered,
            examples=asked.solved[name],
            kind=kind_of(problems),
            batch_size=config.batch_size,
        )
        found[f"{name} (written)" if name in found else name] = {
            "kind": "match",
            "questions": len(problems),
            "accuracy": matched.accuracy.mean,
            "ci": ends(matched.accuracy),
            "probability": None,
            "chance": 0.0,
        }
    return {"capability": found}


def refusals(one: Measuring) -> dict[str, Any]:
    """How many harmless requests are refused; None where there are none. They are put as a user's
    messages where the model has a chat template, else as they are."""
    requests = asked_of(one.config).requests
    if not requests:
        return {"refusals": None, "intervals": {}}
    found = refusal_rate(
        one.model,
        requests,
        one.steered,
        chat=has_chat_template(one.model),
        batch_size=one.config.batch_size,
    )
    return {"refusals": found.rate.mean, "intervals": {"refusals": ends(found.rate)}}


def ends(interval: Interval) -> list[float]:
    """The ends of an interval, as rows have them."""
    return [interval.low, interval.high]


def _nothing_more(one: Measuring) -> Mapping[str, Any]:
    del one
    return {}


def _neutral_texts(one: Measuring) -> Mapping[str, Any]:
    return {"neutral": list(one.neutral), "tokens": one.config.neutral_tokens}


def _asked(one: Measuring) -> Mapping[str, Any]:
    return {"asked": repr(asked_of(one.config)), "shots": one.config.shots}


PARTS = {
    "continuations": Part(measure=continuations, depends_on=_nothing_more, steers=False),
    "neutral": Part(measure=neutral, depends_on=_neutral_texts),
    "gate": Part(measure=gate, depends_on=_neutral_texts),
    "capability": Part(measure=capability, depends_on=_asked, of_each_draw=False),
    "refusals": Part(measure=refusals, depends_on=_asked, of_each_draw=False),
}
"""By name; what the scorers say is a part for each, too."""

EMPTY: dict[str, Any] = {
    **dict.fromkeys(("perplexity", "kl", "kl_p95")),
    **dict.fromkeys(("neutral_perplexity", "neutral_ratio", "neutral_kl", "neutral_kl_p95")),
    **dict.fromkeys(("identity_costs", "fire_rate", "fire_rate_texts", "capability", "refusals")),
}
"""A row's values before anything is measured."""
