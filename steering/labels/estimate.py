"""What labeling would cost, before anything is asked."""

from collections.abc import Sequence
from dataclasses import dataclass

from .evidence import Evidence, HeldOut
from .prompts import Messages, ask_for_label, ask_which_fit

_CHARACTERS_PER_TOKEN = 3.5
"""Of English text; of code and of other languages there are fewer."""
_LABEL_LENGTH = 40
"""Characters of a usual label."""
_TOKENS_AROUND = 8
"""Of each message, for its role and marks."""
_TOKENS_OF_LABEL, _TOKENS_OF_LIST = 12, 24


@dataclass(frozen=True)
class Estimate:
    """The work on some features if no answer is rejected."""

    features: int
    requests: int
    """To a server; of a model in this process, passes of it."""
    tokens_in: int | None
    tokens_out: int | None
    """Of answers without thoughts written down. None for a model in this process, which is asked
    otherwise, and costs time alone."""


def estimate(work: Sequence[tuple[Evidence, Sequence[HeldOut]]]) -> Estimate:
    """What a server takes to label each evidence, and to judge the label by the texts beside it."""
    asked: list[Messages] = [ask_for_label(evidence) for evidence, _ in work]
    judged = [[text.text for text in texts] for _, texts in work if texts]
    asked += [ask_which_fit("x" * _LABEL_LENGTH, texts) for texts in judged]
    return Estimate(
        features=len(work),
        requests=len(asked),
        tokens_in=sum(_tokens(messages) for messages in asked),
        tokens_out=_TOKENS_OF_LABEL * len(work) + _TOKENS_OF_LIST * len(judged),
    )


def estimate_local(work: Sequence[tuple[Evidence, Sequence[HeldOut]]]) -> Estimate:
    """What `LocalLabeler` takes for the same: a pass for each label, and one for each text by which
    it is judged and for none."""
    judged = [1 + len(texts) for _, texts in work if texts]
    return Estimate(len(work), requests=len(work) + sum(judged), tokens_in=None, tokens_out=None)


def _tokens(messages: Messages) -> int:
    return sum(
        _TOKENS_AROUND + round(len(message["content"]) / _CHARACTERS_PER_TOKEN)
        for message in messages
    )
