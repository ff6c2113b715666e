"""A corpus, a cache and a run of the tiny model, and the command run in this process."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from sparsteer.cli.main import main

CACHE_WORDS = (
    *("--context-length", "32", "--shard-rows", "512", "--held-out-fraction", "0.2"),
    *("--model-dtype", "float32"),  # the default depends on the machine
)
TRAIN_WORDS = ("--n-latents", "48", "--k", "4", "--tokens", "2000", "--batch-size", "50")
SITES = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")


@dataclass(frozen=True)
class Done:
    """What a finished command left behind."""

    status: int
    out: str
    err: str

    @property
    def values(self) -> dict[str, Any]:
        """The one JSON object on standard output."""
        values: object = json.loads(self.out)
        assert isinstance(values, dict)
        return cast(dict[str, Any], values)

    @property
    def error(self) -> str:
        """The one sentence about the error that ended the command, the last thing that it said."""
        assert self.out == ""
        *before, line = self.err.splitlines()
        assert line.startswith("error: ")
        assert not any("error" in text.lower() or "Traceback" in text for text in before)
        return line.removeprefix("error: ")


Sparsteer = Callable[..., Done]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """No look at the machine's load: results must not depend on it."""
    monkeypatch.setenv("SPARSTEER_THREADS", "1")


@pytest.fixture
def sparsteer(capfd: pytest.CaptureFixture[str]) -> Sparsteer:
    """Run the command in this process; output is caught at the file descriptors."""

    def run(*words: object) -> Done:
        capfd.readouterr()
        status = main([str(word) for word in words])
        out, err = capfd.readouterr()
        return Done(status, out, err)

    return run


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 documents of made-up words, 120,000 bytes or so."""
    source = random.Random(0)
    words = ["".join(source.choices("abcdefghij", k=source.randint(2, 8))) for _ in range(300)]
    path = tmp_path_factory.mktemp("corpus") / "text.jsonl"
    with path.open("w") as file:
        for _ in range(400):
            text = " ".join(source.choices(words, k=source.randint(5, 90)))
            file.write(json.dumps({"text": text}) + "\n")
    return path


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path, corpus: Path) -> Path:
    """A cache of 5,000 rows at two sites."""
    folder = tmp_path_factory.mktemp("caches") / "tiny"
    words = ["--model", str(tiny_model_folder), "--dataset", str(corpus), "--out", str(folder)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSTEER_THREADS", "1")
        assert main(["cache", *words, *CACHE_WORDS, "--tokens", "5000", "--site", *SITES]) == 0
    return folder


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A finished run of 40 steps on the cache."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    words = ["--cache", str(cache), "--out", str(folder), "--site", SITES[1]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSTEER_THREADS", "1")
        assert main(["train", *words, *TRAIN_WORDS]) == 0
    return folder
