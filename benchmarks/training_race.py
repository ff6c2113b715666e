"""Libraries that take training steps in turn, each in its own process and environment."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from environments import FOLDER, python_of
from training_cases import TrainingCase

IN_ENVIRONMENT = {
    "sparsify": "eai-sparsify",
    "sae-lens": "sae-lens",
    "sae-lens sparse": "sae-lens",
    "dictionary_learning": "dictionary-learning",
}
OURS, WITH_DEAD, PLAIN = "sparsteer", "sparsteer, a tenth dead", "plain sparse PyTorch"
LIBRARIES = (OURS, WITH_DEAD, PLAIN, *IN_ENVIRONMENT)
WARM_UP = 2
WORKER = Path(__file__).with_name("training_worker.py")


class Racer(Protocol):
    """A library in a race."""

    def step(self, number: int) -> float:
        """Train on batch `number`; the seconds it took."""
        ...

    def finish(self) -> dict[str, Any]:
        """FVU on held-out rows, megabytes of memory, and the fraction of rows verified."""
        ...


class Competitor:
    """A library in its process."""

    def __init__(self, name: str, words: Sequence[str], environments: Path = FOLDER) -> None:
        """Start it; `words` are the worker's options."""
        self.name = name
        self._errors = tempfile.TemporaryFile("w+")
        environment = IN_ENVIRONMENT.get(name)
        python = python_of(environment, environments) if environment else sys.executable
        self._process = subprocess.Popen(
            [python, str(WORKER), name, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self._answer()

    def step(self, number: int) -> float:
        return self._ask({"do": "step", "number": number})["seconds"]

    def finish(self) -> dict[str, Any]:
        found = self._ask({"do": "finish"})
        self._process.communicate()
        self._errors.close()
        return found

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.communicate()
            self._errors.seek(0)
            said = self._errors.read()
            self._errors.close()
            status = self._process.returncode
            raise SystemExit(f"{said}\n{self.name} ended with status {status}")
        return json.loads(line)


def libraries_of(case: TrainingCase, libraries: Sequence[str]) -> list[str]:
    """Those of the libraries that take part in the case, ours first."""
    left_out: set[str] = set()
    if case.dead:
        # All have dead latents there. The plain step has no AuxK, and the sparse activations of
        # sae-lens meet an operator in it that is missing on a CPU.
        left_out = {WITH_DEAD, PLAIN, "sae-lens sparse"}
    return [OURS, *(name for name in libraries if name != OURS and name not in left_out)]


def race(
    libraries: Sequence[str],
    words: Sequence[str],
    steps: int,
    make: Callable[[str, Sequence[str]], Racer],
) -> list[dict[str, Any]]:
    """Let the libraries take their steps in turn, WARM_UP before those that count.

    Args:
        libraries: names.
        words: options of the worker.
        steps: how many count.
        make: makes one of the libraries from its name and the words.

    Returns:
        For each library its name, seconds of each counted step, and what it says at the end.
    """
    racers = {name: make(name, words) for name in libraries}
    seconds: dict[str, list[float]] = {name: [] for name in libraries}
    for number in range(WARM_UP + steps):
        for name, racer in racers.items():
            seconds[name].append(racer.step(number))
    return [
        {"library": name, "seconds": seconds[name][WARM_UP:]} | racer.finish()
        for name, racer in racers.items()
    ]
