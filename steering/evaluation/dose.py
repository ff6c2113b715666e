"""How far steering moves the model's predictions: the dose at which methods are compared.

The dose is KL(steered || unsteered) of the next-token prediction, in nats, at each token. For small
strengths it grows with the square of the strength. On generated text it is measured on what the
steered model wrote, on which it is largest: text that steering has bent calls for more of it.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np

from ...sae.language_model.model import LanguageModel
from ...training.evaluation.probing.result import Interval
from .reading import Steered, TokenFigures, read_continuations, read_texts, text_tokens

PERCENTILE = 95


@dataclass(frozen=True)
class Dose:
    """KL(steered || unsteered) over tokens, in nats."""

    mean: Interval
    """Over all tokens, with its 95 % bootstrap interval over prompts."""
    p95: float
    """The 95th percentile over all tokens: what the most moved twentieth exceed. A gate that is
    open at fewer tokens than that leaves it near 0, however hard it pushes there."""
    tokens: int


def generated_dose(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    steered: Steered,
    *,
    batch_size: int = 16,
) -> Dose:
    """The dose at the tokens that the steered model wrote, teacher-forced on them.

    Args:
        model: the language model.
        prompts, continuations: as for `read_continuations`; the continuations are those that the
            steered model wrote.
        steered: how it was steered.
        batch_size: continuations in a pass.

    Raises:
        InputError: as `read_continuations`, and if no continuation has a token.
    """
    figures = read_continuations(model, prompts, continuations, steered, batch_size=batch_size)
    return dose_of(figures)


def neutral_dose(
    model: LanguageModel,
    texts: Sequence[str],
    steered: Steered = nullcontext,
    *,
    max_length: int = 128,
    batch_size: int = 8,
) -> Dose:
    """The dose on ordinary text: side effects, whatever the prompt.

    Args:
        model, texts, steered, max_length, batch_size: as for `neutral_cost`.

    Raises:
        InputError: as `read_texts`, and if no text has two tokens.
    """
    tokens = text_tokens(model, texts, max_length)
    return dose_of(read_texts(model, tokens, steered, batch_size=batch_size))


def dose_of(figures: TokenFigures) -> Dose:
    """The dose on texts that were read.

    Raises:
        InputError: there is no token.
    """
    mean = figures.per_token(
        figures.kl_N, "there is no token to measure the dose at; give longer texts"
    )
    return Dose(
        mean=mean,
        p95=float(np.percentile(figures.kl_N.numpy(), PERCENTILE)),
        tokens=len(figures.kl_N),
    )
