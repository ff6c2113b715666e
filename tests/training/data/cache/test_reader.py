"""Reading a cache: batches as a function of seed and number, held-out rows apart, damage found."""

import dataclasses
import gc
import os
import re
import threading
import time
from collections.abc import Callable
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsteer.sae.common.errors import InputError
from sparsteer.training import ActivationCache
from sparsteer.training.data import shuffling
from sparsteer.training.data.cache import reader as cache_module
from sparsteer.training.data.cache.manifest import (
    EXCLUDED,
    CacheManifest,
    CorpusEntry,
    ShardEntry,
    read_manifest,
    write_manifest,
)
from sparsteer.training.data.cache.shards import Shard, ShardContent, encode_rows, write_shard
from sparsteer.training.data.corpus_config import CacheDtype
from sparsteer.training.runtime.read_ahead import one_ahead
from sparsteer.training.verification import verify

D, LENGTH, PER_CONTEXT = 3, 9, 7
SITES = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")


def write_cache(
    folder: Path,
    shards: list[list[bool]],
    *,
    dtype: CacheDtype = "float32",
    sites: tuple[str, ...] = SITES[:1],
    complete: bool = True,
) -> ActivationCache:
    """A cache with the given held-out flags of the contexts of each shard.

    Row r holds (r, is it held out, site number), with r counted over the whole cache; context c is
    full of token c, but its last column is padding where c is a multiple of 3.
    """
    folder.mkdir(parents=True, exist_ok=True)
    entries: list[ShardEntry] = []
    row = number = 0
    for index, held_out in enumerate(shards):
        n_rows = len(held_out) * PER_CONTEXT
        context = torch.arange(n_rows) // PER_CONTEXT
        rows = torch.arange(row, row + n_rows)
        contexts = torch.arange(number, number + len(held_out))
        flags = torch.tensor(held_out)
        activations = {
            site: encode_rows(
                torch.stack([rows, flags[context], torch.full((n_rows,), i)], dim=1).float(),
                dtype,
                site,
            )
            for i, site in enumerate(sites)
        }
        content = ShardContent(
            activations=activations,
            tokens=contexts[context],
            doc=contexts[context],
            position=rows,
            context=context,
            offset=torch.arange(n_rows) % PER_CONTEXT + 2,
            contexts=contexts[:, None].expand(-1, LENGTH),
            lengths=torch.where(contexts % 3 == 0, LENGTH - 1, LENGTH),
            held_out=flags,
        )
        entries.append(write_shard(folder, index, content, dict.fromkeys(EXCLUDED, 0)))
        row, number = row + n_rows, number + len(held_out)
    manifest = CacheManifest(
        complete=complete,
        model="tiny",
        weights_hash="w",
        tokenizer_hash="t",
        sites=sites,
        d_model=D,
        dtype=dtype,
        context_length=LENGTH,
        contexts_per_shard=4,
        threads=1,
        corpus=CorpusEntry(dataset="x", fingerprint="f", revision=None, parts=("x",)),
        config={},
        shards=tuple(entries),
    )
    write_manifest(folder, manifest)
    return ActivationCache(folder, allow_incomplete=not complete)


SHARDS = [[False, True, False], [False] * 4, [True], [False, False], [False] * 4, [True, False]]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> ActivationCache:
    return write_cache(tmp_path_factory.mktemp("cache") / "c", SHARDS)


