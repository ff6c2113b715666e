"""Kill a command at random moments, give it again, and compare what it ends with.

    python tests/cli/kill_loop.py --kills 50 --folder FOLDER -- train --cache CACHE --k 4 ...
    python tests/cli/kill_loop.py --kills 50 --folder FOLDER --writes --commands FILE

The command runs once without a kill in FOLDER/whole ({} in it stands for that folder; where it has
none --out is added). Then, in FOLDER/0, FOLDER/1, ..., it is killed and given again until it ends
by itself, so often that there were --kills kills in all. By default SIGKILL comes after a random
time; with --writes a random signal comes where the command reaches a random one of its calls that
write (fsync, rename, replace, mkdir, rmdir, unlink), before the call or after it. FILE holds a JSON
list of several commands: {"name", "words", "start" (a folder to begin with a copy of, or null)}.
Every process is forked from this one, which has the libraries loaded: the kills fall on the work
and not on imports. One JSON object says what happened; the exit status is 1 if anything differs, a
file that is left over included, or the kills did not come to pass.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from sparsteer.cli.main import main as sparsteer

_LOADED_BEFORE = (
    "datasets",
    "transformer_lens.model_bridge",
    "sparsteer.training.harvest",
    "sparsteer.training.train",
)

# Times and paths differ from run to run; the lines of metrics are compared without them.
_NOT_COMPARED = ("config.yaml", "environment.json", "progress.json", "report.html")
_NOT_COMPARED_SUFFIX = ".scoring"
_NOT_COMPARED_IN_SUMMARY = ("run", "seconds", "tokens_per_second")
_ROUNDS_WITHOUT_A_KILL = 20
_WRITES = ("fsync", "rename", "replace", "mkdir", "rmdir", "unlink")
_STATUSES = (128 + signal.SIGINT, 128 + signal.SIGTERM)
"""Of a command that a signal ended in good order."""
_SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


os.environ["SPARSTEER_THREADS"] = (
    "1"  # last bits may depend on them, and on a busy machine they vary
)


class Blow(NamedTuple):
    """A signal that comes at one of the calls that write."""

    number: int
    """Calls before it."""
    signal: signal.Signals
    before: bool
    """Whether it comes before the call is made."""


def fork(words: Sequence[str], log: Path, blow: Blow | None = None) -> int:
    """Run the command in a process of its own; give its id."""
    process = os.fork()
    if process:
        return process
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # where the shell lets it be ignored
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    calls = _strike(blow)
    status = sparsteer(list(words))
    if blow is None:
        log.with_name("writes").write_text(str(calls()))
    os._exit(status)


def _strike(blow: Blow | None) -> Callable[[], int]:
    """Let the signal come in this process; give what counts the calls that write so far."""
    n_calls = 0

    def watched(call: Callable[..., Any]) -> Callable[..., Any]:
        def made(*arguments: Any, **options: Any) -> Any:
            nonlocal n_calls
            number, n_calls = n_calls, n_calls + 1
            hit = blow if blow is not None and number == blow.number else None
            if hit is not None and hit.before:
                os.kill(os.getpid(), hit.signal)
            result = call(*arguments, **options)
            if hit is not None and not hit.before:
                os.kill(os.getpid(), hit.signal)
            return result

        return made

    for name in _WRITES:
        setattr(os, name, watched(getattr(os, name)))
    return lambda: n_calls


def killed_after(process: int, seconds: float) -> bool:
    """Kill the process after so long; False if it ended well before. Raises if it failed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return _ended_well(status)
        time.sleep(0.0005)
    os.kill(process, signal.SIGKILL)
    return was_killed(process)


def was_killed(process: int) -> bool:
    """Wait for the process; False if it ended well. Raises if it failed."""
    _, status = os.waitpid(process, 0)
    by_signal = os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) in _STATUSES
    return by_signal or _ended_well(status)


def _ended_well(status: int) -> bool:
    if os.waitstatus_to_exitcode(status):
        raise RuntimeError(f"the command failed with {os.waitstatus_to_exitcode(status)}")
    return False


def content(folder: Path) -> dict[str, Any]:
    """What a folder holds, by path; no two runs differ in it."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name == "metrics.jsonl":
            found[name] = [_without_times(json.loads(line)) for line in path.open()]
        elif path.name in _NOT_COMPARED or path.suffix == _NOT_COMPARED_SUFFIX or path.is_dir():
            found[name] = None  # but that it is there
        else:
            found[name] = path.read_bytes()
    return found


def _without_times(line: dict[str, Any]) -> dict[str, Any]:
    summary: dict[str, Any] = line.get("summary", {})
    for name in _NOT_COMPARED_IN_SUMMARY:
        summary.pop(name, None)
    line.pop("crc32")
    return line


def loop(
    words: Sequence[str],
    folder: Path,
    kills: int,
    seed: int,
    *,
    writes: bool = False,
    start: str | None = None,
) -> dict[str, Any]:
    """Kill and repeat; see above."""
    folder.mkdir(parents=True, exist_ok=True)
    log, rng = folder / "log.txt", random.Random(seed)

    def command(out: Path) -> list[str]:
        if not any("{}" in word for word in words):
            return [*words, "--out", str(out)]
        if not out.exists():
            shutil.copytree(start, out) if start else out.mkdir()
        return [word.replace("{}", str(out)) for word in words]

    def is_killed(out: Path) -> bool:
        """Whether the command was given and killed before its end."""
        if done >= kills:
            return was_killed(fork(command(out), log))
        if writes:
            blow = Blow(rng.randrange(n_writes), rng.choice(_SIGNALS), rng.random() < 0.5)
            return was_killed(fork(command(out), log, blow))
        return killed_after(fork(command(out), log), rng.uniform(0, whole))

    started = time.monotonic()
    was_killed(fork(command(folder / "whole"), log))
    whole = time.monotonic() - started
    n_writes = int((folder / "writes").read_text())
    wanted, done, rounds, different = content(folder / "whole"), 0, 0, list[str]()
    while done < kills and rounds < done + _ROUNDS_WITHOUT_A_KILL:
        out = folder / str(rounds)
        while is_killed(out):
            done += 1
        ours = content(out)
        names = ours.keys() | wanted.keys()
        different += [
            f"{out}/{name}" for name in names if ours.get(name, ()) != wanted.get(name, ())
        ]
        rounds += 1
    return {
        "kills": done,
        "rounds": rounds,
        "seconds_without_a_kill": whole,
        "files": sum(value is not None for value in wanted.values()),
        "different": different,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--writes", action="store_true")
    parser.add_argument("--commands", type=Path)
    parser.add_argument("words", nargs="*", help="the command, behind --")
    arguments = parser.parse_args()
    for name in _LOADED_BEFORE:
        import_module(name)
    kills, seed, writes = arguments.kills, arguments.seed, arguments.writes
    if arguments.commands is None:
        result = loop(arguments.words, arguments.folder, kills, seed, writes=writes)
        results = [result]
    else:
        found: dict[str, Any] = {}
        for one in json.loads(arguments.commands.read_text()):
            folder = arguments.folder / one["name"]
            found[one["name"]] = loop(
                one["words"], folder, kills, seed, writes=writes, start=one["start"]
            )
        result, results = found, list(found.values())
    print(json.dumps(result))
    good = all(one["kills"] >= kills and not one["different"] for one in results)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
