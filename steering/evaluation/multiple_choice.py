"""How many questions a model answers by the option that it finds likeliest, steered or not.

Option by option the log-likelihood of its tokens behind the question is taken, as in lm-eval. Of
all measures of side effects this one notices least: read it beside perplexity and exact match.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float

from ...kernels.numerics import at_least_float32
from ...sae.common.errors import InputError
from ...sae.common.validation import require_choice, require_integer
from ...sae.language_model.model import LanguageModel
from ...training.evaluation.probing.result import Interval
from ..errors import TooStrong
from .questions import LETTERS, Question
from .reading import Steered, continuation_logits
from .statistics import mean_over_prompts

Style = Literal["letters", "texts"]
"""What is scored: the letter of an option behind a list of all, as in MMLU, or the option's own
text behind the question alone, at which small models do better."""

_TOKENS_AT_ONCE = 1 << 13
"""Tokens, padding included, of the prompts and options of a batch: attention grows with the square
of the longest."""

_LOGITS_AT_ONCE = 1 << 24


@dataclass(frozen=True, eq=False, kw_only=True)
class ChoiceResult:
    """What a model chose, question by question, so that two ways to steer compare in pairs."""

    correct_Q: Bool[np.ndarray, "Q"]
    """Whether the right option has the largest log-likelihood."""
    correct_normalized_Q: Bool[np.ndarray, "Q"]
    """Whether it has the largest log-likelihood for each of its characters, so that long options
    are at no disadvantage."""
    right_probability_Q: Float[np.ndarray, "Q"]
    """The right option's likelihood divided by that of all options together. It moves where
    accuracy does not yet, and is the better of the two to compare."""
    chance: float
    """Accuracy of a blind guess, the mean of 1 / options."""

    @property
    def accuracy(self) -> Interval:
        """With its 95 % bootstrap interval over questions, as the other two."""
        return mean_over_prompts(self.correct_Q.astype(np.float64))

    @property
    def accuracy_normalized(self) -> Interval:
        """Of the log-likelihood for each character."""
        return mean_over_prompts(self.correct_normalized_Q.astype(np.float64))

    @property
    def right_probability(self) -> Interval:
        """Mean probability of the right option."""
        return mean_over_prompts(self.right_probability_Q)


@torch.no_grad()
def multiple_choice(
    model: LanguageModel,
    questions: Sequence[Question],
    steered: Steered = nullcontext,
    *,
    style: Style = "letters",
    shots: int = 0,
    examples: Sequence[Question] = (),
    batch_size: int = 16,
) -> ChoiceResult:
    """Ask a model questions with options.

    Args:
        model: the language model; its key-value cache must work.
        questions: at least one.
        steered: how it is steered. A gate that asks what the prompt holds sees examples and
            question, not the option.
        style: what is scored.
        shots: answered examples before each question.
        examples: what they are taken from, those of the same subject first, never the question
            itself; by default the other questions.
        batch_size: rows in a pass.

    Raises:
        InputError: there are no questions, fewer examples than shots, a question is longer than the
            model's context, or the model has no working cache.
        TooStrong: the steered model's logits are no numbers.
    """
    rows = option_rows(model, questions, style=style, shots=shots, examples=examples)
    likelihoods = _log_likelihoods(model, list(rows.values()), steered, batch_size)
    of_row = dict(zip(rows, likelihoods, strict=True))
    correct: list[bool] = []
    normalized: list[bool] = []
    probability: list[float] = []
    for number, question in enumerate(questions):
        scores = np.array([of_row[number, option] for option in range(len(question.options))])
        lengths = np.array([len(text) for text in _scored(question, style)])
        correct.append(bool(scores.argmax() == question.right))
        normalized.append(bool((scores / lengths).argmax() == question.right))
        shares = np.exp(scores - scores.max())
        probability.append(float(shares[question.right] / shares.sum()))
    return ChoiceResult(
        correct_Q=np.array(correct),
        correct_normalized_Q=np.array(normalized),
        right_probability_Q=np.array(probability),
        chance=float(np.mean([1 / len(question.options) for question in questions])),
    )


def option_rows(
    model: LanguageModel,
    questions: Sequence[Question],
    *,
    style: Style = "letters",
    shots: int = 0,
    examples: Sequence[Question] = (),
) -> dict[tuple[int, int], tuple[list[int], list[int]]]:
    """The tokens of each question, with what stands before it, and of each of its options.

    Args:
        model, questions, style, shots, examples: see `multiple_choice`.

    Returns:
        By the numbers of question and option.

    Raises:
        InputError: as `multiple_choice`.
    """
    require_choice("style", style, ("letters", "texts"))
    require_integer("shots", shots, least=0)
    if not questions:
        raise InputError("there are no questions; give at least one")
    if not model.kv_cache_works:
        raise InputError(
            f"{model.name} has no key-value cache that works, and options are read with one; take "
            "another language model"
        )
    prompts = [_prompt(one, examples or questions, shots, style) for one in questions]
    rows: dict[tuple[int, int], tuple[list[int], list[int]]] = {}
    for number, (question, prompt) in enumerate(zip(questions, prompts, strict=True)):
        for option, text in enumerate(_scored(question, style)):
            rows[number, option] = _tokens(model, prompt, f" {text}")
    return rows


def _scored(question: Question, style: Style) -> Sequence[str]:
    return LETTERS[: len(question.options)] if style == "letters" else question.options


def _prompt(question: Question, examples: Sequence[Question], shots: int, style: Style) -> str:
    others = [example for example in examples if example != question]
    others.sort(key=lambda example: example.subject != question.subject)  # stable
    if len(others) < shots:
        raise InputError(
            f"shots is {shots}, but there are {len(others)} other questions to take examples from; "
            "lower it, or give more",
            field="shots",
        )
    asked = [
        f"{_asked(example, style)} {_scored(example, style)[example.right]}"
        for example in others[:shots]
    ]
    return "\n\n".join([*asked, _asked(question, style)])


def _asked(question: Question, style: Style) -> str:
    listed = ""
    if style == "letters":
        pairs = zip(LETTERS, question.options, strict=False)
        listed = "".join(f"\n{letter}. {option}" for letter, option in pairs)
    return f"Question: {question.question.strip()}{listed}\nAnswer:"


def _tokens(model: LanguageModel, prompt: str, option: str) -> tuple[list[int], list[int]]:
    """Prompt after BOS, and what the option adds to its tokens, both tokenized as one text."""
    bos = [] if model.bos_id is None else [model.bos_id]
    before, both = model.tokenize(prompt), model.tokenize(prompt + option)
    added = both[len(before) :]
    n_all = len(bos) + len(both)
    if n_all > model.max_context:
        raise InputError(
            f"a question with its examples has {n_all} tokens, more than the {model.max_context} "
            f"that {model.name} can hold; lower --shots"
        )
    if not added:
        raise InputError(f"the option {option!r} adds no token to its question; mend the question")
    return [*bos, *before], added


def _log_likelihoods(
    model: LanguageModel,
    rows: Sequence[tuple[Sequence[int], Sequence[int]]],
    steered: Steered,
    batch_size: int,
) -> list[float]:
    """The log-likelihood of each continuation. Those of one token behind the same prompt, such as
    letters, are read off one prediction."""
    found: dict[int, float] = {}
    single: dict[tuple[int, ...], list[int]] = {}
    longer: list[int] = []
    for number, (prompt, added) in enumerate(rows):
        if len(added) == 1:
            single.setdefault(tuple(prompt), []).append(number)
        else:
            longer.append(number)
    asked = [numbers for _, numbers in sorted(single.items(), key=lambda item: len(item[0]))]
    asked += [
        [number] for number in sorted(longer, key=lambda n: (len(rows[n][1]), len(rows[n][0])))
    ]
    for batch in _batches(model, rows, asked, batch_size):
        first = [rows[numbers[0]] for numbers in batch]
        prompts, added = [prompt for prompt, _ in first], [tokens for _, tokens in first]
        logits_BCV = continuation_logits(model, prompts, added, steered)
        for row, numbers in enumerate(batch):
            for number in numbers:
                targets = torch.tensor(rows[number][1], device=logits_BCV.device)
                logits_NV = logits_BCV[row, : len(targets)]
                log_NV = logits_NV.to(at_least_float32(logits_NV.dtype)).log_softmax(-1)
                found[number] = float(log_NV.gather(1, targets[:, None]).double().sum())
    if not np.isfinite(list(found.values())).all():
        raise TooStrong(
            f"the log-likelihood of an option is no number for {model.name}; lower the strength, "
            "or load it in float32"
        )
    return [found[number] for number in range(len(rows))]


def _batches(
    model: LanguageModel,
    rows: Sequence[tuple[Sequence[int], Sequence[int]]],
    asked: Sequence[list[int]],
    batch_size: int,
) -> list[list[list[int]]]:
    """What is asked together: of like lengths, and so that logits and attention fit into memory."""
    batches: list[list[list[int]]] = []
    longest = 0
    for numbers in asked:
        prompt, added = rows[numbers[0]]
        longest = max(longest, len(prompt) + len(added))
        fit_logits = _LOGITS_AT_ONCE // (len(added) * model.network.n_vocab)
        fit = min(batch_size, _TOKENS_AT_ONCE // longest, fit_logits)
        # A batch of letters and one of longer options differ in their number of passes.
        alike = batches and (len(rows[batches[-1][0][0]][1]) == 1) == (len(added) == 1)
        if alike and len(batches[-1]) < fit and not model.wrong_padding:
            batches[-1].append(numbers)
        else:
            batches.append([numbers])
            longest = len(prompt) + len(added)
    return batches
