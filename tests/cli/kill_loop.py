"""Kill a command at random moments, give it again, and compare what it ends with.

    python tests/cli/kill_loop.py --kills 50 --folder FOLDER -- train --cache CACHE --k 4 ...

The command runs once without a kill in FOLDER/whole (--out is added). Then, in FOLDER/0, FOLDER/1,
..., it is killed with SIGKILL and given again until it ends by itself, so often that there were
--kills kills in all. Every process is forked from this one, which has the libraries loaded: the
kills fall on the work and not on imports. One JSON object says what happened; the exit status is 1
if anything differs, or the kills did not come to pass.
"""

import argparse
import json
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from sparsteer.cli.main import main as sparsteer

_LOADED_BEFORE = (
    "datasets",
    "transformer_lens.model_bridge",
    "sparsteer.training.harvest",
    "sparsteer.training.train",
)

# Times and paths differ from run to run; the lines of metrics are compared without them.
_NOT_COMPARED = (".lock", "config.yaml", "environment.json", "progress.json")
_NOT_COMPARED_IN_SUMMARY = ("run", "seconds", "tokens_per_second")
_ROUNDS_WITHOUT_A_KILL = 20


os.environ["SPARSTEER_THREADS"] = (
    "1"  # last bits may depend on them, and on a busy machine they vary
)


def fork(words: Sequence[str], log: Path) -> int:
    """Run the command in a process of its own; give its id."""
    process = os.fork()
    if process:
        return process
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os._exit(sparsteer(list(words)))


def killed_after(process: int, seconds: float) -> bool:
    """Kill the process after so long; False if it ended well before. Raises if it failed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return _ended_well(status)
        time.sleep(0.0005)
    os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    return os.WIFSIGNALED(status) or _ended_well(status)


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
        elif path.is_file() and path.name not in _NOT_COMPARED:
            found[name] = path.read_bytes()
    return found


def _without_times(line: dict[str, Any]) -> dict[str, Any]:
    summary: dict[str, Any] = line.get("summary", {})
    for name in _NOT_COMPARED_IN_SUMMARY:
        summary.pop(name, None)
    line.pop("crc32")
    return line


def loop(words: Sequence[str], folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """Kill and repeat; see above."""
    folder.mkdir(parents=True, exist_ok=True)
    log, rng = folder / "log.txt", random.Random(seed)
    started = time.monotonic()
    killed_after(fork([*words, "--out", str(folder / "whole")], log), 1e9)
    whole = time.monotonic() - started
    wanted, done, rounds, different = content(folder / "whole"), 0, 0, list[str]()
    while done < kills and rounds < done + _ROUNDS_WITHOUT_A_KILL:
        out = folder / str(rounds)
        while killed_after(
            fork([*words, "--out", str(out)], log),
            rng.uniform(0, whole) if done < kills else 1e9,
        ):
            done += 1
        ours = content(out)
        names = ours.keys() | wanted.keys()
        different += [f"{out}/{name}" for name in names if ours.get(name) != wanted.get(name)]
        rounds += 1
    return {
        "kills": done,
        "rounds": rounds,
        "seconds_without_a_kill": whole,
        "files": len(wanted),
        "different": different,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("words", nargs="+", help="the command, behind --")
    arguments = parser.parse_args()
    for name in _LOADED_BEFORE:
        import_module(name)
    result = loop(arguments.words, arguments.folder, arguments.kills, arguments.seed)
    print(json.dumps(result))
    return 0 if result["kills"] >= arguments.kills and not result["different"] else 1


if __name__ == "__main__":
    sys.exit(main())
