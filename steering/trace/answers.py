"""Answers to questions, and how far they are from those of the untouched model."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ...sae.language_model.model import LanguageModel
from ..evaluation.greedy import greedy_answers
from ..evaluation.reading import Steered
from ..texts import prompt_tokens

CONCEPT, UNRELATED, RESTATED, REMINDED = "concept", "unrelated", "restated", "reminded"
"""The kinds of questions."""

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, eq=False)
class Questions:
    """Questions of one kind, with the untouched model's own answers."""

    name: str
    texts: tuple[str, ...]
    rows: tuple[tuple[int, ...], ...]
    """The token ids of each, BOS or the chat template included."""
    answers: tuple[str, ...]
    answer_tokens: tuple[tuple[int, ...], ...]


def asked(
    model: LanguageModel,
    name: str,
    texts: Sequence[str],
    steered: Steered,
    *,
    chat: bool,
    max_new_tokens: int,
    batch_size: int,
) -> Questions:
    """Ask the model as it is, which `steered` says.

    Raises:
        InputError: as `prompt_tokens` and `greedy_answers`.
    """
    rows = [prompt_tokens(model, text, chat=chat) for text in texts]
    answers = greedy_answers(
        model, rows, steered, max_new_tokens=max_new_tokens, batch_size=batch_size
    )
    return Questions(
        name=name,
        texts=tuple(texts),
        rows=tuple(map(tuple, rows)),
        answers=tuple(answer.text for answer in answers),
        answer_tokens=tuple(answer.tokens for answer in answers),
    )


def rouge_l(text: str, reference: str) -> float:
    """ROUGE-L: the harmonic mean of precision and recall of the longest common subsequence of words
    (Lin, ROUGE, 2004); 1 of two texts without a word, 0 where one has none.

    Words are runs of letters and digits, in lower case and unstemmed.
    """
    own, other = (_WORD.findall(each.casefold()) for each in (text, reference))
    if not own or not other:
        return float(own == other)
    common = [0] * (len(other) + 1)
    for word in own:
        before = 0
        for at, right in enumerate(other, start=1):
            before, common[at] = (
                common[at],
                before + 1 if word == right else max(common[at], common[at - 1]),
            )
    return 2 * common[-1] / (len(own) + len(other))
