"""What a dry run says about a cache, against the cache itself."""

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import pytest

from sparsteer.sae.common.errors import InputError
from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.training import CacheConfig, cache_activations
from sparsteer.training.data.cache import estimate as estimate_module
from sparsteer.training.data.cache.estimate import estimate_cache
from sparsteer.training.data.corpus_config import CacheDtype

SITES = ("blocks.0.hook_resid_post", "blocks.2.hook_mlp_out")


@pytest.fixture
def config(tiny_model_folder: Path, tmp_path: Path) -> CacheConfig:
    rng = random.Random(3)
    path = tmp_path / "texts.jsonl"
    with path.open("w") as file:
        for _ in range(300):
            text = " ".join(rng.choices(["alpha", "be", "gamma"], k=rng.randrange(3, 40)))
            file.write(json.dumps({"text": text}) + "\n")
    return CacheConfig(
        model=str(tiny_model_folder),
        dataset=str(path),
        out=str(tmp_path / "out"),
        site=SITES,
        tokens=7001,
        context_length=32,
        batch_size=8,
        shard_rows=1000,
        model_dtype="float32",
    )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_the_estimate_is_what_the_cache_then_is(
    config: CacheConfig, tiny_model: LanguageModel, dtype: CacheDtype
) -> None:
    config = dataclasses.replace(config, dtype=dtype)
    estimate = estimate_cache(config, model=tiny_model)
    assert not Path(config.out).exists()
    manifest = cache_activations(config, model=tiny_model)
    assert (estimate.rows, estimate.rows_there) == (manifest.rows, 0)
    assert estimate.sites == manifest.sites == SITES
    assert abs(estimate.shards - len(manifest.shards)) <= 1
    written = sum(shard.bytes for shard in manifest.shards)
    assert estimate.bytes == pytest.approx(written, rel=0.1)
    assert estimate.measured_rows > 1000
    assert estimate.seconds == pytest.approx(estimate.rows / estimate.rows_per_second)
    assert estimate.memory_bytes > 1e8
    assert estimate.fits and not estimate.corpus_ended


def test_what_is_there_need_not_be_made_or_fit(
    config: CacheConfig, tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(Exception):
        pass

    def stop(done: int, wanted: int, rate: float) -> None:
        if done > wanted / 2:
            raise Stop

    with pytest.raises(Stop):
        cache_activations(config, model=tiny_model, progress=stop)
    before = {path: path.read_bytes() for path in Path(config.out).iterdir()}
    estimate = estimate_cache(config, model=tiny_model)
    assert before == {path: path.read_bytes() for path in Path(config.out).iterdir()}
    assert 0 < estimate.rows_there < estimate.rows
    left = (estimate.rows - estimate.rows_there) / estimate.rows
    assert estimate.seconds == pytest.approx(estimate.rows * left / estimate.rows_per_second)
    for free, fits in ((1.01 * left, True), (0.99 * left, False)):
        available = round(estimate.bytes * free)
        assert dataclasses.replace(estimate, bytes_free=available).fits is fits


def test_a_corpus_that_ends_is_measured_whole(
    config: CacheConfig, tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate_module, "_PASSES", 1000)
    lines = Path(config.dataset).read_text().splitlines(keepends=True)
    Path(config.dataset).write_text("".join(lines[:60]))
    config = dataclasses.replace(config, tokens=10**6)
    estimate = estimate_cache(config, model=tiny_model)
    assert estimate.corpus_ended
    assert estimate.rows == cache_activations(config, model=tiny_model).rows


@pytest.mark.slow
def test_nothing_is_left_of_a_complete_cache_whose_corpus_ended(
    config: CacheConfig, tiny_model: LanguageModel
) -> None:
    config = dataclasses.replace(config, tokens=10**6)
    manifest = cache_activations(config, model=tiny_model)
    estimate = estimate_cache(config, model=tiny_model)
    assert estimate.rows == estimate.rows_there == manifest.rows < config.tokens
    assert estimate.seconds == 0
    assert estimate.corpus_ended


def test_too_little_text_is_named(config: CacheConfig, tiny_model: LanguageModel) -> None:
    Path(config.dataset).write_text(json.dumps({"text": "a few words"}) + "\n")
    with pytest.raises(InputError, match=r"texts\.jsonl fills only 1 context, too few"):
        estimate_cache(config, model=tiny_model)


def test_a_named_gpu_is_predicted_for(config: CacheConfig, tiny_model: LanguageModel) -> None:
    config = dataclasses.replace(config, dtype="float16", model_dtype=None)
    here = estimate_cache(config, model=tiny_model)
    assert (here.gpu, here.gpu_seconds, here.device_memory_free) == (None, None, None)
    found = estimate_cache(config, model=tiny_model, gpu="h100")
    assert (found.gpu, found.device_memory_free) == ("H100 SXM", 80_000_000_000)
    network = tiny_model.without_bridge().network.model
    layers: Any = network.get_submodule("model.layers")
    used = sum(weights.numel() for layer in layers[:3] for weights in layer.parameters())
    weights = sum(weights.numel() for weights in network.parameters())
    assert used < weights
    # Three blocks of the sites; each token meets half a context on average in attention.
    each = 2 * used + 4 * 3 * tiny_model.d_model * 32 / 2
    assert found.gpu_seconds is not None
    n_tokens = found.gpu_seconds * 989e12 / each
    assert found.rows < n_tokens < 1.3 * found.rows  # BOS and separators have no row
    rows = 8 * 32 * tiny_model.d_model
    assert 2 * weights + 40 * rows < found.device_memory_bytes < 2 * weights + 100 * rows
    in_float32 = dataclasses.replace(config, model_dtype="float32")
    slow = estimate_cache(in_float32, model=tiny_model, gpu="h100")
    assert slow.gpu_seconds == pytest.approx(found.gpu_seconds * 989 / 67, rel=0.05)
    assert slow.device_memory_bytes > found.device_memory_bytes
    assert not dataclasses.replace(found, device_memory_bytes=81_000_000_000).fits and found.fits
    with pytest.raises(InputError, match="gpu 'h1' is not known here"):
        estimate_cache(config, model=tiny_model, gpu="h1")


def test_a_gpu_without_bfloat16_is_predicted_in_float16(
    config: CacheConfig, tiny_model_folder: Path
) -> None:
    in_float16 = LanguageModel.load(str(tiny_model_folder), dtype="float16")
    config = dataclasses.replace(config, dtype="float16", model_dtype="float16")
    found = estimate_cache(config, model=in_float16, gpu="t4")
    assert found.gpu == "T4" and found.gpu_seconds is not None
