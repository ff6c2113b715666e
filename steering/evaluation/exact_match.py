"""How many problems a model solves by writing the answer, steered or not.

The answer is written greedily behind answered examples and compared with the known one. That
notices damage that multiple choice does not, at the price of generation; models that cannot solve
the problems at all, as small ones with arithmetic, say nothing here.
"""

import re
import unicodedata
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Literal

import numpy as np
from jaxtyping import Bool

from ...sae.common.errors import InputError
from ...sae.common.validation import require_choice, require_integer
from ...sae.language_model.model import LanguageModel
from ...training.evaluation.probing.result import Interval
from ..config import Sampling
from ..generation import generate
from .questions import Problem
from .reading import Steered
from .statistics import mean_over_prompts

Kind = Literal["number", "text"]
"""What is compared: the last number of the answer, or its text without case, articles and
punctuation."""

MAX_NEW_TOKENS = 128
"""Of an answer, by default."""

_NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?")
_ARTICLES = re.compile(r"\b(a|an|the)\b")


@dataclass(frozen=True, eq=False, kw_only=True)
class MatchResult:
    """What a model wrote, problem by problem."""

    correct_Q: Bool[np.ndarray, "Q"]
    """Whether the answer is the known one."""
    answers: tuple[str, ...]
    """The texts that were written."""

    @property
    def accuracy(self) -> Interval:
        """Fraction that is right, with its 95 % bootstrap interval over problems."""
        return mean_over_prompts(self.correct_Q.astype(np.float64))


def exact_match(
    model: LanguageModel,
    problems: Sequence[Problem],
    steered: Steered = nullcontext,
    *,
    examples: Sequence[Problem] = (),
    kind: Kind = "number",
    max_new_tokens: int = MAX_NEW_TOKENS,
    batch_size: int = 16,
) -> MatchResult:
    """Let a model write answers.

    Args:
        model: the language model.
        problems: at least one.
        steered: how it is steered.
        examples: problems that stand before each with their answers, none of them among `problems`.
        kind: what is compared.
        max_new_tokens: tokens of an answer at most; what follows is cut off.
        batch_size: problems in a pass.

    Raises:
        InputError: there are no problems, one of them is an example, a known answer has no number
            where numbers are compared, or a prompt is too long for the model.
        TooStrong: the steered model's logits are no numbers.
    """
    require_choice("kind", kind, ("number", "text"))
    require_integer("max_new_tokens", max_new_tokens, least=1)
    if not problems:
        raise InputError("there are no problems; give at least one")
    prompts = answered_prompts(problems, examples, kind)
    known = [answer_in(problem.answer, kind) for problem in problems]
    sampling = Sampling(
        max_new_tokens=max_new_tokens, stop=("\n\n", "\nQuestion:"), batch_size=batch_size
    )
    with steered():
        written = [text.text for text in generate(model, prompts, sampling)]
    return MatchResult(
        correct_Q=np.array(
            [answer_in(text, kind) == answer for text, answer in zip(written, known, strict=True)]
        ),
        answers=tuple(written),
    )


def answered_prompts(
    problems: Sequence[Problem], examples: Sequence[Problem], kind: Kind
) -> list[str]:
    """What the model continues: each problem behind the examples and their answers.

    Raises:
        InputError: a problem is among the examples, or its answer has nothing to compare with.
    """
    for problem in problems:
        if not answer_in(problem.answer, kind):
            raise InputError(
                f"the answer {problem.answer!r} has no {kind} to compare with; compare texts, or "
                "mend it"
            )
        if problem in examples:
            raise InputError(
                f"the problem {problem.question[:60]!r} is one of the examples, too; take others"
            )
    shown = "".join(f"Question: {one.question}\nAnswer: {one.answer}\n\n" for one in examples)
    return [f"{shown}Question: {problem.question}\nAnswer:" for problem in problems]


def answer_in(text: str, kind: Kind) -> str:
    """The answer that a text comes to, in one spelling; empty if there is none.

    What stands behind `####`, as in GSM8K, is the answer; else the whole text is looked at. Of
    numbers the last one counts, without thousands separators, so that `$1,200.00` is `1200`.
    """
    text = text.rpartition("####")[2]
    if kind == "text":
        plain = unicodedata.normalize("NFKC", text).casefold()
        plain = "".join(" " if unicodedata.category(c)[0] in "PS" else c for c in plain)
        return " ".join(_ARTICLES.sub(" ", plain).split())
    numbers = _NUMBER.findall(text)
    if not numbers:
        return ""
    try:
        value = Decimal(numbers[-1].replace(",", "").replace("$", "")).normalize()
    except InvalidOperation:
        return ""
    return f"{value:f}"
