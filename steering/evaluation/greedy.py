"""The likeliest answers to questions, under steering."""

from collections.abc import Sequence
from dataclasses import dataclass

from ...sae.language_model.model import LanguageModel
from ..config import Sampling
from ..generation import Generation, in_room
from .reading import Steered


@dataclass(frozen=True)
class Answer:
    """What a model says to a question, as text and token ids."""

    text: str
    tokens: tuple[int, ...]


def greedy_answers(
    model: LanguageModel,
    rows: Sequence[Sequence[int]],
    steered: Steered,
    *,
    max_new_tokens: int,
    batch_size: int,
) -> list[Answer]:
    """The likeliest answer, token by token, to each question.

    Args:
        model: the language model.
        rows: the token ids of each question, BOS or the chat template included.
        steered: how the model is steered.
        max_new_tokens: tokens of an answer at most.
        batch_size: questions in a pass.

    Returns:
        The answers in the order of the questions.

    Raises:
        InputError: a question leaves no room for so many tokens.
        TooStrong: the steered model's logits are no numbers.
    """
    sampling = in_room(Sampling(max_new_tokens=max_new_tokens), model, rows)
    order = sorted(range(len(rows)), key=lambda number: len(rows[number]))
    found: dict[int, Answer] = {}
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        with steered():
            generation = Generation(model, [rows[number] for number in batch], sampling)
            while not generation.done:
                generation.step()
        for number, text in zip(batch, generation.results(), strict=True):
            found[number] = Answer(text.text, text.tokens)
    return [found[number] for number in range(len(rows))]
