"""A pipe in the place of any file that a command opens is one sentence; nothing waits for it."""

import os
import shutil
import signal
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

import pytest

from sparsteer.sae.common.errors import InputError
from sparsteer.training.data.stream.chunk_index import CHUNK_INDEX, ChunkIndex

from .conftest import SITES, TRAIN_WORDS, Sparsteer

SECONDS = 60
"""A command that waits for a pipe would wait for ever."""


@pytest.fixture
def world(
    cache: Path,
    run_folder: Path,
    tiny_model_folder: Path,
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """The current folder: a cache, a run, a model and a text."""
    for name, folder in {"cache": cache, "run": run_folder, "model": tiny_model_folder}.items():
        shutil.copytree(folder, tmp_path / name)
    shutil.copy(corpus, tmp_path / "text.jsonl")
    monkeypatch.chdir(tmp_path)
    return tmp_path


TO_NEW = ("--model", "model", "--dataset", "text.jsonl", "--out", "new", "--tokens", "500")
COMMANDS: dict[str, tuple[str, ...]] = {
    "train": ("train", "--cache", "cache", "--out", "run", "--site", SITES[1], *TRAIN_WORDS),
    "cache": ("cache", *TO_NEW, "--site", SITES[1]),
    "eval": ("eval", "run", "--cache", "cache", "--plots"),
    "build": ("features", "build", "run", "--cache", "cache", "--examples", "2"),
    "pick": ("pick", "run", "add", "3"),
}
REPLACED = [
    ("train", "run/metrics.jsonl"),
    ("train", "run/.lock"),
    ("train", "run/config.yaml"),
    ("train", "run/environment.json"),
    ("eval", "run/metrics.jsonl"),
    ("build", "run/.lock-features"),
    ("pick", "run/.lock-picks.json"),
    ("pick", "run/picks.json"),
    ("eval", "run/sae/sae.safetensors"),
    ("cache", "new/.lock"),
    ("cache", "model/config.json"),
    ("cache", "model/tokenizer.json"),
    ("cache", "model/tokenizer_config.json"),
    ("cache", "model/special_tokens_map.json"),
    ("cache", "model/chat_template.jinja"),
    ("cache", "model/model.safetensors"),
    ("cache", "model/model.safetensors.index.json"),
]


@pytest.mark.parametrize(("command", "file"), REPLACED, ids=[" ".join(pair) for pair in REPLACED])
def test_a_pipe_in_the_place_of_a_file(
    sparsteer: Sparsteer, world: Path, command: str, file: str
) -> None:
    path = world / file
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    with limit():
        done = sparsteer(*COMMANDS[command])
    assert done.status == 2, done
    assert Path(file).name in done.error and "it is a pipe, not a regular file" in done.error
    assert path.is_fifo()


def test_a_pipe_in_the_place_of_where_windows_begin(tmp_path: Path) -> None:
    path = tmp_path / CHUNK_INDEX
    os.mkfifo(path)
    with limit(), pytest.raises(InputError, match=r"stream\.jsonl .*it is a pipe"):
        ChunkIndex(path, 0)


@contextmanager
def limit() -> Generator[None]:
    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise TimeoutError(f"no end after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
