"""A stand-in server and a run with an index for every test of labels."""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparsteer.sae import LanguageModel
from sparsteer.steering.features import BuildConfig, build_index

from ...tiny_runs import cache_of_texts, random_topk
from .chat_stand_in import ChatStandIn, chat_stand_in


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatStandIn]:
    """A running stand-in for a chat server, and no proxy before it."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with chat_stand_in() as server:
        yield server


@pytest.fixture(scope="session")
def indexed_run(tiny_model: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 24 latents of the tiny model with a feature index; not to be changed."""
    folder = tmp_path_factory.mktemp("labels")
    source = random.Random(3)
    texts = ["".join(source.choices("abcdef gh", k=60)) for _ in range(150)]
    cache = cache_of_texts(folder, tiny_model, texts, context_length=32)
    run = folder / "run"
    random_topk(tiny_model, 24).save(run / "sae")
    build_index(BuildConfig(run=str(run), cache=str(cache), device="cpu"), model=tiny_model)
    return run


@pytest.fixture
def run(indexed_run: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be labeled."""
    shutil.copytree(indexed_run, tmp_path / "run")
    return tmp_path / "run"
