"""How fluent steered text is, and what steering costs on text that has nothing to do with it."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np

from ...sae.common.errors import InputError
from ...sae.language_model.model import LanguageModel
from ...training.evaluation.probing.result import Interval
from ..generation import repetition_of
from .reading import Steered, TokenFigures, perplexity, read_continuations, read_texts, text_tokens


@dataclass(frozen=True)
class TextFluency:
    """How fluent continuations are by themselves; a model is not asked."""

    repetition: float
    """Mean fraction of the runs of three tokens that came before in the same continuation."""
    distinct_1: float
    distinct_2: float
    distinct_3: float
    """Different runs of one, two and three tokens in all continuations together, divided by how
    many there are. They fall as there is more text, so compare equally many tokens."""


@dataclass(frozen=True)
class NeutralCost:
    """What steering does to the model's prediction of ordinary text."""

    base_perplexity: float
    """Of the unsteered model."""
    perplexity: float
    """Of the steered model."""
    ratio: Interval
    """The second divided by the first, with its 95 % bootstrap interval over texts; 1.1 is a cost
    of 10 %."""
    tokens: int


def continuation_perplexity(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    *,
    batch_size: int = 16,
) -> Interval:
    """The perplexity of continuations under the unsteered model, each given its prompt.

    exp of the sum of the tokens' cross entropies divided by their number, so that each token weighs
    alike. Continuations of one prompt are alike: the bootstrap resamples prompts. Dull and repeated
    text has a low perplexity: read it beside the repetition, and beside the unsteered model's own
    continuations.

    Args:
        model: the language model, unsteered.
        prompts, continuations, batch_size: as for `read_continuations`.

    Raises:
        InputError: as `read_continuations`, and if no continuation has a token.
    """
    return perplexity_of(read_continuations(model, prompts, continuations, batch_size=batch_size))


def perplexity_of(figures: TokenFigures) -> Interval:
    """The unsteered model's perplexity of texts that were read.

    Raises:
        InputError: there is no token.
    """
    loss = figures.per_token(
        figures.base_loss_N,
        "no continuation has a token, so there is no perplexity; generate longer",
    )
    return Interval(*(perplexity(nats) for nats in (loss.mean, loss.low, loss.high)))


def neutral_cost(
    model: LanguageModel,
    texts: Sequence[str],
    steered: Steered = nullcontext,
    *,
    max_length: int = 128,
    batch_size: int = 8,
) -> NeutralCost:
    """The perplexity of ordinary text with and without steering, and their ratio.

    Args:
        model: the language model.
        texts: ordinary texts.
        steered: how it is steered.
        max_length: tokens read of a text at most, BOS included.
        batch_size: texts in a pass.

    Raises:
        InputError: as `read_texts`, and if no text has two tokens.
    """
    tokens = text_tokens(model, texts, max_length)
    return cost_of(read_texts(model, tokens, steered, batch_size=batch_size))


def cost_of(figures: TokenFigures) -> NeutralCost:
    """The same, of texts that were read.

    Raises:
        InputError: there is no token.
    """
    log_ratio = figures.per_token(
        figures.steered_loss_N - figures.base_loss_N,
        "no text has two tokens, so there is no perplexity; give longer texts",
    )
    base_loss = float(figures.base_loss_N.mean())
    return NeutralCost(
        base_perplexity=perplexity(base_loss),
        perplexity=perplexity(base_loss + log_ratio.mean),
        ratio=Interval(*(perplexity(n) for n in (log_ratio.mean, log_ratio.low, log_ratio.high))),
        tokens=len(figures.kl_N),
    )


def text_fluency(continuations: Sequence[Sequence[int]]) -> TextFluency:
    """Repetition within continuations, and variety over all of them, from their token ids.

    Raises:
        InputError: there is no continuation.
    """
    if not continuations:
        raise InputError("there are no continuations to measure; generate at least one")
    return TextFluency(
        repetition=float(np.mean([repetition_of(tokens) for tokens in continuations])),
        distinct_1=distinct_n(continuations, 1),
        distinct_2=distinct_n(continuations, 2),
        distinct_3=distinct_n(continuations, 3),
    )


def distinct_n(continuations: Sequence[Sequence[int]], n: int) -> float:
    """Different runs of n tokens divided by all runs of n tokens, over all continuations (Li et
    al., A Diversity-Promoting Objective Function for Neural Conversation Models, NAACL 2016); 0
    where there is no run."""
    runs = [
        tuple(tokens[start : start + n])
        for tokens in continuations
        for start in range(len(tokens) - n + 1)
    ]
    return len(set(runs)) / len(runs) if runs else 0.0
