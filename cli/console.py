"""What the command says: results on standard output, everything else on standard error."""

import json
import math
import os
import shlex
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..sae.common.text import visible
from ..sae.common.wording import count, duration

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

_SECONDS_BETWEEN_LINES = 5.0
_SECONDS_OF_PACE = 30.0

Update = Callable[[int, int, str], None]
"""Told about progress: units done, units in all, and what else to show."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """The result of a verb: for programs, for people, and for the shell."""

    values: dict[str, Any]
    """What `--json` prints."""
    shown: Sequence["RenderableType"] = field(default_factory=tuple)
    """What a person reads: lines of text and tables."""
    status: int = 0
    warnings: Sequence[str] = ()
    """What must not be missed, said last and on standard error."""
    error: str = "not all is well; what is wrong stands in the result"
    """The sentence on standard error where the status is not 0."""
    then: Callable[[], None] | None = None
    """What goes on once the result is printed, such as a server; its JSON is on one line, so that a
    program that reads it need not know where it ends."""


class Terminal:
    """Standard error, where a person follows the work: sentences and progress."""

    def __init__(self, *, quiet: bool = False) -> None:
        from .screen import Screen

        self._console = Screen(stderr=True)
        self._console.quiet = quiet

    def say(self, sentence: str) -> None:
        """Print a sentence on a line of its own."""
        self._console.print(visible(sentence))

    @contextmanager
    def progress(self, title: str, unit: str) -> Generator[Update]:
        """Give a function that shows progress: a bar on a terminal, else a line now and then."""
        pace = _Pace()
        if self._console.is_terminal:
            with _bar(self._console, title, unit, pace) as update:
                yield update
        else:
            yield _Lines(self.say, title, unit, pace).update

    @contextmanager
    def live(self) -> Generator["Callable[[RenderableType], None]"]:
        """Give a function that shows something in place of what it showed before.

        At the end it is gone. Where nobody watches a terminal nothing is shown.
        """
        if not self._console.is_terminal:
            yield lambda shown: None
            return
        from rich.live import Live

        with Live(console=self._console, transient=True, auto_refresh=False) as live:
            yield lambda shown: live.update(shown, refresh=True)


def print_json(values: dict[str, Any], *, one_line: bool = False) -> None:
    """Print one JSON object on standard output; NaN and infinity, which JSON lacks, become null."""
    indent = None if one_line else 2
    sys.stdout.write(json.dumps(_plain(values), indent=indent, allow_nan=False) + "\n")
    sys.stdout.flush()


def write_report(report: Report) -> None:
    """Print for a person what the verb found."""
    from .screen import Screen

    console = Screen(stderr=False)
    for item in report.shown:
        if console.is_terminal:
            console.print(item)
            continue
        with console.capture() as captured:
            console.print(item)
        # Tables are padded with spaces on the right, which a file has no use for.
        for line in captured.get().splitlines():
            sys.stdout.write(f"{line.rstrip()}\n")
    if not console.is_terminal and not _shares_standard_error():  # where they are said, too
        for warning in report.warnings:
            sys.stdout.write(f"warning: {visible(warning)}\n")
    sys.stdout.flush()


def _shares_standard_error() -> bool:
    """Whether standard output goes where standard error goes, as with `2>&1`."""
    try:
        return os.path.sameopenfile(sys.stdout.fileno(), sys.stderr.fileno())
    except (OSError, ValueError):  # a stream without a file
        return False


def table(*rows: tuple[str, str, str]) -> "RenderableType":
    """A table of measures: name, value, and how to read it."""
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(style="dim")
    for row in rows:
        grid.add_row(*row)
    return grid


def next_command(*words: str) -> str:
    """The line that says what to type next, quoted for the shell."""
    return f"next: {shlex.join(('sparsteer', *words))}"


class _Pace:
    """Units for each second of the last half minute, and the time that is left.

    Of the last half minute, because work that was resumed runs through what was done before.
    """

    def __init__(self) -> None:
        self._updates: deque[tuple[float, int]] = deque()

    def text(self, done: int, total: int, unit: str) -> str:
        """`unit`/s and the time left; empty before there are two updates to compare."""
        now = time.monotonic()
        self._updates.append((now, done))
        while len(self._updates) > 2 and self._updates[1][0] <= now - _SECONDS_OF_PACE:
            self._updates.popleft()
        since, before = self._updates[0]
        passed, units = now - since, done - before
        if not passed or units <= 0:
            return ""
        rate = units / passed
        pace = f"{count(rate)} {unit}/s" if rate >= 1 else f"{duration(1 / rate)} each"
        left = (total - done) * passed / units
        return f"{pace}, {duration(left)} left" if left else pace


class _Lines:
    """Progress where nobody watches a bar: a line every few seconds, and the last."""

    def __init__(self, say: Callable[[str], None], title: str, unit: str, pace: _Pace) -> None:
        self._say, self._title, self._unit, self._pace = say, title, unit, pace
        self._next = 0.0

    def update(self, done: int, total: int, more: str) -> None:
        pace = self._pace.text(done, total, self._unit)
        if time.monotonic() < self._next and done < total:
            return
        self._next = time.monotonic() + _SECONDS_BETWEEN_LINES
        parts = (f"{count(done)} of {count(total)} {self._unit}", pace, more)
        self._say(f"{self._title}: {', '.join(part for part in parts if part)}")


@contextmanager
def _bar(console: "Console", title: str, unit: str, pace: _Pace) -> Generator[Update]:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        TaskProgressColumn(),
        TextColumn("{task.fields[more]}"),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(title, total=None, more="")

        def update(done: int, total: int, more: str) -> None:
            # Two lines beside the bar, so that both fit into 80 columns.
            parts = (pace.text(done, total, unit), more)
            text = "\n".join(part for part in parts if part)
            bar.update(task, completed=done, total=total, more=text)

        yield update


def _plain(value: Any) -> Any:
    """The value as JSON has it."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {str(key): _plain(item) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] - any JSON
        case list() | tuple():
            return [_plain(item) for item in value]  # pyright: ignore[reportUnknownVariableType] - any JSON
        case Path():
            return str(value)
        case _:
            return value


def headed_grid(*headings: str) -> "Table":
    """A table with these columns; those that begin with > are aligned on the right."""
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in headings:
        right = heading.startswith(">")
        grid.add_column(heading.removeprefix(">"), justify="right" if right else "left")
    return grid
