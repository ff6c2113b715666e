"""Run the command in this process with wrong inputs, and say where it breaks its promises.

The promises: one plain sentence of at most 400 characters that names the value and the remedy,
status 2, within ten seconds, and nothing left behind.
"""

import contextlib
import io
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from sparsteer.cli.main import main
from sparsteer.sae.common.text import LONGEST_SENTENCE

SECONDS = 10.0
"""Processor time that an answer may take; the clock would count what else runs on the machine."""


@dataclass(frozen=True)
class Case:
    """A command, and what is made of the copied world before it runs."""

    name: str
    words: Sequence[str]
    """Paths in it are relative to the copy of the world."""
    prepare: Callable[[], None] = lambda: None
    """Called in the copy, for what is wrong in a file."""
    is_wrong: bool = True
    """Whether status 2 is the only right answer; else 0 will do, too."""


class _TooLong(BaseException):
    """Not caught by the command as an error of its own."""


def deviations(case: Case, world: Path) -> list[str]:
    """What the command does wrong; empty if it keeps its promises."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(_copy(world, Path(folder))):
        case.prepare()
        before = _listing()
        out, err = _Stream(), _Stream()
        started = time.process_time()
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _limit():
                status: int | str = main(list(case.words))
        except _TooLong:
            return [f"no answer after {SECONDS:.0f} s"]
        except BaseException as error:
            return [f"{type(error).__name__} came through main: {error}"]
        seconds = time.process_time() - started
        left = sorted(_listing() ^ before) if status == 2 else []
    return [
        *_wrong_text(case, out.text, err.text, status),
        *_wrong_end(case, status, err, seconds, left),
    ]


def _wrong_text(case: Case, out: str, err: str, status: int) -> Generator[str]:
    lines = err.splitlines()
    if "Traceback" in err or "unexpected;" in err:
        yield "no sentence of its own"
    if any(not line.isprintable() for line in [*out.split("\n"), *err.split("\n")]):
        yield "raw control characters"
    if status and not (lines and lines[-1].startswith("error: ")):
        yield "no error line at the end"
    if sum(line.startswith("error: ") for line in lines) > 1:
        yield "several error lines"
    if lines and len(lines[-1]) > len("error: ") + LONGEST_SENTENCE:
        yield f"a sentence of {len(lines[-1])} characters"
    if status and out and not _tells_damage(case, status, err):
        yield "an error and standard output"


def _wrong_end(
    case: Case, status: int, err: "_Stream", seconds: float, left: list[str]
) -> Generator[str]:
    if status != 2 and (case.is_wrong or status != 0) and not _tells_damage(case, status, err.text):
        yield f"status {status}: {(err.text.splitlines() or ['accepted'])[-1][:300]}"
    if seconds > SECONDS:
        yield f"{seconds:.0f} s of processor time"
    if left:
        yield f"left behind: {', '.join(left[:3])}"


def _tells_damage(case: Case, status: int, err: str) -> bool:
    """Whether it is a verification that worked and found damage, which has a report to show."""
    verifies = list(case.words[:1]) == ["verify"] or list(case.words[:2]) == ["cache", "verify"]
    told = any("missing or not as written" in line for line in err.splitlines()[-1:])
    return status == 1 and verifies and told


def report(cases: Iterable[Case], world: Path) -> list[str]:
    """A line for each deviation of the cases."""
    return [
        f"{case.name}: {found} [{' '.join(case.words)[:200]!r}]"
        for case in cases
        for found in deviations(case, world)
    ]


def report_in_processes(cases: Sequence[Case], world: Path, processes: int) -> list[str]:
    """As `report`, with the cases dealt to so many forked processes."""
    folder = Path(tempfile.mkdtemp())
    children = [_fork(cases[n::processes], world, folder / str(n)) for n in range(processes)]
    ends = [os.waitpid(child, 0)[1] for child in children]
    lines = [line for n in range(processes) for line in (folder / str(n)).read_text().splitlines()]
    shutil.rmtree(folder)
    return lines + [f"process {n} ended with {end}" for n, end in enumerate(ends) if end]


def _fork(cases: Sequence[Case], world: Path, file: Path) -> int:
    child = os.fork()
    if child:
        return child
    with file.open("w", encoding="utf-8", errors="backslashreplace") as stream:
        for case in cases:
            stream.writelines(line + "\n" for line in report([case], world))
            stream.flush()
    os._exit(0)


class _Stream(io.TextIOWrapper):
    """Standard output or error as a program has it: strict UTF-8."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", write_through=True, newline="\n")

    @property
    def text(self) -> str:
        buffer = self.buffer
        assert isinstance(buffer, io.BytesIO)
        return buffer.getvalue().decode("utf-8")


def _copy(world: Path, folder: Path) -> Path:
    """The world with files of its own; those of the model, which no command changes, are linked."""
    for item in world.iterdir():
        if item.name == "model":
            os.symlink(item, folder / item.name)
        elif item.is_dir():
            shutil.copytree(item, folder / item.name, symlinks=True)
        else:
            shutil.copy(item, folder / item.name)
    os.mkfifo(folder / "odd" / "pipe")
    with socket.socket(socket.AF_UNIX) as own, contextlib.chdir(folder / "odd"):
        own.bind("socket")  # in the folder: the path of a socket may have some 100 bytes
    return folder


def _listing() -> set[str]:
    """Files and folders of the current folder; locks, which stay, are no content."""
    found = (str(path) for path in Path().rglob("*"))
    return {path for path in found if not path.endswith(".lock")}


@contextlib.contextmanager
def _limit() -> Generator[None]:
    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise _TooLong

    before = signal.signal(signal.SIGALRM, stop)
    # Other work on the machine may slow it down: five times as long by the clock.
    signal.setitimer(signal.ITIMER_REAL, 5 * SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
