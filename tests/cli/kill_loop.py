"""Kill a command at random moments, give it again, and compare what it ends with.

    python tests/cli/kill_loop.py --kills 50 --folder FOLDER -- train --cache CACHE --k 4 ...
    python tests/cli/kill_loop.py --kills 50 --folder FOLDER --writes --commands FILE

The command runs once without a kill in FOLDER/whole/out ({} in it stands for that folder; where it
has none --out is added). Then, in FOLDER/0/out, FOLDER/1/out, ..., it is killed and given again
until it ends by itself, until there were --kills kills in all. By default SIGKILL comes at a random
time; with --writes a random signal comes where the command reaches a random one of its calls that
write (fsync, rename, replace, mkdir, rmdir, unlink, the exchange of two folders), before the call
or after it. FILE holds a JSON list of several commands: {"name", "words", "start" (a folder to
begin with a copy of, or null)}.

A command counts as killed if it dies of the signal that it was sent or, of SIGINT and SIGTERM, ends
with status 1 and the one error that it was interrupted. Another failure or a traceback ends this.
Every process is forked from this one, which has the libraries loaded: the kills fall on the work
and not on imports. One JSON object says what happened; the exit status is 1 if anything differs, a
file that is left over included, or the kills did not come to pass.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from sparsteer.cli.main import main as sparsteer
from sparsteer.sae.common import files

_LOADED_BEFORE = (
    "datasets",
    "transformer_lens.model_bridge",
    "sparsteer.training.data.cache.writer",
    "sparsteer.training.train",
)

# Times and paths differ from run to run; the lines of metrics are compared without them.
_NOT_COMPARED = ("config.yaml", "environment.json", "progress.json", "report.html", "picks.sqlite")
_NOT_COMPARED_SUFFIX = ".scoring"
_NOT_COMPARED_IN_SUMMARY = ("run", "seconds", "tokens_per_second")
_STEP = re.compile(r"step-\d+")
_ROUNDS_WITHOUT_A_KILL = 20
_NAME = "out"
"""Of what is written, in every round: drawings tell it."""
_WRITES = ("fsync", "rename", "replace", "mkdir", "rmdir", "unlink")
_SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_HANDLED = (signal.SIGTERM, signal.SIGINT)
"""They end a command in good order, with status 1 and a sentence."""

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
    with log.open("w") as file:
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
    exchange = "_rename_exchange"  # through the C library, which Python has no call for
    setattr(files, exchange, watched(getattr(files, exchange)))
    return lambda: n_calls


def killed_after(process: int, seconds: float, log: Path) -> bool:
    """Kill the process after so long; False if it ended well before. Raises if it failed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return _was_killed(status, log, None)
        time.sleep(0.0005)
    os.kill(process, signal.SIGKILL)
    return was_killed(process, log, signal.SIGKILL)


def was_killed(process: int, log: Path, sent: signal.Signals | None) -> bool:
    """Wait for the process; False if it ended well. Raises if it failed in another way than by
    the signal that may have been sent."""
    return _was_killed(os.waitpid(process, 0)[1], log, sent)


def _was_killed(status: int, log: Path, sent: signal.Signals | None) -> bool:
    code, said = os.waitstatus_to_exitcode(status), log.read_text()
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    if "Traceback" not in said:
        if code == 0 and not errors:
            return False
        if sent is not None and code == -sent:
            return True
        if sent in _HANDLED and code == 1 and len(errors) == 1:
            if errors[0].startswith("error: interrupted"):
                return True
    raise RuntimeError(f"{sent!r} ended the command with {code}: {said}")


def content(folder: Path) -> dict[str, Any]:
    """What a folder holds, by path; no two runs differ in it.

    Of checkpoints it is only told that there is one: where the one of an interruption is the newest
    it is kept in the place of another.
    """
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name == "metrics.jsonl":
            found[name] = [_without_times(json.loads(line)) for line in path.open()]
        elif "checkpoints" in (path.parent.name, path.parent.parent.name):
            found[_STEP.sub("step", name)] = None
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
    seed: int | str,
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
            shutil.copytree(start, out) if start else out.mkdir(parents=True)
        return [word.replace("{}", str(out)) for word in words]

    def is_killed(out: Path) -> bool:
        """Whether the command was given and killed before its end."""
        if done >= kills:
            return was_killed(fork(command(out), log), log, None)
        if writes:
            blow = Blow(rng.randrange(n_writes), rng.choice(_SIGNALS), rng.random() < 0.5)
            return was_killed(fork(command(out), log, blow), log, blow.signal)
        nonlocal whole
        is_new, begun = not out.exists(), time.monotonic()
        killed = killed_after(fork(command(out), log), rng.uniform(0, whole), log)
        if is_new and not killed:  # the machine has become quicker
            whole = min(whole, time.monotonic() - begun)
        return killed

    started = time.monotonic()
    was_killed(fork(command(folder / "whole" / _NAME), log), log, None)
    whole = time.monotonic() - started
    n_writes = int((folder / "writes").read_text())
    wanted, done, rounds, different = content(folder / "whole"), 0, 0, list[str]()
    while done < kills and rounds < done + _ROUNDS_WITHOUT_A_KILL:
        of_round = folder / str(rounds)
        while is_killed(of_round / _NAME):
            done += 1
        ours = content(of_round)
        names = ours.keys() | wanted.keys()
        different += [
            f"{of_round}/{name}" for name in names if ours.get(name, ()) != wanted.get(name, ())
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
            own = f"{seed} {one['name']}"  # other moments and signals for each
            found[one["name"]] = loop(
                one["words"], folder, kills, own, writes=writes, start=one["start"]
            )
        result, results = found, list(found.values())
    print(json.dumps(result))
    good = all(one["kills"] >= kills and not one["different"] for one in results)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
