"""The answers and the insides of a model under each treatment, put into figures."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...sae.language_model.model import LanguageModel
from ..evaluation.greedy import greedy_answers
from ..evaluation.reading import read_continuations
from ..evaluation.statistics import mean_over_prompts, unpaired_difference
from . import figures
from .answers import CONCEPT, UNRELATED, Questions, rouge_l
from .arms import NEEDLE, NONE, STEERED, TraceArm
from .lens import LogitLens
from .reading import Passed, passed
from .value_vectors import DownProjection, ValueVector

_TEXTS_KEPT = (STEERED, NEEDLE)
"""Arms whose answers are given as texts, beside the untouched model's."""


def conditions(
    model: LanguageModel,
    questions: Mapping[str, Questions],
    arms: Sequence[TraceArm],
    *,
    projections: Sequence[DownProjection],
    vectors: Sequence[ValueVector],
    norms_V: Float[Tensor, "V"],
    behind_V: Bool[Tensor, "V"],
    lens: LogitLens,
    tokens_T: Int[Tensor, "T"],
    batch_size: int,
    max_new_tokens: int,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Measure every arm on every kind of questions; arms of one name are averaged.

    Args:
        model: the language model.
        questions: by their kind, with the untouched model's answers; `concept` and `unrelated` are
            among them.
        arms: the untouched model first.
        projections, vectors, lens, tokens_T: as for `passed`.
        norms_V: length of each value vector.
        behind_V: whether a neuron reads what steering has changed.
        batch_size: questions in a pass.
        max_new_tokens: of an answer.
        say: told which arm is measured.

    Returns:
        `conditions`: for each name `answers` by kind of questions (`rouge_l` and `same` against the
        untouched model's answers, `loss_rise` of these in nats a token), `selectivity` (loss_rise
        about the concept less that of unrelated questions), `recovered` by kind, `kept` and
        `kept_before` (the share of what the neurons write that is left, behind the steering and
        before it), `lens` (the probability of the concept's tokens behind each layer). `answers`:
        for each question the texts.
    """
    concept = questions[CONCEPT]
    seen: dict[str, list[Passed]] = {}
    rises: dict[str, dict[str, list[np.ndarray]]] = {}
    texts: dict[str, dict[str, list[list[str]]]] = {}
    for arm in arms:
        say(f"measuring: {arm.name}")
        seen.setdefault(arm.name, []).append(
            passed(
                model,
                concept,
                arm.steered,
                projections=projections,
                vectors=vectors,
                lens=lens,
                tokens_T=tokens_T,
                batch_size=batch_size,
            )
        )
        for kind, own in questions.items():
            found = read_continuations(
                model, own.rows, own.answer_tokens, arm.steered, batch_size=batch_size
            )
            of_arm = rises.setdefault(arm.name, {}).setdefault(kind, [])
            of_arm.append(figures.loss_rises(found))
            given = own.answers
            if arm.name != NONE:
                answers = greedy_answers(
                    model,
                    own.rows,
                    arm.steered,
                    max_new_tokens=max_new_tokens,
                    batch_size=batch_size,
                )
                given = [answer.text for answer in answers]
            texts.setdefault(arm.name, {}).setdefault(kind, []).append(list(given))
    (base,) = seen[NONE]
    return {
        "conditions": [
            {
                "name": name,
                "draws": len(of_name),
                **_answers(questions, texts[name], rises[name]),
                "kept": _kept(base, of_name, norms_V, behind_V),
                "kept_before": _kept(base, of_name, norms_V, ~behind_V),
                "lens": _lens(of_name),
            }
            for name, of_name in seen.items()
        ],
        "answers": [
            {
                "kind": kind,
                "question": question,
                NONE: own.answers[number],
                **{name: texts[name][kind][0][number] for name in _TEXTS_KEPT},
            }
            for kind, own in questions.items()
            for number, question in enumerate(own.texts)
        ],
    }


def _answers(
    questions: Mapping[str, Questions],
    texts: Mapping[str, Sequence[Sequence[str]]],
    rises: Mapping[str, Sequence[np.ndarray]],
) -> dict[str, Any]:
    """What one arm does to the answers; draws are averaged."""
    of_kind: dict[str, dict[str, Any]] = {}
    averaged = {kind: figures.averaged(draws) for kind, draws in rises.items()}
    for kind, own in questions.items():
        rouge, same = (
            figures.averaged(
                [
                    np.array([measure(*pair) for pair in zip(given, own.answers, strict=True)])
                    for given in texts[kind]
                ]
            )
            for measure in (rouge_l, _same)
        )
        of_kind[kind] = figures.answer_figures(rouge, same, averaged[kind])
    apart = unpaired_difference(averaged[CONCEPT], averaged[UNRELATED])
    return {
        "answers": of_kind,
        "selectivity": figures.plain(apart),
        "recovered": {
            kind: figures.recovered(found, of_kind[CONCEPT])
            for kind, found in of_kind.items()
            if kind not in (CONCEPT, UNRELATED)
        },
    }


def _same(text: str, reference: str) -> float:
    return float(text == reference)


def _kept(
    base: Passed, draws: Sequence[Passed], norms_V: Tensor, chosen_V: Tensor
) -> dict[str, Any] | None:
    """The share of what neurons write that is left; of several draws all their tokens together."""
    if len(draws) == 1:
        return figures.plain(figures.kept_activation(base, draws[0], norms_V, chosen_V))
    mean_NV = torch.stack([draw.written_NV for draw in draws]).mean(dim=0)
    whole = Passed(
        written_NV=mean_NV,
        questions_N=base.questions_N,
        masses_AL=base.masses_AL,
        questions_A=base.questions_A,
    )
    return figures.plain(figures.kept_activation(base, whole, norms_V, chosen_V))


def _lens(draws: Sequence[Passed]) -> list[dict[str, Any] | None]:
    """The probability of the concept's tokens behind each layer, the first layer first."""
    masses_QL = torch.stack([figures.mean_masses(draw) for draw in draws]).mean(dim=0)
    return [
        figures.plain(mean_over_prompts(masses_Q.numpy())) for masses_Q in masses_QL.unbind(dim=1)
    ]
