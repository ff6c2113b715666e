"""The process belongs to whoever runs it: the library leaves it as it finds it.

`cli/` sets the number of threads, malloc and signal handlers.
"""

import json
import logging
import os
import random
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsteer.steering.config import GenerateConfig, Sampling
from sparsteer.steering.features import build_index
from sparsteer.steering.features.config import BuildConfig
from sparsteer.steering.features.find_config import FindConfig
from sparsteer.steering.features.search import find
from sparsteer.steering.selection.config import ScoreConfig
from sparsteer.steering.selection.scoring import score
from sparsteer.steering.side_by_side import side_by_side
from sparsteer.training.config import TrainConfig
from sparsteer.training.data.cache.config import CacheConfig
from sparsteer.training.data.cache.writer import cache_activations
from sparsteer.training.evaluation.config import EvalConfig
from sparsteer.training.evaluation.evaluation import evaluate
from sparsteer.training.runtime import malloc
from sparsteer.training.runtime.threads import use_threads
from sparsteer.training.train import train
from sparsteer.training.trainer_config import TrainerConfig

ROOT = Path(__file__).parents[1]
THREADS = 3
WHERE: dict[str, set[str]] = {
    r"^\s*(import|from) signal\b": set(),
    r"\btorch\.(set_|manual_seed|use_deterministic)\w*\(": {"training/runtime/threads.py"},
    r"\bkeep_freed_memory\(": {"training/runtime/malloc.py"},
    r"\bmallopt\(": {"training/runtime/malloc.py"},
    r"\bos\.(environ(\[.*\] = |\.(update|setdefault|pop|clear)\()|putenv|umask|chdir|nice)": set(),
    r"\b(set_start_method|setlocale|basicConfig|setrlimit|excepthook)\b": set(),
}
"""What changes a process, and the only files of the library that may have it."""


@pytest.mark.parametrize("pattern", WHERE)
def test_nothing_in_the_library_changes_the_process(pattern: str) -> None:
    found = {
        str(path.relative_to(ROOT))
        for layer in ("kernels", "sae", "training", "steering", "app")
        for path in (ROOT / layer).rglob("*.py")
        if re.search(pattern, path.read_text(), re.MULTILINE)
    }
    assert found == WHERE[pattern]


def state() -> dict[str, Any]:
    """What a library could leave changed."""
    return {
        "threads": torch.get_num_threads(),
        "default dtype": torch.get_default_dtype(),
        "signals": [signal.getsignal(number) for number in signal.valid_signals()],
        "environment": dict(os.environ),
        "warnings": list(warnings.filters),
        "logging": list(logging.root.handlers),
        "folder": Path.cwd(),
    }


@pytest.mark.slow
def test_a_whole_chain_leaves_the_process_as_it_was(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a cache to scores; where a thread count is set meanwhile it is set back."""

    def refuse(*words: object) -> None:
        raise AssertionError("a signal handler is set")

    monkeypatch.setattr(signal, "signal", refuse)
    monkeypatch.setattr(malloc, "ctypes", None)  # by which malloc is reached
    monkeypatch.setenv("SPARSTEER_THREADS", "1")  # which is for the command
    cache, run = str(tmp_path / "cache"), str(tmp_path / "run")
    texts = write_texts(tmp_path)
    trainer = TrainerConfig(tokens=1000, batch_size=50)
    steps: dict[str, Callable[[], object]] = {
        "cache": lambda: cache_activations(
            CacheConfig(
                model=str(tiny_model_folder),
                dataset=texts,
                out=cache,
                tokens=2000,
                context_length=32,
                held_out_fraction=0.2,
            )
        ),
        "train": lambda: train(
            TrainConfig(cache=cache, out=run, n_latents=48, k=4, trainer=trainer)
        ),
        "evaluate": lambda: evaluate(EvalConfig(sae=run, cache=cache, rows=200, contexts=4)),
        "features build": lambda: build_index(BuildConfig(run=run, cache=cache)),
        "features find": lambda: find(FindConfig(run=run, positive=texts, negative=texts)),
        "generate": lambda: side_by_side(
            GenerateConfig(
                run=run,
                prompt=("ab cd",),
                feature=(3,),
                strength=1.0,
                sampling=Sampling(max_new_tokens=3),
            )
        ),
        "score": lambda: score(
            ScoreConfig(file=texts, target=texts, run=run, out=str(tmp_path / "scored.jsonl"))
        ),
    }
    with use_threads(THREADS):
        for name, step in steps.items():
            before = state()
            step()
            assert state() == before, name
    for file, key in (
        (f"{cache}/manifest.json", "threads"),
        (f"{run}/environment.json", "threads"),
    ):
        assert json.loads(Path(file).read_text())[key] == THREADS


def write_texts(folder: Path) -> str:
    """150 documents of made-up words."""
    source = random.Random(4)
    words = ["".join(source.choices("abcdefghij", k=source.randint(2, 8))) for _ in range(100)]
    path = folder / "texts.jsonl"
    with path.open("w") as file:
        for _ in range(150):
            text = " ".join(source.choices(words, k=source.randint(5, 30)))
            file.write(json.dumps({"text": text}) + "\n")
    return str(path)


@pytest.mark.parametrize(
    ("own", "wanted"),
    [
        ({}, "5000 None"),
        ({"GOMP_SPINCOUNT": "7"}, "7 None"),
        ({"OMP_WAIT_POLICY": "active"}, "None active"),
    ],
)
def test_the_command_lets_threads_sleep_soon_before_torch_is_loaded(
    own: dict[str, str], wanted: str
) -> None:
    code = """
import os, sys
from sparsteer.cli.entry import main
sys.argv = ["sparsteer", "--version"]
main()
print(*map(os.environ.get, ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")), "torch" in sys.modules)
"""
    others = {
        name: value
        for name, value in os.environ.items()
        if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    }
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=others | own)
    assert done.stdout.splitlines()[-1] == f"{wanted} False"
