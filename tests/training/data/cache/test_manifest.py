"""The manifest of a cache: written and read back, and every way in which it can be broken."""

import dataclasses
import json
from pathlib import Path

import pytest

from sparsteer.sae.common.checksums import write_checked_json
from sparsteer.sae.common.errors import InputError
from sparsteer.training.data.cache.manifest import (
    EXCLUDED,
    CacheManifest,
    CorpusEntry,
    ShardEntry,
    read_manifest,
    write_manifest,
)


def shard(number: int) -> ShardEntry:
    return ShardEntry(
        file=f"shard-{number:05d}.safetensors",
        contexts=4,
        held_out_contexts=1,
        rows=10 + number,
        held_out_rows=number,
        excluded=dict.fromkeys(EXCLUDED, number),
        bytes=100,
        sha256=f"{number:064x}",
    )


MANIFEST = CacheManifest(
    complete=True,
    model="tiny",
    weights_hash="w",
    tokenizer_hash="t",
    sites=("blocks.0.hook_resid_post", "blocks.1.hook_resid_post"),
    d_model=8,
    dtype="float16",
    context_length=16,
    contexts_per_shard=4,
    threads=1,
    corpus=CorpusEntry(dataset="news", fingerprint="f", revision=None, parts=("news.jsonl",)),
    config={"site": ["a"], "seed": 0},
    held_out_below=2**63 + 1,
    notices=("a notice",),
    shards=(shard(0), shard(1), shard(2)),
)


def test_written_and_read(tmp_path: Path) -> None:
    write_manifest(tmp_path, MANIFEST)
    assert read_manifest(tmp_path) == MANIFEST


def test_totals_stand_in_the_file(tmp_path: Path) -> None:
    write_manifest(tmp_path, MANIFEST)
    values = json.loads((tmp_path / "manifest.json").read_text())
    assert (values["rows"], values["held_out_rows"]) == (33, 3)
    assert values["excluded"] == dict.fromkeys(EXCLUDED, 3)


def test_fingerprint_changes_with_any_shard() -> None:
    other = dataclasses.replace(MANIFEST, shards=(shard(0), shard(2), shard(1)))
    assert other.fingerprint != MANIFEST.fingerprint


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no manifest\.json, so it is no activation cache"):
        read_manifest(tmp_path)
    with pytest.raises(InputError, match=r"no activation cache at .*nowhere"):
        read_manifest(tmp_path / "nowhere")


GONE = object()


@pytest.mark.parametrize(
    ("where", "value", "words"),
    [
        (["version"], 3, "version 3"),
        (["format"], "other", "not the manifest"),
        (["model"], GONE, "'model' is missing"),
        (["modle"], "x", "modle"),
        (["d_model"], "8", "d_model is '8'"),
        (["complete"], 1, "complete is 1"),
        (["sites"], [1], "sites is (1,)"),
        (["rows"], 34, "its rows is 34"),
        (["excluded"], {}, "its excluded is {}"),
        (["shards"], None, "shards are no list"),
        (["shards", 1], 3, "3 where an object"),
        (["shards", 2], GONE, "its rows is 33"),
        (["shards", 1, "sha256"], GONE, "'sha256' is missing"),
        (["shards", 1, "rows"], -1, "rows is -1"),
        (["shards", 1, "contexts"], 10**30, "shard-00001"),
        (["shards", 1, "held_out_contexts"], 5, "shard-00001"),
        (["shards", 1, "held_out_rows"], 12, "shard-00001"),
        (["dtype"], "float64", "dtype is 'float64'"),
        (["sites"], [], "it names no site"),
        (["shards", 1, "file"], "../x", "../x"),
        (["shards", 1, "excluded", "bos"], GONE, "shard-00001"),
        (["shards", 1, "excluded", "bos"], "1", "excluded is"),
        (["corpus"], [], "object is needed"),
        (["corpus", "parts"], "news", "parts is 'news'"),
    ],
)
def test_broken(tmp_path: Path, where: list[str | int], value: object, words: str) -> None:
    write_manifest(tmp_path, MANIFEST)
    path = tmp_path / "manifest.json"
    values = json.loads(path.read_text())
    *parents, last = where
    inner = values
    for key in parents:
        inner = inner[key]
    if value is GONE:
        del inner[last]
    else:
        inner[last] = value
    del values["sha256"]
    write_checked_json(path, values)
    with pytest.raises(InputError) as error:
        read_manifest(tmp_path)
    assert words in str(error.value)
    assert str(path) in str(error.value)


def test_a_changed_letter_is_found_and_version_1_has_no_checksum(tmp_path: Path) -> None:
    write_manifest(tmp_path, MANIFEST)
    path = tmp_path / "manifest.json"
    values = json.loads(path.read_text())
    path.write_text(path.read_text().replace(MANIFEST.weights_hash, f"z{MANIFEST.weights_hash}"))
    with pytest.raises(InputError, match=r"has changed since it was written .*; restore it"):
        read_manifest(tmp_path)
    del values["sha256"]
    path.write_text(json.dumps(values | {"version": 1}))
    assert read_manifest(tmp_path) == MANIFEST


def test_cut_short(tmp_path: Path) -> None:
    write_manifest(tmp_path, MANIFEST)
    path = tmp_path / "manifest.json"
    path.write_text(path.read_text()[:-40])
    with pytest.raises(InputError, match="not valid JSON"):
        read_manifest(tmp_path)
