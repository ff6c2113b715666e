"""What a study asks a model to see what steering costs beside fluency."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..evaluation.exact_match import Kind, answer_in
from ..evaluation.questions import (
    Problem,
    Question,
    fetched_questions,
    read_problems,
    read_questions,
)
from ..features.text_lists import read_text_list
from .config import StudyConfig

FETCHED = "mmlu"
"""The name of the fetched questions."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the model is asked, steered and unsteered alike; by the name of its file."""

    questions: dict[str, tuple[Question, ...]]
    """With options."""
    examples: dict[str, tuple[Question, ...]]
    """Answered ones to stand before them: all of the file, which are never put before
    themselves."""
    problems: dict[str, tuple[Problem, ...]]
    """With an answer to write; the answered ones that stand before them are not among them."""
    solved: dict[str, tuple[Problem, ...]]
    """Answered ones to stand before them."""
    requests: tuple[str, ...]
    """Harmless ones."""


@lru_cache(maxsize=1)
def asked_of(config: StudyConfig) -> Asked:
    """What a study's settings name; files are read once for all its rows.

    Raises:
        InputError: a file is missing, or has another layout.
        FetchError: the default questions cannot be fetched.
    """
    n = config.n_questions
    all_questions = {_name(path): tuple(read_questions(path)) for path in config.questions}
    if not config.questions:
        all_questions = {FETCHED: tuple(fetched_questions())}
    all_problems = {_name(path): tuple(read_problems(path)) for path in config.problems}
    requests: Sequence[str] = ()
    if config.requests is not None:
        requests = read_text_list(config.requests, config.text_field, what="--requests")
    return Asked(
        questions={name: spread(found, n) for name, found in all_questions.items()},
        examples=all_questions,
        problems={
            name: found[config.shots :][:n] or found[:n] for name, found in all_problems.items()
        },
        solved={
            name: found[: config.shots] if len(found) > config.shots else ()
            for name, found in all_problems.items()
        },
        requests=tuple(requests[:n]),
    )


def spread(found: Sequence[Question], n: int) -> tuple[Question, ...]:
    """At most n of the questions, evenly from all of them, as files are sorted by subject."""
    if len(found) <= n:
        return tuple(found)
    return tuple(found[number * len(found) // n] for number in range(n))


def shots_of(config: StudyConfig, examples: Sequence[Question]) -> int:
    """How many answered questions stand before each; as many as there are others, at most."""
    return min(config.shots, len(examples) - 1)


def kind_of(problems: Sequence[Problem]) -> Kind:
    """Numbers are compared where each known answer has one, else texts."""
    numbers = all(answer_in(problem.answer, "number") for problem in problems)
    return "number" if numbers else "text"


def _name(path: str) -> str:
    return Path(path).stem
