"""Relative paths of models and corpora: what was made with them works from any other folder."""

import json
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

from sparsteer.sae.language_model import locating

from .conftest import CACHE_WORDS, TRAIN_WORDS, Sparsteer


@pytest.fixture
def home(
    tmp_path: Path, tiny_model_folder: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The current folder, with a model at own/model; nobody may ask the hub."""

    def no_hub(name: str) -> NoReturn:
        raise AssertionError(f"the hub was asked for {name}")

    monkeypatch.setattr(locating, "_from_hub", no_hub)
    folder = tmp_path / "home"
    shutil.copytree(tiny_model_folder, folder / "own" / "model")
    shutil.copy(corpus, folder / "text.jsonl")
    (folder / "deeper").mkdir()
    monkeypatch.chdir(folder)
    return folder


CACHE = ("cache", *CACHE_WORDS, "--tokens", "2000", "--model", "own/model")


def later_commands(folder: Path) -> list[tuple[str, ...]]:
    """Every verb that opens the language model of a cache or a run again."""
    run, cache, text = f"{folder}/run", f"{folder}/cache", f"{folder}/text.jsonl"
    few = f"{folder}/few.jsonl"
    Path(few).write_text("".join(Path(text).read_text().splitlines(keepends=True)[:6]))
    return [
        ("eval", run, "--cache", cache, "--contexts", "2"),
        ("features", "build", run, "--cache", cache),
        ("features", "build", run, "--cache", cache, "--logits", "0"),
        ("features", "find", run, "--positive", few, "--negative", few),
        ("generate", run, "--feature", "1", "--max-activation", "2", "--prompt", "abc"),
        ("score", few, "--target", few, "--run", run, "--out", f"{folder}/out.jsonl"),
    ]


@pytest.mark.slow
def test_a_relative_model_is_found_from_elsewhere_and_asked_for_when_gone(
    sparsteer: Sparsteer, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sparsteer(*CACHE, "--dataset", "text.jsonl", "--out", "cache").status == 0
    assert sparsteer("train", "--cache", "cache", "--out", "run", *TRAIN_WORDS).status == 0
    monkeypatch.chdir(tmp_path)
    commands = later_commands(home)
    for words in commands:
        assert sparsteer(*words).status == 0, words
    (home / "out.jsonl").unlink()
    (home / "own" / "model").rename(home / "moved")
    for words in commands:
        done = sparsteer(*words)
        assert done.status == 2, words
        assert f"is not at {home}/own/model any more; give --model" in done.error
    assert sparsteer(*commands[0], "--model", "home/moved").status == 0


@pytest.mark.slow
def test_the_same_settings_from_another_folder_go_on(
    sparsteer: Sparsteer, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = ("train", *TRAIN_WORDS, "--chunk-rows", "2000", *CACHE_WORDS[:2])
    words = (*CACHE, "--dataset", "text.jsonl", "--out", "cache")
    streamed = (*stream, "--model", "own/model", "--dataset", "text.jsonl", "--out", "run")
    assert sparsteer(*words).status == sparsteer(*streamed).status == 0
    origin = json.loads((home / "run" / "sae" / "config.json").read_text())["origin"]
    assert origin["model"] == str(home / "own" / "model")
    monkeypatch.chdir(home / "deeper")
    relative = {"own/model": "../own/model", "text.jsonl": "../text.jsonl"}
    relative |= {name: f"../{name}" for name in ("cache", "run")}
    for command in (words, streamed):
        verb, *rest = command
        done = sparsteer(verb, *(relative.get(word, word) for word in rest))
        assert done.status == 0 and "complete" in done.err
    other = shutil.copy(home / "text.jsonl", home / "deeper" / "text.jsonl")
    refused = sparsteer(*CACHE, "--model", "../own/model", "--dataset", other, "--out", "../cache")
    assert refused.status == 2 and "holds a cache with dataset=" in refused.error
