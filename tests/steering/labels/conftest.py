"""A stand-in server and a run with an index for every test of labels."""

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparsteer.sae import LanguageModel, Origin, SparseAutoencoder, TopKConfig
from sparsteer.steering.features import BuildConfig, build_index
from sparsteer.training.data.cache.config import CacheConfig
from sparsteer.training.data.cache.writer import cache_activations

from .chat_stand_in import ChatStandIn, chat_stand_in

SITE = "blocks.1.hook_resid_post"


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
    corpus = folder / "corpus.jsonl"
    source = random.Random(3)
    texts = ["".join(source.choices("abcdef gh", k=60)) for _ in range(150)]
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    config = CacheConfig(
        model=tiny_model.name,
        dataset=str(corpus),
        out=str(folder / "cache"),
        site=(SITE,),
        context_length=32,
        device="cpu",
    )
    cache_activations(config, model=tiny_model)
    origin = Origin(model=tiny_model.name, site=SITE, weights_hash=tiny_model.weights_hash)
    run = folder / "run"
    SparseAutoencoder(TopKConfig(tiny_model.d_model, 24, 4), seed=1, origin=origin).save(
        run / "sae"
    )
    build_index(
        BuildConfig(run=str(run), cache=str(folder / "cache"), device="cpu"), model=tiny_model
    )
    return run


@pytest.fixture
def run(indexed_run: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be labeled."""
    shutil.copytree(indexed_run, tmp_path / "run")
    return tmp_path / "run"
