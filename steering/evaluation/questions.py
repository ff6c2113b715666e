"""Questions whose answers are known: with options to choose from, or with an answer to write.

They come from local files in the layouts that the usual benchmarks have, or are fetched.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ...sae.common.errors import InputError
from ...sae.fetching.fetch import fetch
from ...training.data.row_files.opening import open_files, open_rows

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_OPTION = re.compile(r"\(([A-E])\) ")
_RIGHT = re.compile(r"answer is \(([A-E])\)")


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question with options."""

    question: str
    options: tuple[str, ...]
    """At least two."""
    right: int
    """The number of the right option, from 0."""
    subject: str = ""
    """What examples are chosen by; empty where the source has none."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A question whose answer is written."""

    question: str
    answer: str
    """As the source has it, with the way to it where it shows that."""


def read_questions(path: str | Path) -> list[Question]:
    """Questions with options from a file of rows (JSONL, Parquet, ... or a folder of such).

    A row has `question` and `choices` (a list, or an object with the lists `text` and `label` as in
    ARC) and `answer` or `answerKey`: the number of the right one from 0, its letter or label, or
    the option itself; or, as in HellaSwag, `ctx`, `endings` and `label`. `subject` may be there.

    Raises:
        InputError: the file is missing or empty, or a row has another layout.
    """
    rows = open_rows(path, "questions").rows()
    found = [_question(row, f"{path}, row {number}") for number, row in enumerate(rows, start=1)]
    if not found:
        raise InputError(f"{path} has no questions; give a file with a question in each row")
    return found


def fetched_questions() -> list[Question]:
    """The 282 questions of MMLU's development set, in 57 subjects, that `sparsteer fetch
    instructions` brings; a few whose options cannot be told apart are left out.

    They are few, and public for long: a model may have seen them. A difference between two ways to
    steer the same model still means something.

    Raises:
        FetchError: they cannot be fetched.
    """
    rows = open_files([fetch("instructions")]).rows()
    found = [_worked(row) for row in rows if row["source"] == "mmlu-cot"]
    return [question for question in found if question is not None]


def read_problems(path: str | Path) -> list[Problem]:
    """Problems from a file of rows with `question` and `answer` (GSM8K), or `input` and `target`
    (BIG-Bench Hard).

    Raises:
        InputError: the file is missing or empty, or a row has neither.
    """
    found: list[Problem] = []
    for number, row in enumerate(open_rows(path, "problems").rows(), start=1):
        names = next(
            (
                names
                for names in (("question", "answer"), ("input", "target"))
                if all(isinstance(row.get(name), str) for name in names)
            ),
            None,
        )
        if names is None:
            raise InputError(
                f"{path}, row {number} has no question and answer as texts; name the fields so"
            )
        found.append(Problem(question=row[names[0]], answer=row[names[1]]))
    if not found:
        raise InputError(f"{path} has no problems; give a file with a problem in each row")
    return found


def _question(row: Mapping[str, Any], where: str) -> Question:
    question = row.get("question", row.get("ctx"))
    choices: Any = row.get("choices", row.get("endings"))
    labels: list[str] = []
    if isinstance(choices, Mapping):
        choices = cast(Mapping[str, Any], choices)
        labels = [str(label) for label in choices.get("label", ())]
        choices = choices.get("text")
    if not isinstance(question, str) or not isinstance(choices, list | tuple):
        raise InputError(f"{where} has no question and choices; name the fields so")
    options = [str(option) for option in cast(Sequence[object], choices)]
    if len(options) < 2:
        raise InputError(f"{where} has {len(options)} choices; give at least two")
    answer = next((row[name] for name in ("answer", "answerKey", "label") if name in row), None)
    right = _number_of(answer, options, labels or list(LETTERS[: len(options)]))
    if right is None:
        raise InputError(
            f"{where} has the answer {answer!r}, which is none of its {len(options)} choices; give "
            "its number from 0, its letter or the choice itself"
        )
    return Question(
        question=question,
        options=tuple(options),
        right=right,
        subject=str(row.get("subject") or ""),
    )


def _number_of(answer: object, options: Sequence[str], labels: Sequence[str]) -> int | None:
    if isinstance(answer, int) and not isinstance(answer, bool):
        return answer if 0 <= answer < len(options) else None
    text = str(answer).strip()
    for names in (labels, options):
        if text in names:
            return names.index(text)
    # HellaSwag has the number as text.
    return int(text) if text.isdecimal() and int(text) < len(options) else None


def _worked(row: Mapping[str, Any]) -> Question | None:
    """A question from a row in which the options stand in the text, and the answer in words."""
    text, _, listed = str(row["instruction"]).rpartition("\n")
    pieces = _OPTION.split(listed)
    letters, options = pieces[1::2], [piece.strip() for piece in pieces[2::2]]
    right = _RIGHT.search(str(row["output"]))
    in_order = "".join(letters) == LETTERS[: len(letters)] and len(letters) > 1
    if not in_order or pieces[0].strip() or right is None or right[1] not in letters:
        return None
    return Question(
        question=text,
        options=tuple(options),
        right=letters.index(right[1]),
        subject=str(row["subject"]),
    )
