"""The files of a quiz: the questions without what is right, the key, and answers."""

from pathlib import Path
from typing import Any, cast

from ...sae.common.checksums import read_checked_json, write_checked_json
from ...sae.common.errors import InputError
from ...sae.common.files import read_json, write_json
from .quiz import FORMAT, Quiz, key_of, questions_of

QUIZ = "quiz.json"
KEY = "key.json"

_REMEDY = "make the quiz again with `sparsteer features quiz`"


def write_quiz_files(folder: Path, quiz: Quiz, about: dict[str, Any]) -> None:
    """Write the questions and the key into a folder; `about` says of what they are."""
    common = {"format": FORMAT, "quiz": quiz.identity, **about}
    write_checked_json(folder / QUIZ, {**common, "questions": questions_of(quiz)})
    write_checked_json(folder / KEY, {**common, "key": key_of(quiz)})


def read_quiz(folder: str | Path, name: str = QUIZ) -> dict[str, Any]:
    """The questions of a quiz, or with `KEY` its key.

    Raises:
        InputError: there is no quiz, or a file is not as it was written.
    """
    path = Path(folder) / name
    if not path.is_file():
        raise InputError(f"{folder} holds no quiz ({name} is missing); {_REMEDY}")
    values = read_checked_json(path, "quiz", remedy=_REMEDY)
    if values.get("format") != FORMAT:
        raise InputError(f"{path} is no quiz; {_REMEDY}")
    return values


def read_answers(path: str | Path, key: dict[str, Any]) -> dict[int, list[str | None]]:
    """The answers in a file, by question.

    The file is a JSON object with `quiz`, the identity that is in quiz.json, and `answers`: for the
    number of a question a list with "A", "B" or null for each of its pairs.

    Raises:
        InputError: it is not that, or of another quiz.
    """
    values = read_json(path, "file of answers", remedy="save the answers again")
    if values.get("quiz") != key["quiz"]:
        raise InputError(
            f"{path} has answers to another quiz ({values.get('quiz')}, not {key['quiz']}); give "
            "those to this one"
        )
    found: dict[int, list[str | None]] = {}
    n_pairs = {str(question["question"]): len(question["pairs"]) for question in key["key"]}
    given: object = values.get("answers")
    if not isinstance(given, dict):
        raise InputError(f'{path} has no "answers" by question; save the answers again')
    for number, choices in cast(dict[str, object], given).items():
        listed = cast(list[object], choices) if isinstance(choices, list) else None
        if number not in n_pairs or listed is None or len(listed) > n_pairs[number]:
            raise InputError(
                f"{path} answers {number!r} with {choices!r}; give at most {max(n_pairs.values())} "
                f'of "A", "B" or null for a question from 1 to {len(n_pairs)}'
            )
        if wrong := [choice for choice in listed if choice not in ("A", "B", None)]:
            raise InputError(
                f'{path} answers a pair of question {number} with {wrong[0]!r}; write "A", "B" or '
                "null"
            )
        found[int(number)] = cast(list[str | None], listed)
    return found


def write_answers(
    path: str | Path, quiz: str, answers: dict[int, list[str | None]], by: str
) -> None:
    """Write answers as `read_answers` reads them; `by` says whose they are."""
    listed = {str(number): choices for number, choices in sorted(answers.items())}
    write_json(path, {"quiz": quiz, "by": by, "answers": listed})
