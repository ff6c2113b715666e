"""Tasks for probes: texts with one of two labels, each text once."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ....sae.common.errors import InputError
from ....sae.common.files import nearest
from ....sae.fetching.fetch import fetch
from .config import ALL, DATA


@dataclass(frozen=True)
class ProbingTask:
    """Different texts with one of two labels."""

    name: str
    labels: tuple[str, str]
    """What the labels are called, in alphabetical order."""
    texts: tuple[tuple[str, bool], ...]
    """Each text with whether it has the second label, in the order of a hash of the text: any
    first so many are a sample."""


def load_tasks(
    names: Sequence[str],
    path: Path | None = None,
    *,
    progress: Callable[[str], None] = lambda sentence: None,
) -> list[ProbingTask]:
    """Read tasks by their names; `all` in place of a name is every one.

    Args:
        names: of the tasks.
        path: a JSONL file of rows `dataset`, `text`, `label`; by default what `sparsteer fetch
            probing-tasks` brings.
        progress: told of a download.

    Returns:
        The tasks in the order of the names. Texts that differ in white space alone are one text,
        and a text that stands there with both labels is left out.

    Raises:
        InputError: a name is unknown, or a task has not two labels.
        FetchError: the texts are not there yet and cannot be brought.
    """
    file = fetch(DATA, progress=progress) if path is None else path
    rows: dict[str, list[tuple[str, str]]] = {}
    for dataset, text, label in _rows(file):
        of_task = rows.setdefault(dataset, [])
        if ALL in names or dataset in names:
            of_task.append((text, label))
    chosen = list(rows) if ALL in names else list(dict.fromkeys(names))
    for name in chosen:
        if name not in rows:
            near = nearest(name, rows) or list(rows)[:2]
            raise InputError(f"{file} has no task {name!r}; try {' or '.join(near)}", field="tasks")
    return [task_of(name, rows[name]) for name in chosen]


def task_of(name: str, rows: Sequence[tuple[str, str]]) -> ProbingTask:
    """A task of (text, label) pairs, see `load_tasks`; InputError unless it has two labels."""
    names = sorted({label for _, label in rows})
    if len(names) != 2:
        raise InputError(
            f"the task {name!r} has {len(names)} labels, but probes tell two apart; "
            "choose another task",
            field="tasks",
        )
    first, second = names
    spellings: dict[str, str] = {}
    found: dict[str, set[str]] = {}
    for text, label in rows:
        plain = " ".join(text.split())
        spellings.setdefault(plain, text)
        found.setdefault(plain, set()).add(label)
    clear = [
        (spellings[plain], second in labels) for plain, labels in found.items() if len(labels) == 1
    ]
    clear.sort(key=lambda pair: hash_of(pair[0]))
    return ProbingTask(name, (first, second), tuple(clear))


def hash_of(text: str, seed: int | None = None) -> str:
    """A hash of the text, another for each seed."""
    salted = text if seed is None else f"{seed}\0{text}"
    return hashlib.sha256(salted.encode("utf-8", "surrogatepass")).hexdigest()


def _rows(file: Path) -> Iterator[tuple[str, str, str]]:
    with open(file, encoding="utf-8", newline="\n") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                yield row["dataset"], row["text"], row["label"]
            except (ValueError, KeyError, TypeError):
                raise InputError(
                    f"line {number} of {file} is not a JSON object with dataset, text and label; "
                    "mend it or leave it out"
                ) from None
