"""--model-dtype: in which dtype the language model runs, for every verb that loads it."""

import copy
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.training.data.cache import model_dtype
from sparsteer.training.data.cache.config import CacheConfig
from sparsteer.training.data.stream.config import StreamConfig
from sparsteer.training.distributed.collectives import Distributed

from .conftest import CACHE_WORDS, TRAIN_WORDS, Sparsteer

SLOW = pytest.mark.slow
DTYPES = ["bfloat16", *(pytest.param(dtype, marks=SLOW) for dtype in ("float16", "float64"))]


@pytest.fixture(scope="module")
def stored_in_bfloat16(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, its weights stored in bfloat16."""
    folder = tmp_path_factory.mktemp("models") / "bfloat16"
    shutil.copytree(tiny_model_folder, folder)
    auto: Any = AutoModelForCausalLM  # transformers leaves its types open
    model = auto.from_pretrained(folder, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    return folder


def test_auto_is_what_is_stored(tiny_model_folder: Path, stored_in_bfloat16: Path) -> None:
    assert LanguageModel.load(str(tiny_model_folder), dtype="auto").dtype == torch.float32
    assert LanguageModel.load(str(stored_in_bfloat16), dtype="auto").dtype == torch.bfloat16


def test_a_cache_says_and_keeps_its_dtype(
    sparsteer: Sparsteer, stored_in_bfloat16: Path, corpus: Path, tmp_path: Path
) -> None:
    words = ("cache", "--model", stored_in_bfloat16, "--dataset", corpus, "--tokens", "600")
    words = (*words, *CACHE_WORDS, "--dtype", "float32")
    rows: dict[str, torch.Tensor] = {}
    for name in ("float32", "bfloat16", "auto"):
        out = tmp_path / name
        assert sparsteer(*words, "--out", out, "--model-dtype", name).status == 0
        manifest = json.loads((out / "manifest.json").read_text())
        assert manifest["model_dtype"] == ("float32" if name == "float32" else "bfloat16")
        shard = load_file(out / "shard-00000.safetensors")
        (rows[name],) = (tensor for key, tensor in shard.items() if key.startswith("activations"))
    assert torch.equal(rows["auto"], rows["bfloat16"])
    assert torch.equal(rows["bfloat16"], rows["bfloat16"].bfloat16().float())
    assert not torch.equal(rows["float32"], rows["bfloat16"])
    difference = (rows["float32"] - rows["bfloat16"]).square().sum()
    assert difference < 0.05**2 * rows["float32"].square().sum()
    refused = sparsteer(*words, "--out", tmp_path / "bfloat16", "--model-dtype", "float32")
    assert refused.status == 2
    assert "a cache with model_dtype='bfloat16', not 'float32'" in refused.error


def test_a_cache_that_does_not_say_ran_in_float32(
    sparsteer: Sparsteer, tiny_model_folder: Path, corpus: Path, tmp_path: Path
) -> None:
    """As caches have it that were written before there was a choice."""
    out = tmp_path / "cache"
    words = ("cache", "--model", tiny_model_folder, "--dataset", corpus, "--out", out)
    words = (*words, *CACHE_WORDS, "--tokens", "600")
    assert sparsteer(*words).status == 0
    manifest = json.loads((out / "manifest.json").read_text())
    for name in ("model_dtype", "sha256"):
        del manifest[name]
    del manifest["config"]["model_dtype"]
    manifest["version"] = 1
    (out / "manifest.json").write_text(json.dumps(manifest))
    assert "complete" in sparsteer(*words).err
    unsaid = [word for word in words if word not in ("--model-dtype", "float32")]
    assert "complete" in sparsteer(*unsaid).err
    assert sparsteer(*words, "--model-dtype", "float16").status == 2


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_verb_runs_in_it_and_later_ones_take_it_over(
    sparsteer: Sparsteer, tiny_model_folder: Path, corpus: Path, tmp_path: Path, dtype: str
) -> None:
    cache, run, few = tmp_path / "cache", tmp_path / "run", tmp_path / "few.jsonl"
    few.write_text("".join(corpus.read_text().splitlines(keepends=True)[:6]))
    source = (*CACHE_WORDS, "--model", tiny_model_folder, "--dataset", corpus)
    source = (*source, "--model-dtype", dtype, "--tokens", "2000")
    done = sparsteer("cache", *source, "--out", cache)
    assert done.status == 0
    assert sparsteer("train", "--cache", cache, "--out", run, *TRAIN_WORDS).status == 0
    origin = json.loads((run / "sae" / "config.json").read_text())["origin"]
    assert origin["model_dtype"] == dtype
    words = (
        "generate",
        run,
        "--feature",
        "1",
        "--max-activation",
        "2",
        "--prompt",
        "abc",
        "--json",
    )
    done = sparsteer(*words, "--tier", "per_token")
    assert done.status == 0 and done.values["model_dtype"] == dtype
    other = sparsteer(*words, "--model-dtype", "float32")
    assert other.values["model_dtype"] == "float32"
    assert f"was made in {dtype}" in other.err and "runs in float32 now" in other.err
    for command in (
        ("eval", run, "--cache", cache, "--contexts", "2"),
        ("features", "build", run, "--cache", cache),
        ("features", "find", run, "--positive", few, "--negative", few),
        ("score", few, "--target", few, "--run", run, "--out", tmp_path / "scored.jsonl"),
    ):
        done = sparsteer(*command)
        assert done.status == 0, done.err
        assert "was made in" not in done.err


def _always(answer: bool) -> Callable[[object], bool]:
    return lambda device: answer


@pytest.mark.parametrize("native", [True, False])
def test_by_default_a_cache_runs_in_bfloat16_where_that_is_native(
    sparsteer: Sparsteer,
    tiny_model_folder: Path,
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    native: bool,
) -> None:
    monkeypatch.setattr(model_dtype, "multiplies_bfloat16", _always(native))
    out, dtype = tmp_path / "cache", "bfloat16" if native else "float32"
    words = ("cache", "--model", tiny_model_folder, "--dataset", corpus, "--out", out)
    words = (*words, *CACHE_WORDS[:-2], "--device", "cpu")
    done = sparsteer(*words, "--tokens", "600")
    does = "multiplies natively" if native else "does not multiply natively"
    assert f"runs in {dtype}, " in done.err and f"this processor {does}; --model-dtype" in done.err
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["model_dtype"] == manifest["config"]["model_dtype"] == dtype
    # Wherever it goes on, it keeps to what it was begun with.
    monkeypatch.setattr(model_dtype, "multiplies_bfloat16", _always(not native))
    whole = (out / "shard-00000.safetensors").read_bytes()
    (out / "shard-00000.safetensors").unlink()
    again = sparsteer(*words, "--tokens", "600")
    assert again.status == 0 and "natively" not in again.err
    assert (out / "shard-00000.safetensors").read_bytes() == whole
    assert sparsteer(*words, "--tokens", "600", "--dry-run").status == 0
    other = "float32" if native else "bfloat16"
    refused = sparsteer(*words, "--tokens", "600", "--model-dtype", other)
    assert f"a cache with model_dtype='{dtype}', not '{other}'" in refused.error


def test_what_multiplies_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    for fast in (True, False):
        monkeypatch.setattr(model_dtype, "bfloat16_is_faster", lambda fast=fast: fast)
        assert model_dtype.multiplies_bfloat16(torch.device("cpu")) == fast
    assert not model_dtype.multiplies_bfloat16(torch.device("meta"))


@pytest.mark.parametrize(
    ("runs_in", "device", "stored"),
    [
        ("bfloat16", "cuda", "bfloat16"),
        ("float32", "cuda", "float16"),
        ("bfloat16", "cpu", "float16"),
    ],
)
def test_rows_are_stored_by_the_dtype_that_the_loaded_model_has(
    runs_in: str, device: str, stored: str, tiny_model: LanguageModel, tmp_path: Path
) -> None:
    """With `auto` that is known only once the model is loaded."""
    model = copy.copy(tiny_model)
    model.dtype, model.device = getattr(torch, runs_in), torch.device(device)
    asked = CacheConfig(model="m", dataset="d", out=str(tmp_path / "new"), model_dtype="auto")
    config = model_dtype.with_dtypes(asked, None, Distributed(), lambda sentence: None)
    assert (config.model_dtype, config.dtype) == ("auto", None)
    assert model_dtype.with_stored_dtype(config, model).dtype == stored
    stream = StreamConfig(model="m", dataset="d", model_dtype="auto")
    stream = model_dtype.with_stream_dtypes(stream, {}, torch.device("cpu"))
    assert model_dtype.with_stored_dtype(stream, model).dtype == stored
    begun = {"model_dtype": "auto"}  # by an older version, which stored its default
    stream = model_dtype.with_stream_dtypes(stream, begun, torch.device("cpu"))
    assert model_dtype.with_stored_dtype(stream, model).dtype == "float16"
    given = dataclasses.replace(config, dtype="int8")
    assert model_dtype.with_stored_dtype(given, model).dtype == "int8"
