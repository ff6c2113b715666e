"""Tasks for probes: every text once, in an order that the rows' order does not change."""

import json
import random
from pathlib import Path

import pytest

from sparsteer.sae.common.errors import InputError
from sparsteer.sae.fetching import fetch
from sparsteer.training.evaluation.probing.config import ALL, DEFAULT_TASKS, ProbingSettings
from sparsteer.training.evaluation.probing.tasks import load_tasks, task_of

ROWS = [(f"text {number}", "no" if number % 3 else "yes") for number in range(30)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tasks.jsonl"
    rows = [{"dataset": "b", "text": text, "label": label} for text, label in ROWS]
    rows += [{"dataset": "a", "text": text, "label": text[-1]} for text in ("x 1", "y 2", "z 2")]
    rows += [{"dataset": "one", "text": "x", "label": "0"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_text_stands_in_a_task_once_and_with_one_label() -> None:
    rows = [*ROWS, ("text  1\n", "no"), ("text 2", "no"), ("text 4", "yes")]
    task = task_of("b", rows)
    assert task.labels == ("no", "yes")
    assert sorted(task.texts) == sorted(
        (text, label == "yes") for text, label in ROWS if text != "text 4"
    )


def test_the_order_of_texts_does_not_depend_on_that_of_the_rows() -> None:
    shuffled = random.Random(1).sample(ROWS, len(ROWS))
    assert shuffled != ROWS
    assert task_of("b", shuffled) == task_of("b", ROWS)
    assert [text for text, _ in task_of("b", ROWS).texts] != [text for text, _ in ROWS]


def test_tasks_by_name_come_in_the_order_of_the_names(file: Path) -> None:
    assert [task.name for task in load_tasks(["a", "b", "a"], file)] == ["a", "b"]
    assert load_tasks(["b"], file) == [task_of("b", ROWS)]


def test_every_task(file: Path) -> None:
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    assert [task.name for task in load_tasks([ALL], file)] == ["b", "a"]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("bb", "has no task 'bb'; try b"), ("one", "the task 'one' has 1 labels")],
)
def test_what_is_no_task_is_refused(file: Path, name: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        load_tasks([name], file)


def test_a_broken_line_is_named(file: Path) -> None:
    with open(file, "a") as added:
        added.write('{"dataset": "b"}\n')
    with pytest.raises(InputError, match=r"line 35 of .* is not a JSON object with dataset"):
        load_tasks(["b"], file)


@pytest.mark.parametrize(
    "wrong",
    [
        {"tasks": ()},
        {"tasks": "all"},
        {"tasks": (" ",)},
        {"texts": 59},
        {"ks": (2, 1)},
        {"ks": ()},
        {"ks": (0,)},
        {"seeds": 0},
        {"max_length": 1},
        {"pooling": "sum"},
        {"batch_tokens": 0},
    ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_wrong_settings_are_named(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        ProbingSettings(**wrong)  # pyright: ignore[reportArgumentType] - that is the test


@pytest.mark.download
@pytest.mark.usefixtures("user_cache")
def test_the_default_tasks_are_those_of_the_rule() -> None:
    tasks = load_tasks([ALL], fetch.fetch("probing-tasks"))
    assert len(tasks) == 113

    def texts_of_a_label(texts: tuple[tuple[str, bool], ...]) -> int:
        return min(sum(own == label for _, own in texts) for label in (False, True))

    large = [task.name for task in tasks if texts_of_a_label(task.texts) >= 250]
    assert tuple(large[::8]) == DEFAULT_TASKS