@pytest.fixture(params=[10, 1000, 100_000], ids=["one shard", "some shards", "all shards"])
def window_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of one shard, of a few (28 rows of 12 bytes each), and of all."""
    monkeypatch.setattr(shuffling, "BUFFER_BYTES", request.param)


def take(
    cache: ActivationCache, n_batches: int, batch_size: int, *, seed: int = 0, start: int = 0
) -> list[Tensor]:
    with_thread = cache.batches(batch_size, seed=seed, start=start)
    found = list(islice(with_thread, n_batches))
    with_thread.close()
    return found


def row_numbers(parts: list[Tensor]) -> list[int]:
    return [int(row) for part in parts for row in part[:, 0]]


def training_rows() -> list[int]:
    flags = [flag for shard in SHARDS for flag in shard for _ in range(PER_CONTEXT)]
    return [row for row, held_out in enumerate(flags) if not held_out]


def test_counts(cache: ActivationCache) -> None:
    assert cache.sites == [SITES[0]]
    assert cache.d_model == D
    assert cache.n_rows == 16 * PER_CONTEXT
    assert cache.n_held_out == 3 * PER_CONTEXT
    assert cache.n_train == 13 * PER_CONTEXT
    assert len(cache.fingerprint) == 64


@pytest.mark.usefixtures("window_bytes")
@pytest.mark.parametrize("batch_size", [1, 7, 13, 91])
def test_an_epoch_is_a_permutation_of_the_training_rows(
    cache: ActivationCache, batch_size: int
) -> None:
    """All batch sizes divide the 91 training rows, so no row is left out."""
    per_epoch = cache.n_train // batch_size
    found = take(cache, 3 * per_epoch, batch_size)
    assert all(batch.shape == (batch_size, D) and batch.dtype == torch.float32 for batch in found)
    epochs = [row_numbers(found[e * per_epoch : (e + 1) * per_epoch]) for e in range(3)]
    assert [sorted(epoch) for epoch in epochs] == [training_rows()] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert epochs[0] != sorted(epochs[0])


@pytest.mark.usefixtures("window_bytes")
def test_the_incomplete_last_batch_is_left_out_and_no_row_occurs_twice(
    cache: ActivationCache,
) -> None:
    found = take(cache, 2 * (91 // 20), 20)
    for epoch in (found[:4], found[4:]):
        rows = row_numbers(epoch)
        assert len(rows) == len(set(rows)) == 80
        assert set(rows) <= set(training_rows())
    assert set(row_numbers(found[:4])) != set(row_numbers(found[4:]))


@pytest.mark.usefixtures("window_bytes")
@pytest.mark.parametrize("batch_size", [5, 20, 91])
@pytest.mark.parametrize("seed", [0, 3])
def test_batch_i_from_any_start(cache: ActivationCache, batch_size: int, seed: int) -> None:
    whole = take(cache, 40, batch_size, seed=seed)
    for start in (1, 2, 3, 4, 17, 18, 19, 33):
        part = take(cache, 3, batch_size, seed=seed, start=start)
        assert all(map(torch.equal, part, whole[start : start + 3]))


@pytest.mark.usefixtures("window_bytes")
@pytest.mark.parametrize("cuts", [(10,), (1, 3, 19), (5, 10, 15)])
def test_parts_of_batches_are_the_batches(cache: ActivationCache, cuts: tuple[int, ...]) -> None:
    whole = take(cache, 9, 20, start=2)
    readers = [cache.batches(20, start=2, part=slice(*ends)) for ends in pairwise((0, *cuts, None))]
    for batch in whole:
        assert torch.equal(torch.cat([next(reader) for reader in readers]), batch)
    for reader in readers:
        reader.close()


@settings(max_examples=30)
@given(
    st.lists(st.lists(st.booleans(), min_size=1, max_size=4), min_size=1, max_size=5),
    st.integers(1, 30),
    st.integers(0, 2**64),
    st.integers(0, 500),
    st.integers(1, 900),
)
def test_laws_of_the_order(
    tmp_path_factory: pytest.TempPathFactory,
    shards: list[list[bool]],
    batch_size: int,
    seed: int,
    start: int,
    window: int,
) -> None:
    cache = write_cache(tmp_path_factory.mktemp("law") / "c", shards)
    if batch_size > cache.n_train:
        with pytest.raises(InputError, match="training rows"):
            cache.batches(batch_size)
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shuffling, "BUFFER_BYTES", window)
        per_epoch = cache.n_train // batch_size
        first = start - start % per_epoch
        epoch = take(cache, per_epoch, batch_size, seed=seed, start=first)
        again = take(cache, 1, batch_size, seed=seed, start=start)
    rows = row_numbers(epoch)
    assert len(set(rows)) == len(rows) == per_epoch * batch_size
    assert not any(batch[:, 1].any() for batch in epoch)
    assert torch.equal(again[0], epoch[start % per_epoch])


def test_seeds_differ_and_repeat(cache: ActivationCache) -> None:
    orders = [row_numbers(take(cache, 4, 20, seed=seed)) for seed in (0, 1, -1, 2**65, 0)]
    assert len({tuple(order) for order in orders}) == 4
    assert orders[0] == orders[-1]


def test_rows_mix_over_the_shards_of_a_window(cache: ActivationCache) -> None:
    """In one window a batch has rows of several shards, not runs of one."""
    first = row_numbers(take(cache, 1, 20))
    shard_of = [i for i, shard in enumerate(SHARDS) for _ in range(len(shard) * PER_CONTEXT)]
    assert len({shard_of[row] for row in first}) >= 4


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
def test_other_dtypes_come_in_float32(tmp_path: Path, dtype: CacheDtype) -> None:
    cache = write_cache(tmp_path / "c", SHARDS, dtype=dtype)
    (batch,) = take(cache, 1, 91)
    assert batch.dtype == torch.float32
    # A row's number is its largest value: exact in int8, and rounded to 8 bits in bfloat16.
    assert sorted(row_numbers([batch.round()])) == pytest.approx(training_rows(), abs=1)


def test_sites_are_read_apart(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "c", SHARDS, sites=SITES)
    assert cache.site_name(SITES[1]) == SITES[1]
    for number, site in enumerate(SITES):
        assert (next(iter(cache.batches(5, site=site)))[:, 2] == number).all()
        assert (cache.held_out(site=site)[:, 2] == number).all()
    with pytest.raises(InputError, match=r"holds the sites .*; choose one"):
        cache.batches(5)
    with pytest.raises(InputError, match=r"no site 'blocks\.1\.hook_resid_pre'; it has blocks"):
        cache.held_out(site="blocks.1.hook_resid_pre")


def test_held_out_rows(cache: ActivationCache) -> None:
    rows = cache.held_out()
    assert rows.dtype == torch.float32
    assert row_numbers([rows]) == sorted(set(range(cache.n_rows)) - set(training_rows()))
    assert rows[:, 1].all()
    assert torch.equal(cache.held_out(limit=1000), rows)


def test_a_limit_spreads_held_out_rows_evenly(cache: ActivationCache) -> None:
    everything = row_numbers([cache.held_out()])
    for limit in (1, 2, 3, 8, 20):
        found = row_numbers([cache.held_out(limit=limit)])
        places = [everything.index(row) for row in found]
        assert len(found) == limit
        assert places == [i * 21 // limit for i in range(limit)]
        documents = cache.held_out_documents(limit=limit)
        assert [int(number) for number in documents] == [row // PER_CONTEXT for row in found]


def test_a_limit_reads_few_shards_of_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = write_cache(tmp_path / "c", [[i % 2 == 0, False] for i in range(16)])
    monkeypatch.setattr(cache_module, "_FEW_SHARDS", 2)
    opened: list[str] = []
    shard = cache.shard

    def counting(entry: ShardEntry) -> Shard:
        opened.append(entry.file)
        return shard(entry)

    monkeypatch.setattr(cache, "shard", counting)
    assert len(cache.held_out(limit=2 * PER_CONTEXT)) == 2 * PER_CONTEXT
    assert opened == ["shard-00000.safetensors", "shard-00008.safetensors"]
    opened.clear()
    assert len(cache.held_out(limit=3 * PER_CONTEXT)) == 3 * PER_CONTEXT
    assert [int(name[6:11]) for name in opened] == [0, 4, 8, 12]
    opened.clear()
    assert len(cache.held_out_contexts(8)[0]) == len(opened) == 8


def test_held_out_contexts(cache: ActivationCache) -> None:
    tokens, mask = cache.held_out_contexts()
    assert (tokens.dtype, mask.dtype) == (torch.int64, torch.bool)
    assert list(map(int, tokens[:, 0])) == [1, 7, 14]
    assert (tokens == tokens[:, :1]).all()
    assert list(map(int, mask.sum(dim=1))) == [LENGTH, LENGTH, LENGTH]
    tokens, _ = cache.held_out_contexts(2)
    assert list(map(int, tokens[:, 0])) == [1, 7]


def test_short_held_out_contexts_are_masked(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "c", [[True, True], [False, True]])
    _, mask = cache.held_out_contexts()
    assert list(map(int, mask.sum(dim=1))) == [LENGTH - 1, LENGTH, LENGTH - 1]
    assert not mask[0, -1]


def test_without_held_out_rows(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "c", [[False, False]])
    for read in (cache.held_out, cache.held_out_contexts):
        with pytest.raises(InputError, match=r"no held-out rows; .*--held-out-fraction"):
            read()


def test_one_held_out_row_is_none_to_measure_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = write_cache(tmp_path / "c", [[False, True]])
    cache.require_held_out()
    monkeypatch.setattr(CacheManifest, "held_out_rows", 1)
    with pytest.raises(InputError, match="has only one held-out row; cache more documents"):
        cache.require_held_out()


def test_batches_that_cannot_be(cache: ActivationCache) -> None:
    with pytest.raises(InputError, match=r"batch_size is 92, .* only 91 training rows; lower"):
        cache.batches(92)
    for batch_size, start in ((0, 0), (5, -1)):
        with pytest.raises(InputError, match="at least 1 and 0"):
            cache.batches(batch_size, start=start)


def test_incomplete(tmp_path: Path) -> None:
    write_cache(tmp_path / "c", SHARDS[:2], complete=False)
    with pytest.raises(InputError, match=r"incomplete \(49 rows so far\); run"):
        ActivationCache(tmp_path / "c")
    assert ActivationCache(tmp_path / "c", allow_incomplete=True).n_train == 42


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    write_cache(tmp_path / "c", [[False, False], [False, True], [False, False]])
    return tmp_path / "c"


def test_a_missing_shard(damaged: Path) -> None:
    (damaged / "shard-00001.safetensors").unlink()
    with pytest.raises(InputError, match=r"shard-00001\.safetensors is missing; run"):
        ActivationCache(damaged)


def test_a_truncated_shard(damaged: Path) -> None:
    path = damaged / "shard-00002.safetensors"
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(InputError, match=r"shard-00002\.safetensors has .* bytes instead of"):
        ActivationCache(damaged)


def test_a_changed_byte_is_found_before_it_is_used(damaged: Path) -> None:
    path = damaged / "shard-00001.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    cache = ActivationCache(damaged)
    message = r"the content of the shard .*shard-00001\.safetensors has changed; run"
    with pytest.raises(InputError, match=message):
        next(iter(cache.batches(30)))
    with pytest.raises(InputError, match=message):
        cache.held_out()
    with pytest.raises(InputError, match=message):
        cache.held_out_contexts()
    (problem,) = problems_of(damaged)
    assert re.search(message, problem)


def problems_of(cache: Path) -> list[str]:
    return [file.problem for file in verify(cache) if file.state == "damaged"]


def test_verify_passes_whole_caches_and_sees_later_damage(damaged: Path) -> None:
    seen: list[tuple[int, int]] = []
    whole = verify(damaged, progress=lambda done, total: seen.append((done, total)))
    assert [file.state for file in whole] == ["whole"] * len(whole)
    of_all = [file.stat().st_size for file in sorted(damaged.iterdir())]
    assert seen == [(sum(of_all[: i + 1]), sum(of_all)) for i in range(len(of_all))]
    sizes = [file.stat().st_size for file in sorted(damaged.glob("shard-*"))]
    (damaged / "shard-00000.safetensors").unlink()
    last = damaged / f"shard-{len(sizes) - 1:05d}.safetensors"
    last.write_bytes(last.read_bytes()[:-1])
    first_problem, last_problem = problems_of(damaged)
    assert "shard-00000.safetensors is missing; run" in first_problem
    assert f"{last.name} has {sizes[-1] - 1:,} bytes instead of {sizes[-1]:,}; run" in last_problem


@pytest.mark.parametrize(
    "change",
    [
        {"d_model": D + 1},
        {"context_length": LENGTH + 1},
        {"sites": SITES},
        {"rows": 8},
        {"held_out_rows": 1},
        {"contexts": 1},
        {"held_out_contexts": 0},
    ],
    ids=lambda change: str(next(iter(change))),
)
def test_a_manifest_that_does_not_describe_its_shards(
    damaged: Path, change: dict[str, Any]
) -> None:
    manifest = read_manifest(damaged)
    if change.keys() <= {field.name for field in dataclasses.fields(ShardEntry)}:
        shards = list(manifest.shards)
        shards[1] = dataclasses.replace(shards[1], **change)
        change = {"shards": tuple(shards)}
    write_manifest(damaged, dataclasses.replace(manifest, **change))
    message = r"manifest\.json does not describe the shard .*shard-.*; restore it"
    with pytest.raises(InputError, match=message):
        list(islice(ActivationCache(damaged).batches(5, site=SITES[0]), 8))
    assert all(re.search(message, problem) for problem in problems_of(damaged))
    assert problems_of(damaged)


def reading_threads() -> int:
    return sum("read-ahead" in thread.name for thread in threading.enumerate())


@pytest.mark.slow
@pytest.mark.parametrize("end", ["close", "forget"])
def test_the_thread_ends_with_the_iterator(cache: ActivationCache, end: str) -> None:
    gc.collect()
    before = reading_threads()
    iterators = [cache.batches(5, seed=seed) for seed in range(3)]
    assert len([next(iterator) for iterator in iterators]) == 3
    assert reading_threads() == before + 3
    if end == "close":
        assert [iterator.close() for iterator in iterators] == [None] * 3
        assert list(iterators[0]) == []
    del iterators
    gc.collect()
    assert reading_threads() == before


def test_the_thread_ends_after_an_error(damaged: Path) -> None:
    cache = ActivationCache(damaged)
    (damaged / "shard-00000.safetensors").unlink()
    before = reading_threads()
    with pytest.raises(InputError, match="cannot be read"):
        next(iter(cache.batches(20)))
    assert reading_threads() == before


def test_loading_is_one_item_ahead_and_no_more() -> None:
    loaded: list[int] = []

    def load(item: int) -> int:
        loaded.append(item)
        return item * 10

    ahead = one_ahead(load, iter(range(5)))
    assert loaded == []
    for item in range(5):
        assert next(ahead) == item * 10
        expected = list(range(min(item + 2, 5)))
        wait_until(lambda expected=expected: loaded == expected)
    assert list(ahead) == []


def test_a_failed_load_is_raised_in_its_turn() -> None:
    def load(item: int) -> int:
        if item == 2:
            raise OSError("gone")
        return item

    ahead = one_ahead(load, iter(range(5)))
    assert [next(ahead), next(ahead)] == [0, 1]
    with pytest.raises(OSError, match="gone"):
        next(ahead)


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not condition() and time.monotonic() < end:
        time.sleep(0.001)
    assert condition()
