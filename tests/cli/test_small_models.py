"""What is left open on a model with fewer positions than the usual defaults: it takes what fits."""

import json
import shutil
from pathlib import Path

import pytest

from sparsteer.sae.autoencoder import SparseAutoencoder
from sparsteer.sae.config import TopKConfig
from sparsteer.training.data.cache.manifest import read_manifest
from sparsteer.training.run import RunFolder

from .conftest import SITES, TRAIN_WORDS, Sparsteer

POSITIONS = 45


@pytest.fixture(scope="module")
def small_model(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, which reads 45 tokens at most."""
    folder = tmp_path_factory.mktemp("small") / "model"
    shutil.copytree(tiny_model_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config["max_position_embeddings"] = POSITIONS
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("first", ["implicit", "explicit"])
def test_a_cache_has_contexts_as_long_as_the_model_reads(
    sparsteer: Sparsteer, small_model: Path, corpus: Path, tmp_path: Path, first: str
) -> None:
    """And is the one of the same length given, which it goes on with."""
    out = tmp_path / "cache"
    words = ("cache", "--model", small_model, "--dataset", corpus, "--out", out, "--tokens", 400)
    explicit = ("--context-length", POSITIONS)
    before, after = (explicit, ()) if first == "explicit" else ((), explicit)
    assert sparsteer(*words, *before).status == 0
    manifest = read_manifest(out)
    assert manifest.context_length == manifest.config["context_length"] == POSITIONS
    for options in (before, after):
        again = sparsteer(*words, *options)
        assert "is complete (400 rows); nothing to do" in again.err
    assert read_manifest(out) == manifest
    refused = sparsteer(*words, "--context-length", POSITIONS + 1, "--out", tmp_path / "other")
    assert refused.status == 2
    assert f"--context-length is {POSITIONS + 1}, but {small_model} reads" in refused.error
    other = sparsteer(*words, "--context-length", POSITIONS - 1)
    assert "holds a cache with context_length=45, not 44" in other.error


def test_what_a_cache_of_a_small_model_would_take(
    sparsteer: Sparsteer, small_model: Path, corpus: Path, tmp_path: Path
) -> None:
    words = ("cache", "--model", small_model, "--dataset", corpus, "--out", tmp_path / "cache")
    dry = sparsteer(*words, "--tokens", 400, "--batch-size", 2, "--dry-run", "--json")
    assert (dry.status, dry.values["rows"]) == (0, 400)
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_another_length_than_the_usual_is_not_taken_up_without_being_asked_for(
    sparsteer: Sparsteer, tiny_model_folder: Path, corpus: Path, tmp_path: Path
) -> None:
    source = ("cache", "--model", tiny_model_folder, "--dataset", corpus, "--tokens", 300)
    for length in (33, 131):
        words = (*source, "--out", tmp_path / str(length))
        assert sparsteer(*words, "--context-length", length).status == 0
        for more in ((), ("--dry-run",)):
            refused = sparsteer(*words, *more)
            assert refused.status == 2
            assert f"holds a cache with context_length={length}, not 128" in refused.error
    words = (*source, "--out", tmp_path / "usual")
    assert sparsteer(*words, "--context-length", 128).status == 0
    assert "is complete" in sparsteer(*words).err
    assert read_manifest(tmp_path / "usual").config["context_length"] == 128


@pytest.mark.slow
def test_a_stream_has_contexts_as_long_as_the_model_reads(
    sparsteer: Sparsteer, small_model: Path, corpus: Path, tmp_path: Path
) -> None:
    source = ("--model", small_model, "--dataset", corpus, "--held-out-fraction", "0.2")
    words = ("train", *source, "--out", tmp_path / "run", *TRAIN_WORDS, "--eval-rows", 200)
    words += ("--chunk-rows", 500)
    done = sparsteer(*words)
    assert done.status == 0
    assert "--context-length" not in done.out  # nor need the cache that is proposed be told
    assert RunFolder(tmp_path / "run").settings()["stream"]["context_length"] == POSITIONS
    origin = SparseAutoencoder.load(tmp_path / "run").origin
    assert origin is not None
    text = (origin.dataset, origin.context_length, origin.prepends_bos)
    assert text == (str(corpus), POSITIONS, True)
    same = sparsteer(*words, "--context-length", POSITIONS)
    assert "is complete; nothing to train" in same.err
    other = sparsteer(*words, "--context-length", POSITIONS - 1)
    assert "holds a run with context_length=45, not 44" in other.error


def test_a_text_ends_where_the_model_does(
    sparsteer: Sparsteer, small_model: Path, tmp_path: Path
) -> None:
    """The longest prompt decides, in whatever batch it is."""
    SparseAutoencoder(TopKConfig(32, 48, 4), seed=1).save(tmp_path / "sae")
    words = ("generate", tmp_path / "sae", "--model", small_model, "--site", SITES[1])
    words += ("--feature", 2, "--max-activation", 1, "--json", "--batch-size", 1)
    found = sparsteer(*words, "--prompt", "abc", "--prompt", "d" * 37)
    assert found.status == 0
    assert found.values["max_new_tokens"] == POSITIONS - 38
    lengths = [len(result["base"]["tokens"]) for result in found.values["results"]]
    assert lengths == [POSITIONS - 38] * 2
    assert "texts end after 7 tokens, for which the longest prompt (of 38) leaves room" in found.err
    one = sparsteer(*words, "--prompt", "abc", "--max-new-tokens", POSITIONS - 38)
    assert one.status == 0
    assert "texts end" not in one.err
    full = sparsteer(*words, "--prompt", "d" * 44)
    assert full.status == 2
    assert "a prompt has 45 tokens, which leaves no room for another in the 45" in full.error
    given = sparsteer(*words, "--prompt", "d" * 37, "--max-new-tokens", POSITIONS - 37)
    assert given.status == 2
    assert "--max-new-tokens is 8, which with a prompt of 38 tokens exceeds the 45" in given.error
