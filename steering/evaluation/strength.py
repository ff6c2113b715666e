"""The cost of a way of steering as a function of its strength, and the strength that has a cost.

What is written after prompts is sampled anew for each strength, from the same random numbers, so
that the function jumps where another token is drawn; more prompts and continuations smooth it.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from ...sae.autoencoder import SparseAutoencoder
from ...sae.common.errors import InputError
from ...sae.common.validation import require_choice, require_positive_integer
from ...sae.language_model.model import LanguageModel
from ..config import Sampling
from ..errors import TooStrong
from ..generation import repetition_of
from ..interventions.intervention import Intervention
from ..interventions.steering import steer
from ..texts import prompt_tokens
from .budget import Budget
from .calibration import Calibration, Evaluation, calibrate
from .continuations import sample_continuations
from .dose import dose_of
from .fluency import cost_of, perplexity_of
from .reading import Steered, read_continuations, read_texts, text_tokens

SteeredAt = Callable[[float], Steered]
"""How the model is steered at a strength."""

Statistic = Literal["p95", "mean"]

_CONTINUED = Sampling(max_new_tokens=20, temperature=1.0, top_p=0.9)


@dataclass(frozen=True, kw_only=True)
class CostTexts:
    """What a cost is measured on, and how."""

    prompts: Sequence[str] = ()
    """Beginnings of texts, which the steered model continues; see `Budget.reads_neutral_text`."""
    neutral: Sequence[str] = ()
    """Ordinary texts, which it reads."""
    sampling: Sampling = field(default=_CONTINUED)
    """How prompts are continued."""
    continuations: int = 1
    """Of each prompt, from the seeds sampling.seed on."""
    statistic: Statistic = "p95"
    """Of the KL over tokens. The 95th percentile stays 0 while a gate is open at fewer than a
    twentieth of the tokens; the mean does not."""
    max_length: int = 128
    """Tokens read of a neutral text at most, BOS included."""
    batch_size: int = 8
    """Texts read in a pass."""

    def __post_init__(self) -> None:
        require_positive_integer("continuations", self.continuations)
        require_choice("statistic", self.statistic, ("p95", "mean"))


def scaled_steering(
    model: LanguageModel, sae: SparseAutoencoder | None, intervention: Intervention
) -> SteeredAt:
    """The intervention at multiples of its strength.

    Args:
        model: the language model.
        sae: the autoencoder of its features; None where there are none.
        intervention: at strength 1.
    """

    def at(strength: float) -> Steered:
        scaled = intervention.scaled(strength)
        return lambda: steer(model, sae, scaled)

    return at


def cost_function(
    model: LanguageModel, budget: Budget, steered_at: SteeredAt, texts: CostTexts
) -> Callable[[float], float]:
    """The cost of a strength, in the unit of `Budget.target`; never below 0.

    Args:
        model: the language model.
        budget: which cost.
        steered_at: how the model is steered at a strength.
        texts: what the cost is measured on.

    Returns:
        The function; it raises `TooStrong` where the steered model's logits are no numbers, and
        where it ends each text at once.

    Raises:
        InputError: there are no texts of the kind that is needed, or they do not fit the model.
    """
    measure = _neutral_cost if budget.reads_neutral_text else _written_cost
    return measure(model, budget, steered_at, texts)


def _neutral_cost(
    model: LanguageModel, budget: Budget, steered_at: SteeredAt, texts: CostTexts
) -> Callable[[float], float]:
    del budget
    tokens = text_tokens(model, texts.neutral, texts.max_length)
    if not any(len(each) > 1 for each in tokens):
        raise InputError(
            "the rise of perplexity is measured on neutral texts, and none has two tokens; give "
            "some that have nothing to do with what is steered",
            field="neutral",
        )

    def cost(strength: float) -> float:
        figures = read_texts(model, tokens, steered_at(strength), batch_size=texts.batch_size)
        return max(0.0, cost_of(figures).ratio.mean - 1)

    return cost


def _written_cost(
    model: LanguageModel, budget: Budget, steered_at: SteeredAt, texts: CostTexts
) -> Callable[[float], float]:
    if not texts.prompts:
        raise InputError(
            f"{budget.kind} is measured on what the steered model writes, and there are no "
            "prompts; give at least one",
            field="prompts",
        )
    rows = [prompt_tokens(model, prompt) for prompt in texts.prompts]
    prompts = [row for row in rows for _ in range(texts.continuations)]

    def written(steered: Steered) -> list[tuple[int, ...]]:
        found = sample_continuations(
            model, texts.prompts, texts.sampling, texts.continuations, steered
        )
        return [text.tokens for of_prompt in found for text in of_prompt]

    def kl(tokens: Sequence[Sequence[int]], steered: Steered) -> float:
        figures = read_continuations(model, prompts, tokens, steered, batch_size=texts.batch_size)
        dose = dose_of(figures)
        return dose.p95 if texts.statistic == "p95" else dose.mean.mean

    def perplexity(tokens: Sequence[Sequence[int]]) -> float:
        figures = read_continuations(model, prompts, tokens, batch_size=texts.batch_size)
        return perplexity_of(figures).mean

    unsteered: list[float] = []  # the figure of the unsteered model's own texts, once it is known

    def above_unsteered(
        figure: Callable[[Sequence[Sequence[int]]], float], tokens: Sequence[Sequence[int]]
    ) -> tuple[float, float]:
        if not unsteered:
            own = written(nullcontext)
            if not any(own):
                raise InputError(
                    f"{model.name} ends each text at once, though nothing is steered; give prompts "
                    "that it continues",
                    field="prompts",
                )
            unsteered.append(figure(own))
        return figure(tokens), unsteered[0]

    def cost(strength: float) -> float:
        steered = steered_at(strength)
        tokens = written(steered)
        if not any(tokens):
            raise TooStrong(
                f"{model.name} ends each text at once at strength {strength:g}; lower it"
            )
        if budget.kind == "kl":
            return kl(tokens, steered)
        if budget.kind == "repetition":
            found, base = above_unsteered(_repetition, tokens)
            return max(0.0, found - base)
        found, base = above_unsteered(perplexity, tokens)
        return max(0.0, found / base - 1)

    return cost


def _repetition(tokens: Sequence[Sequence[int]]) -> float:
    return float(np.mean([repetition_of(each) for each in tokens]))


def find_strength(
    budget: Budget,
    cost: Callable[[float], float],
    *,
    start: float = 1.0,
    largest: float | None = None,
    tolerance: float = 0.1,
    most: int = 6,
    report: Callable[[Evaluation], None] = lambda evaluation: None,
) -> Calibration:
    """The strength whose cost is the budget's; see `calibrate`, which solves for it.

    The rise of a perplexity is solved for in its logarithm, which is nearer to a power of the
    strength. Doses of the result are in the unit of `Budget.target`.

    Args:
        budget: the wanted cost.
        cost: of a strength, as `cost_function` gives it.
        start, largest, tolerance, most, report: as for `calibrate`.

    Raises:
        InputError: as `calibrate`, and as the cost.
    """
    if not budget.is_ratio:
        return calibrate(
            cost,
            budget.target,
            start=start,
            largest=largest,
            tolerance=tolerance,
            most=most,
            report=report,
        )

    def as_cost(one: Evaluation) -> Evaluation:
        return one if one.dose is None else Evaluation(one.strength, math.expm1(one.dose))

    found = calibrate(
        lambda strength: math.log1p(cost(strength)),
        math.log1p(budget.target),
        start=start,
        largest=largest,
        tolerance=tolerance,
        most=most,
        report=lambda one: report(as_cost(one)),
    )
    return dataclasses.replace(
        found,
        dose=math.expm1(found.dose),
        evaluations=tuple(map(as_cost, found.evaluations)),
    )
