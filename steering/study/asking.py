"""Whether what a study asks fits the model, said before hours of measuring."""

from collections.abc import Sequence

from ...sae.language_model.model import LanguageModel
from ..config import Sampling
from ..evaluation.exact_match import MAX_NEW_TOKENS as _OF_PROBLEM
from ..evaluation.exact_match import answered_prompts
from ..evaluation.multiple_choice import option_rows
from ..evaluation.refusals import MAX_NEW_TOKENS as _OF_REQUEST
from ..generation import in_room
from ..texts import has_chat_template, prompt_tokens
from .asked import asked_of, kind_of, shots_of
from .config import StudyConfig


def require_askable(model: LanguageModel, config: StudyConfig) -> None:
    """Read all files of questions, problems and requests, and put each as it will be put.

    Raises:
        InputError: a file is missing or broken, a question is too long with its examples or has no
            answer to compare with, or the model has no working cache.
        FetchError: the default questions cannot be fetched.
    """
    asked = asked_of(config)
    for name, questions in asked.questions.items():
        examples = asked.examples[name]
        option_rows(model, questions, shots=shots_of(config, examples), examples=examples)
    for name, problems in asked.problems.items():
        prompts = answered_prompts(problems, asked.solved[name], kind_of(problems))
        _require_room([prompt_tokens(model, text) for text in prompts], model, _OF_PROBLEM)
    chat = has_chat_template(model)
    rows = [prompt_tokens(model, text, chat=chat) for text in asked.requests]
    _require_room(rows, model, _OF_REQUEST)


def _require_room(rows: Sequence[Sequence[int]], model: LanguageModel, n: int) -> None:
    """Raise an InputError if a prompt leaves no room for an answer of n tokens."""
    in_room(Sampling(max_new_tokens=n), model, rows)
