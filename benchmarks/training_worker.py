"""One competitor of bench_training.py, in a process and an environment of its own.

It answers requests, a JSON object a line: {"do": "step", "number": N} trains on batch N and says
the seconds it took; {"do": "finish"} says FVU on held-out rows and the memory that training needed.
Whatever the libraries print goes to standard error.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType] - untyped
from torch import Tensor
from training_competitors import COMPETITORS, Sizes, Sparsteer, Weights


def peak_megabytes() -> float:
    """The peak resident memory of this program; `getrusage` would start from its parent's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return float("nan")


def fvu(competitor: Any, x: Tensor) -> float:
    with torch.no_grad():
        missed = (competitor.reconstruct(x) - x).square().sum()
        return float(missed / (x - x.mean(0)).square().sum())


class Worker:
    """A competitor that answers requests."""

    def __init__(self, sizes: Sizes) -> None:
        torch.set_num_threads(sizes.threads)
        self._sizes = sizes
        self._rows = np.load(sizes.rows, mmap_mode="r", allow_pickle=False)
        self._n_batches = (len(self._rows) - sizes.held_out) // sizes.batch
        start = Weights(**load_file(sizes.start))
        self._before = peak_megabytes()
        self._competitor = COMPETITORS[sizes.competitor](sizes, start)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Of a step its seconds; of the end FVU, megabytes and the fraction of rows verified."""
        if request["do"] == "step":
            start = request["number"] % self._n_batches * self._sizes.batch
            x = torch.as_tensor(np.array(self._rows[start : start + self._sizes.batch]))
            started = time.perf_counter()
            self._competitor.step(x)
            return {"seconds": time.perf_counter() - started}
        megabytes = peak_megabytes() - self._before
        held_out = torch.as_tensor(np.array(self._rows[-self._sizes.held_out :]))
        verified = None
        if isinstance(self._competitor, Sparsteer):
            verified = self._competitor.verified(held_out)
        found = fvu(self._competitor, held_out)
        return {"fvu": found, "megabytes": megabytes, "verified": verified}


def parsed(words: list[str] | None = None) -> Sizes:
    """The command's arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("competitor", choices=COMPETITORS)
    parser.add_argument("--rows", required=True)
    parser.add_argument("--start", required=True)
    for name in ("batch", "k", "held-out", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--dead", action="store_true")
    return parser.parse_args(words, namespace=Sizes())


def main() -> None:
    sizes = parsed()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker = Worker(sizes)

    def send(values: dict[str, Any]) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    send({"ready": True})
    for line in sys.stdin:
        send(worker.answer(json.loads(line)))


if __name__ == "__main__":
    main()
