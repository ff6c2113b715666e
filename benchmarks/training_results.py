"""Results of bench_training.py: one JSON file with the newest run of each host.

It holds the seconds of each step. A run that was stopped goes on: cases that it holds are not
measured again.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from results_file import RESULTS

_SOURCES = ("kernels", "sae", "training")
_BENCHMARK = ("plain_sparse.py", "training_competitors.py", "training_worker.py")
_FORMAT = "sparsteer training benchmark"
_ROOT = Path(__file__).parents[1]


@dataclass
class TrainingRun:
    """What was measured on one host."""

    date: str
    host: str
    """Processor, with threads."""
    command: str
    versions: str
    sources: str
    """Digest of the code that was measured."""
    settings: dict[str, int]
    """Batch, steps and the like."""
    libraries: list[str]
    """Those that were raced."""
    cases: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    """By name: the rows, their width, and what `race` gave."""

    def continues(self, other: "TrainingRun") -> bool:
        """Whether the other one measured the same on the same host."""
        names = ("host", "versions", "sources", "settings", "libraries")
        return all(getattr(self, name) == getattr(other, name) for name in names)


def digest_of_sources() -> str:
    """Of all code that a step runs."""
    found = hashlib.sha256()
    files = [path for folder in _SOURCES for path in sorted((_ROOT / folder).rglob("*.py"))]
    for path in [*files, *(Path(__file__).parent / name for name in _BENCHMARK)]:
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def read_runs(folder: Path = RESULTS) -> list[TrainingRun]:
    """The runs of the newest file; none if there is no file."""
    files = sorted(folder.glob("????-??-??-training.json"))
    if not files:
        return []
    return [TrainingRun(**run) for run in json.loads(files[-1].read_text("utf-8"))["runs"]]


def begin(run: TrainingRun, earlier: Iterable[TrainingRun], *, again: bool) -> list[TrainingRun]:
    """All runs to keep, this one last: with the cases and the date of an earlier one that it
    continues, in place of any other of its host."""
    kept: list[TrainingRun] = []
    for other in earlier:
        if other.host != run.host:
            kept.append(other)
        elif run.continues(other) and not again:
            run.cases, run.date = other.cases, other.date
            if run.command not in other.command.split("; "):
                run.command = f"{other.command}; {run.command}"
    return [*kept, run]


def save_runs(runs: list[TrainingRun], folder: Path = RESULTS) -> Path:
    """Write the file, under the date of the newest run; its path."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"format": _FORMAT, "runs": [asdict(run) for run in runs]}
    path = folder / f"{max(run.date for run in runs)}-training.json"
    temporary = path.with_suffix(".writing")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    temporary.rename(path)
    return path
