"""Several processes write the cache that one writes, byte for byte, and end together."""

import dataclasses
import errno
import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sparsteer.sae.common.errors import InputError
from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.training import CacheConfig, cache_activations
from sparsteer.training.data import contexts
from sparsteer.training.data.cache import writer
from sparsteer.training.data.cache.manifest import CacheManifest, read_manifest
from sparsteer.training.distributed.joining import ProcessLost

InProcesses = Callable[..., list[Any]]

LENGTH, BATCH, TOKENS, N_SHARDS = 32, 4, 1001, 5


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Documents of very different lengths, some of them empty."""
    rng = random.Random(1)
    lengths = [0, 1, 60, *(rng.choice([0, rng.randrange(3, 30)]) for _ in range(60)), 0, 0]
    texts = [" ".join(rng.choices(["alpha", "be", "42", "☃"], k=length)) for length in lengths]
    path = tmp_path_factory.mktemp("corpus") / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def content(folder: str | Path) -> dict[str, bytes]:
    """Every file of a cache but the lock."""
    files = [path for path in Path(folder).iterdir() if path.name != ".lock"]
    return {path.name: path.read_bytes() for path in files}


class Stop(Exception):
    """Stands for a kill at a chosen moment."""


def stop_after(rows: int) -> writer.Progress:
    def progress(done: int, wanted: int, rate: float) -> None:
        if done > rows:
            raise Stop

    return progress


Changes = dict[str, Any]


def write(
    config: CacheConfig, model: LanguageModel | None, rows: int = 10**9, **changes: Any
) -> CacheManifest:
    changed = dataclasses.replace(config, **changes)
    return cache_activations(changed, model=model, progress=stop_after(rows))


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("tokens", [TOKENS, 30, 10**6])
def test_the_same_bytes_as_one_process(
    in_processes: InProcesses,
    config: CacheConfig,
    tiny_model: LanguageModel,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    tokens: int,
) -> None:
    """Also of one shard, where a process has none, and where the corpus ends early."""
    monkeypatch.setattr(contexts, "_BLOCK_PIECES", 5)
    together = in_processes(size, write, config, tiny_model, tokens=tokens)
    alone = write(config, tiny_model, tokens=tokens, out=config.out + "-alone")
    assert together == [alone] * size
    assert content(config.out) == content(config.out + "-alone")
    assert len(alone.shards) == {TOKENS: N_SHARDS, 30: 1}.get(tokens, len(alone.shards))


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2), (2, 3)])
def test_another_number_of_processes_goes_on(
    in_processes: InProcesses,
    config: CacheConfig,
    tiny_model: LanguageModel,
    first: int,
    then: int,
) -> None:
    whole = write(config, tiny_model, out=config.out + "-whole")
    if first == 1:
        with pytest.raises(Stop):
            write(config, tiny_model, rows=300)
    else:
        failures = in_processes(first, write, config, tiny_model, rows=500)
        assert [type(failure) for failure in failures] == [Stop] * first
    n_whole = len(read_manifest(Path(config.out)).shards)
    assert 0 < n_whole < N_SHARDS
    results = in_processes(then, write, config, tiny_model)
    assert results == [whole] * then
    assert content(config.out) == content(config.out + "-whole")


def test_only_what_is_missing_is_written_again(
    in_processes: InProcesses, config: CacheConfig, tiny_model: LanguageModel
) -> None:
    write(config, tiny_model)
    before = content(config.out)
    kept = Path(config.out, "shard-00001.safetensors")
    written = kept.stat().st_mtime_ns
    for number in (0, 2, 4):
        Path(config.out, f"shard-0000{number}.safetensors").unlink()
    in_processes(2, write, config, tiny_model)
    assert content(config.out) == before
    assert kept.stat().st_mtime_ns == written
    in_processes(2, write, config, None)  # nothing to do, and no model needed
    assert content(config.out) == before


def fail_in_second(config: CacheConfig, model: LanguageModel, error: Exception) -> object:
    """Write, but the second process fails at its second shard."""
    write_shard = writer.write_shard

    def failing(folder: Path, index: int, *rest: Any) -> object:
        if index == 3:
            raise error
        return write_shard(folder, index, *rest)

    pytest.MonkeyPatch().setattr(writer, "write_shard", failing)
    return write(config, model)


def test_a_full_disk_in_one_process_ends_all(
    in_processes: InProcesses, config: CacheConfig, tiny_model: LanguageModel
) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    failures = in_processes(2, fail_in_second, config, tiny_model, full)
    assert [type(failure) for failure in failures] == [OSError] * 2
    assert {failure.errno for failure in failures} == {errno.ENOSPC}
    assert len(read_manifest(Path(config.out)).shards) == 2
    write(config, tiny_model)
    write(config, tiny_model, out=config.out + "-whole")
    assert content(config.out) == content(config.out + "-whole")


def test_a_bad_activation_in_one_process_is_told_by_the_first(
    in_processes: InProcesses, config: CacheConfig, tiny_model: LanguageModel
) -> None:
    error = InputError("the model gives NaN; check its weights")
    failures = in_processes(2, fail_in_second, config, tiny_model, error)
    assert [str(failure) for failure in failures] == [str(error)] * 2
    assert [type(failure) for failure in failures] == [InputError] * 2


def vanish(config: CacheConfig, model: LanguageModel) -> object:
    def gone(*rest: Any) -> None:
        os._exit(9)

    if os.environ["RANK"] == "1":
        pytest.MonkeyPatch().setattr(writer, "write_shard", gone)
    return write(config, model)


def test_a_killed_process_ends_all(
    in_processes: InProcesses, config: CacheConfig, tiny_model: LanguageModel
) -> None:
    first, second = in_processes(2, vanish, config, tiny_model)
    assert isinstance(first, ProcessLost)
    assert second == "exit 9"
    write(config, tiny_model)


@pytest.mark.parametrize("ends", ["killed", "full disk"])
def test_what_the_others_wrote_before_the_first_ended_is_gone_on_with(
    in_processes: InProcesses, config: CacheConfig, tiny_model: LanguageModel, ends: str
) -> None:
    in_processes(2, end_in_first, config, tiny_model, ends)
    assert "shard-00000.safetensors" not in content(config.out)
    assert "shard-00001.safetensors" in content(config.out)
    write(config, tiny_model)
    write(config, tiny_model, out=config.out + "-whole")
    assert content(config.out) == content(config.out + "-whole")


def end_in_first(config: CacheConfig, model: LanguageModel, ends: str) -> object:
    """The first process ends before its first shard, when the second has written its own."""

    def failing(*rest: Any) -> None:
        second = Path(config.out, "shard-00001.safetensors")
        while not second.exists():
            time.sleep(0.01)
        if ends == "killed":
            os._exit(9)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if os.environ["RANK"] == "0":
        pytest.MonkeyPatch().setattr(writer, "write_shard", failing)
    return write(config, model)


def write_own_text(config: CacheConfig, model: LanguageModel, datasets: list[str]) -> object:
    return write(config, model, dataset=datasets[int(os.environ["RANK"])])


def test_processes_that_find_different_texts(
    in_processes: InProcesses, config: CacheConfig, tiny_model: LanguageModel, tmp_path: Path
) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text('{"text": "not the same"}\n{"text": "nor this"}\n')
    failures = in_processes(2, write_own_text, config, tiny_model, [config.dataset, str(other)])
    assert "the content of" in str(failures[0])
    assert not Path(config.out).exists()


def report(config: CacheConfig, model: LanguageModel) -> tuple[list[int], list[str]]:
    told: list[int] = []
    said: list[str] = []

    def progress(done: int, wanted: int, rate: float) -> None:
        told.append(done)

    changed = dataclasses.replace(config, tokens=10**6)
    cache_activations(changed, model=model, progress=progress, say=said.append)
    return told, said


def test_the_first_process_reports_for_all(
    in_processes: InProcesses, config: CacheConfig, tiny_model: LanguageModel
) -> None:
    (told, said), others = in_processes(2, report, config, tiny_model)
    assert told == sorted(set(told))
    assert told[-1] == read_manifest(Path(config.out)).rows
    assert len(said) == 1 and "ended after" in said[0]
    assert others == ([], [])
