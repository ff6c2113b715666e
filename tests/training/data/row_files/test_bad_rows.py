"""Rows without text far down: named, passed over, or mended, and the same command goes on."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsteer.sae import InputError, LanguageModel, SparseAutoencoder
from sparsteer.training import CacheConfig, cache_activations
from sparsteer.training.config import TrainConfig
from sparsteer.training.data.cache.estimate import estimate_cache
from sparsteer.training.data.cache.manifest import CacheManifest
from sparsteer.training.data.stream.config import StreamConfig
from sparsteer.training.data.stream.stream import open_stream
from sparsteer.training.run import RunFolder
from sparsteer.training.train import train
from sparsteer.training.trainer_config import TrainerConfig

ROWS = [f"ab cd ef gh {number}" for number in range(100)]
BAD = 83


@pytest.fixture
def config(tiny_model_folder: Path, tmp_path: Path) -> CacheConfig:
    return CacheConfig(
        model=str(tiny_model_folder),
        dataset=str(tmp_path / "texts.jsonl"),
        out=str(tmp_path / "cache"),
        tokens=10_000,
        context_length=32,
        batch_size=4,
        shard_rows=256,
        shuffle_buffer=1,
    )


def write_rows(config: CacheConfig | StreamConfig, **others: Any) -> None:
    """The rows, some of them with another value."""
    lines = [json.dumps({"text": text}).encode() for text in ROWS]
    for row, value in others.items():
        line = value if isinstance(value, bytes) else json.dumps({"text": value}).encode()
        lines[int(row.removeprefix("row"))] = line
    Path(str(config.dataset)).write_bytes(b"\n".join(lines))


def begun(config: CacheConfig, model: LanguageModel, value: Any, message: str) -> int:
    """Run into a bad row; the shards that are there then."""
    write_rows(config, **{f"row{BAD}": value})
    with pytest.raises(InputError, match=message):
        cache_activations(config, model=model)
    return len(list(Path(config.out).glob("*.safetensors")))


def content(manifest: CacheManifest) -> list[str]:
    return [entry.sha256 for entry in manifest.shards]


def test_mending_the_row_lets_the_same_command_go_on(
    config: CacheConfig, tiny_model: LanguageModel, tmp_path: Path
) -> None:
    message = r"line 84: the field 'text' holds 7 where text is needed; .*--skip-bad-rows"
    assert begun(config, tiny_model, 7, message) > 2
    write_rows(config)
    assert 0 < estimate_cache(config, model=tiny_model).rows_there
    said: list[str] = []
    mended = cache_activations(config, model=tiny_model, say=said.append)
    assert any("goes on from" in sentence for sentence in said)
    whole = cache_activations(
        dataclasses.replace(config, out=str(tmp_path / "whole")), model=tiny_model
    )
    assert content(mended) == content(whole) and mended.corpus == whole.corpus
    assert cache_activations(config, model=tiny_model) == mended


def test_what_was_read_may_not_change(config: CacheConfig, tiny_model: LanguageModel) -> None:
    n_shards = begun(config, tiny_model, 7, "line 84")
    before = {path.name: path.read_bytes() for path in Path(config.out).iterdir()}
    write_rows(config, row1="another text")
    with pytest.raises(InputError, match=r"the content of .* has changed since"):
        cache_activations(config, model=tiny_model)
    assert {path.name: path.read_bytes() for path in Path(config.out).iterdir()} == before
    assert n_shards == len([name for name in before if name.endswith(".safetensors")])


@pytest.mark.parametrize("value", [7, b'{"text": "cut', b'{"txet": "x"}', b'{"text": "\xff"}'])
def test_passing_over_bad_rows_goes_on(
    config: CacheConfig, tiny_model: LanguageModel, value: Any
) -> None:
    assert begun(config, tiny_model, value, r"line 84.*--skip-bad-rows") > 2
    skipping = dataclasses.replace(config, skip_bad_rows=True)
    done = cache_activations(skipping, model=tiny_model)
    assert (done.corpus.documents, done.corpus.empty_documents) == (100, 1)
    assert any("passed over 1 row without a text" in n and "line 84" in n for n in done.notices)
    assert cache_activations(config, model=tiny_model).rows == done.rows


def test_a_stream_passes_over_bad_rows(
    tiny_model: LanguageModel, tiny_model_folder: Path, tmp_path: Path
) -> None:
    config = StreamConfig(
        model=str(tiny_model_folder),
        dataset=str(tmp_path / "texts.jsonl"),
        context_length=32,
        chunk_rows=300,
        shuffle_buffer=1,
    )
    write_rows(config, **{f"row{BAD}": {"a": 1}})
    (tmp_path / "run").mkdir()
    said: list[str] = []

    def rows(config: StreamConfig) -> int:
        stream = open_stream(
            config,
            site=None,
            rows=1500,
            held_out_rows=50,
            device="cpu",
            folder=tmp_path / "run",
            begun=RunFolder(tmp_path / "run").settings_if_begun(),
            model=tiny_model,
            say=said.append,
        )
        return sum(len(batch) for batch in stream.batches(100))

    with pytest.raises(InputError, match=r"line 84.*--skip-bad-rows"):
        rows(config)
    assert rows(dataclasses.replace(config, skip_bad_rows=True)) == 1500
    assert (
        sum("passed over, such as" in sentence and "line 84" in sentence for sentence in said) == 1
    )


@pytest.mark.slow
def test_a_stream_goes_on_from_a_bad_row_as_its_sentence_says(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    stream = StreamConfig(
        model=str(tiny_model_folder),
        dataset=str(tmp_path / "texts.jsonl"),
        context_length=32,
        chunk_rows=200,
        forward_contexts=4,
        shuffle_buffer=1,
        held_out_fraction=0.4,
    )
    trainer = TrainerConfig(
        tokens=1500, batch_size=50, eval_rows=10, log_every=2, checkpoint_every=2
    )
    config = TrainConfig(
        stream=stream, out=str(tmp_path / "run"), n_latents=40, k=4, trainer=trainer
    )
    skipping = dataclasses.replace(config, stream=dataclasses.replace(stream, skip_bad_rows=True))
    write_rows(stream, **{f"row{BAD}": 7})
    with pytest.raises(
        InputError, match=r"line 84.*with --skip-bad-rows, with which a run that has begun goes on"
    ):
        train(config)
    n_steps = max(line["step"] for line in RunFolder(config.out).metrics())
    assert 0 < n_steps < 30
    write_rows(stream)
    for other in (config, skipping):
        with pytest.raises(InputError, match=r"give another --out, or restore the text as it was;"):
            train(other)
    write_rows(stream, **{f"row{BAD}": 7})
    said: list[str] = []
    train(skipping, say=said.append)
    assert any("goes on from step" in sentence for sentence in said)
    whole = dataclasses.replace(skipping, out=str(tmp_path / "whole"))
    train(whole)
    ours, theirs = (SparseAutoencoder.load(one.out).state_dict() for one in (config, whole))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
