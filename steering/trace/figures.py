"""The figures of a trace, with intervals over questions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...training.evaluation.probing.result import Interval
from ..evaluation.reading import TokenFigures
from ..evaluation.statistics import mean_over_prompts, ratio_over_prompts
from .reading import Passed


def loss_rises(figures: TokenFigures) -> Float[np.ndarray, "Q"]:
    """For each question with an answer, by how much the loss of the untouched model's answer rises,
    in nats a token."""
    n_texts = len(figures.prompts_T)
    rises_N = figures.steered_loss_N - figures.base_loss_N
    sums_T = rises_N.new_zeros(n_texts).index_add_(0, figures.texts_N, rises_N)
    counts_T = torch.bincount(figures.texts_N, minlength=n_texts)
    has_answer_T = counts_T > 0
    return (sums_T[has_answer_T] / counts_T[has_answer_T]).numpy()


def kept_activation(
    base: Passed, other: Passed, norms_V: Float[Tensor, "V"], chosen_V: Bool[Tensor, "V"]
) -> Interval | None:
    """How much is left of what some neurons write: 1 is all of it, 0 nothing, below 0 it has
    turned round.

    It is the factor c that brings c * (what the untouched model's neurons write along their value
    vectors) nearest to what the others write along the same, in least squares over tokens and
    neurons: sum(w a a') / sum(w a a) with a as `Passed.written_NV` and w the squared length of the
    untouched value vector. So a value vector set to 0 leaves 0, whatever its neuron's activation.
    The interval is over questions.

    Args:
        base: of the untouched model.
        other: of the steered or changed one, on the same questions and answers.
        norms_V: length of each neuron's value vector.
        chosen_V: which neurons count.

    Returns:
        The factor; None where no neuron is chosen, or none of them is active.
    """
    weights_V = torch.where(chosen_V, norms_V.double().square(), 0.0)
    products_N = (base.written_NV * other.written_NV) @ weights_V
    squares_N = base.written_NV.square() @ weights_V
    n_questions = int(base.questions_N.max()) + 1
    sums_2Q = torch.zeros(2, n_questions, dtype=torch.float64)
    for sums_Q, values_N in zip(sums_2Q, (products_N, squares_N), strict=True):
        sums_Q.index_add_(0, base.questions_N, values_N)
    active_Q = sums_2Q[1] > 0
    if not active_Q.any():
        return None
    return ratio_over_prompts(sums_2Q[0, active_Q].numpy(), sums_2Q[1, active_Q].numpy())


def mean_masses(seen: Passed) -> Float[Tensor, "Q L"]:
    """For each question with an answer the mean probability of the concept's tokens behind each
    layer."""
    n_questions = int(seen.questions_A.max()) + 1
    sums_QL = torch.zeros(n_questions, seen.masses_AL.shape[1], dtype=torch.float64)
    sums_QL.index_add_(0, seen.questions_A, seen.masses_AL)
    counts_Q = torch.bincount(seen.questions_A, minlength=n_questions)
    return sums_QL[counts_Q > 0] / counts_Q[counts_Q > 0, None]


def averaged(draws: Sequence[Float[np.ndarray, "Q"]]) -> Float[np.ndarray, "Q"]:
    """The mean over draws, question by question."""
    return np.mean(np.stack(draws), axis=0)


def answer_figures(
    rouge_Q: Float[np.ndarray, "Q"], same_Q: Float[np.ndarray, "Q"], rises_Q: np.ndarray
) -> dict[str, Any]:
    """What is reported of the answers to one kind of questions.

    Args:
        rouge_Q: ROUGE-L of each answer with the untouched model's.
        same_Q: 1 where the answer is the same, else 0.
        rises_Q: from `loss_rises`.
    """
    return {
        "questions": len(rouge_Q),
        "rouge_l": plain(mean_over_prompts(rouge_Q)),
        "same": float(np.mean(same_Q)),
        "loss_rise": plain(mean_over_prompts(rises_Q)),
    }


def recovered(of_set: Mapping[str, Any], of_concept: Mapping[str, Any]) -> float | None:
    """What part of the damage to answers about the concept other questions about it undo: 1 less
    the ratio of their rises in loss; None where the interval of the concept's rise reaches to 0 or
    below, so that the damage, by which is divided, is not sure."""
    whole = of_concept["loss_rise"]
    return 1 - of_set["loss_rise"]["mean"] / whole["mean"] if whole["ci"][0] > 0 else None


def plain(interval: Interval | None) -> dict[str, Any] | None:
    """A mean with the ends of its interval, as JSON has it."""
    if interval is None:
        return None
    return {"mean": interval.mean, "ci": [interval.low, interval.high]}
