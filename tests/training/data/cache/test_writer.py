"""Writing a cache with the tiny model: exact rows, resume after any interruption, refusals."""

import dataclasses
import errno
import json
import os
import random
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from torch import Tensor

from sparsteer.sae.common.checksums import write_checked_json
from sparsteer.sae.common.errors import InputError
from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.training import (
    ActivationCache,
    CacheConfig,
    cache_activations,
)
from sparsteer.training.data import extraction
from sparsteer.training.data.cache import writer
from sparsteer.training.data.cache.manifest import CacheManifest
from sparsteer.training.data.corpus import Corpus
from sparsteer.training.data.held_out import is_held_out
from sparsteer.training.verification import verify

LENGTH, BATCH, TOKENS, FRACTION = 32, 4, 1001, 0.3
SITE = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def texts() -> list[str]:
    rng = random.Random(0)
    words = ["alpha", "be", "gamma, ", "42", "snow ☃", "eps\n"]
    lengths = [0, 1, 60, 2, 0, *(rng.randrange(3, 30) for _ in range(40))]
    return [" ".join(rng.choices(words, k=length)) for length in lengths]


@pytest.fixture(scope="module")
def dataset(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("corpus") / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


Write = Callable[..., CacheManifest]


@pytest.fixture
def write(config: CacheConfig, tiny_model: LanguageModel) -> Write:
    """Write the cache of `config`, with some settings changed."""

    def write(
        progress: Callable[[int, int, float], None] = lambda done, wanted, rate: None,
        say: Callable[[str], None] = lambda sentence: None,
        **changes: Any,
    ) -> CacheManifest:
        changed = dataclasses.replace(config, **changes)
        return cache_activations(changed, model=tiny_model, progress=progress, say=say)

    return write


def all_rows(cache: ActivationCache, name: str, site: str = SITE) -> Tensor:
    """A tensor of every shard, or with "rows" the activations."""
    shards = [cache.shard(entry) for entry in cache.manifest.shards]
    if name == "rows":
        return torch.cat([shard.stored(site).restored() for shard in shards])
    return torch.cat([shard.tensor(name).long() for shard in shards])


def content(folder: str | Path) -> dict[str, bytes]:
    """Every file of a cache but the lock."""
    files = [path for path in Path(folder).iterdir() if path.name != ".lock"]
    return {path.name: path.read_bytes() for path in files}


def test_rows_are_what_the_model_gives_for_their_contexts(
    write: Write, config: CacheConfig, tiny_model: LanguageModel, texts: list[str]
) -> None:
    manifest = write()
    cache = ActivationCache(config.out)
    assert cache.manifest == manifest
    assert (cache.sites, cache.d_model, cache.n_rows) == ([SITE], 32, TOKENS)
    assert len(manifest.shards) == 5
    site = tiny_model.site(SITE)
    n_cut = n_rows = 0
    for entry in manifest.shards:
        shard = cache.shard(entry)
        rows, held_out = shard.stored(SITE).restored(), shard.tensor("held_out")
        contexts, lengths = shard.tensor("contexts").long(), shard.tensor("lengths")
        mask = torch.arange(LENGTH) < lengths[:, None]
        ordinary = ~tiny_model.excluded_tokens(contexts, mask)
        places = torch.stack([shard.tensor("context"), shard.tensor("offset")], dim=1)
        for context in range(len(contexts)):
            wanted = list(map(int, ordinary[context].nonzero()))
            here = list(map(int, places[places[:, 0] == context, 1]))
            assert here == wanted[: len(here)] != []
            n_cut += len(here) < len(wanted)
        for context in range(len(contexts)):
            alone = site.read(contexts[context : context + 1, : lengths[context]])[0]
            here = places[:, 0] == context
            expected = alone[places[here, 1].long()]
            torch.testing.assert_close(rows[here], expected, rtol=1e-5, atol=1e-4)
        for number in range(len(rows)):
            doc, position = int(shard.tensor("doc")[number]), int(shard.tensor("position")[number])
            token = int(shard.tensor("tokens")[number])
            assert tiny_model.tokenize(texts[doc])[position] == token
            context, offset = map(int, places[number])
            assert contexts[context, offset] == token
            assert bool(held_out[context]) == is_held_out(texts[doc], manifest.held_out_below)
        n_rows += len(rows)
    assert n_rows == TOKENS
    assert n_cut <= 2  # the last context of each side


def test_rows_and_positions_left_out_are_all_positions(
    write: Write, config: CacheConfig, tiny_model: LanguageModel
) -> None:
    manifest = write()
    n_contexts = sum(entry.contexts for entry in manifest.shards)
    excluded = manifest.excluded
    assert manifest.rows + sum(excluded.values()) == n_contexts * LENGTH
    contexts = all_rows(ActivationCache(config.out), "contexts")
    assert excluded["bos"] == n_contexts == len(contexts)
    assert excluded["first_token"] == n_contexts
    assert excluded["separator"] == int((contexts == tiny_model.eos_id).sum())
    assert 0 <= excluded["surplus"] < 2 * LENGTH
    assert excluded["padding"] == 0
    assert not (all_rows(ActivationCache(config.out), "tokens") <= 2).any()


def rows_of_side(cache: ActivationCache, *, held_out: bool) -> Tensor:
    """Document, position and activations of the rows of a side, in order."""
    parts: list[Tensor] = []
    for entry in cache.manifest.shards:
        shard = cache.shard(entry)
        index = torch.as_tensor(shard.row_numbers(held_out=held_out))
        columns = [shard.tensor(name)[index, None].float() for name in ("doc", "position")]
        parts.append(torch.cat([*columns, shard.stored(SITE).restored()[index]], dim=1))
    return torch.cat(parts)


@pytest.mark.parametrize("tokens", [1, 2, 29, 30, 31, 239, 240, 241, 960])
def test_exactly_the_rows_asked_for(write: Write, config: CacheConfig, tokens: int) -> None:
    """Also at the bounds of contexts and shards; each side begins like that of a larger cache."""
    manifest = write(tokens=tokens)
    n_held_out = 0 if tokens == 1 else max(1, round(tokens * FRACTION))
    assert (manifest.rows, manifest.held_out_rows) == (tokens, n_held_out)
    write(out=config.out + "-long")
    for held_out in (False, True):
        short = rows_of_side(ActivationCache(config.out), held_out=held_out)
        long = rows_of_side(ActivationCache(config.out + "-long"), held_out=held_out)
        torch.testing.assert_close(short, long[: len(short)])


def test_no_text_is_read_for_rows_that_are_not_wanted(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_contexts = count_contexts(monkeypatch)
    write(tokens=31)
    assert sum(n_contexts) <= 3


def test_a_corpus_that_ends_early(write: Write, config: CacheConfig, texts: list[str]) -> None:
    said: list[str] = []
    manifest = write(say=said.append, tokens=10**6)
    assert manifest.complete
    assert manifest.rows < 10**6
    assert said == list(manifest.notices)
    assert f"ended after {manifest.rows:,} rows; 1,000,000 were asked for" in said[0]
    assert manifest.excluded["padding"] > 0 == manifest.excluded["surplus"]
    corpus = manifest.corpus
    n_empty = sum(not text for text in texts)
    assert (corpus.documents, corpus.empty_documents) == (len(texts), n_empty)
    assert corpus.held_out_documents == sum(
        is_held_out(t, manifest.held_out_below) for t in texts if t
    )
    # Every token of every document has a row or is the first of its context.
    cache = ActivationCache(config.out)
    n_tokens = sum(len(text.encode()) for text in texts)
    assert cache.n_rows + manifest.excluded["first_token"] == n_tokens


def test_progress(write: Write) -> None:
    told: list[tuple[int, int, float]] = []

    def progress(done: int, wanted: int, rate: float) -> None:
        told.append((done, wanted, rate))

    write(progress=progress)
    done = [now[0] for now in told]
    assert done == sorted(set(done))
    assert done[-1] == TOKENS
    assert {now[1] for now in told} == {TOKENS}
    assert all(now[2] > 0 for now in told)
    assert len(told) == 9


def test_nothing_is_printed(write: Write, capfd: pytest.CaptureFixture[str]) -> None:
    write(tokens=300)
    assert capfd.readouterr().out == ""


def test_several_sites_are_those_of_single_caches(write: Write, config: CacheConfig) -> None:
    sites = ("blocks.0.hook_mlp_out", "blocks.2.hook_resid_pre")
    write(site=sites)
    together = ActivationCache(config.out)
    assert together.sites == list(sites)
    for site in sites:
        write(site=(site,), out=config.out + site)
        alone = ActivationCache(config.out + site)
        assert torch.equal(all_rows(together, "rows", site), all_rows(alone, "rows", site))


def test_stored_dtypes(write: Write, config: CacheConfig) -> None:
    write()
    exact = all_rows(ActivationCache(config.out), "rows")
    for dtype, bits in (("float16", 11), ("bfloat16", 8)):
        write(dtype=dtype, out=config.out + dtype)
        rows = all_rows(ActivationCache(config.out + dtype), "rows")
        assert ((rows - exact).abs() <= exact.abs() * 2.0**-bits + 2**-25).all()
    write(dtype="int8", out=config.out + "int8")
    rows = all_rows(ActivationCache(config.out + "int8"), "rows")
    assert ((rows - exact).abs() <= exact.abs().amax(1, keepdim=True) / 254 * 1.00001).all()


def test_the_seed_decides_the_order(write: Write, config: CacheConfig) -> None:
    docs: list[list[int]] = []
    for seed, name in ((0, "a"), (1, "b"), (0, "c")):
        write(seed=seed, out=config.out + name)
        docs.append([int(doc) for doc in all_rows(ActivationCache(config.out + name), "doc")])
    assert docs[0] == docs[2] != docs[1]


class Stop(Exception):
    """Stands for a kill at a chosen moment."""


def count_contexts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The contexts of every forward pass from now on."""
    counts: list[int] = []
    read_sites = extraction.read_sites

    def counting(model: Any, sites: Any, tokens: Tensor) -> dict[str, Tensor]:
        counts.append(len(tokens))
        return read_sites(model, sites, tokens)

    monkeypatch.setattr(extraction, "read_sites", counting)
    return counts


@pytest.mark.parametrize("stop_after", range(1, 9))
def test_resumed_after_any_forward_pass(
    write: Write, config: CacheConfig, monkeypatch: pytest.MonkeyPatch, stop_after: int
) -> None:
    write(out=config.out + "-whole")
    n_passes = 0

    def stop(done: int, wanted: int, rate: float) -> None:
        nonlocal n_passes
        n_passes += 1
        if n_passes == stop_after:
            raise Stop

    with pytest.raises(Stop):
        write(progress=stop)
    n_whole = (stop_after - 1) // 2
    if n_whole:
        with pytest.raises(InputError, match="incomplete"):
            ActivationCache(config.out)
        started = ActivationCache(config.out, allow_incomplete=True)
        assert len(started.manifest.shards) == n_whole
        assert {file.state for file in verify(config.out)} == {"whole"}
    Path(config.out).mkdir(exist_ok=True)
    Path(config.out, ".tmp-0123456789ab-shard-00009.safetensors").write_text("left by a kill")

    n_contexts = count_contexts(monkeypatch)
    said: list[str] = []
    told: list[float] = []

    def progress(done: int, wanted: int, rate: float) -> None:
        told.append(rate)

    write(say=said.append, progress=progress)
    assert [rate == 0 for rate in told] == [True] * n_whole + [False] * (9 - 2 * n_whole)
    assert content(config.out) == content(config.out + "-whole")
    assert len(n_contexts) == 9 - 2 * n_whole
    assert [("goes on" in sentence) for sentence in said] == [True] * bool(n_whole)


def test_a_smaller_batch_goes_on_where_memory_ran_out(write: Write, config: CacheConfig) -> None:
    whole = write(out=config.out + "-whole")

    def no_memory(done: int, wanted: int, rate: float) -> None:
        if done > 300:
            raise MemoryError

    with pytest.raises(MemoryError):
        write(progress=no_memory)
    said: list[str] = []
    manifest = write(batch_size=1, say=said.append)
    assert any("begun with batch_size=4, and goes on with 1: last bits" in line for line in said)
    assert [entry.contexts for entry in manifest.shards] == [e.contexts for e in whole.shards]
    ours, theirs = ActivationCache(config.out), ActivationCache(config.out + "-whole")
    for one, other in zip(ours.manifest.shards, theirs.manifest.shards, strict=True):
        rows = ours.shard(one).stored(SITE).restored()
        expected = theirs.shard(other).stored(SITE).restored()
        torch.testing.assert_close(rows, expected, rtol=1e-2, atol=1e-2)
    assert write() == write(batch_size=1) == manifest


KILLED = """
import os, signal, sys
import torch
from sparsteer.training import CacheConfig, cache_activations

def progress(done, wanted, rate):
    if done > 300:
        os.kill(os.getpid(), signal.SIGKILL)

torch.set_num_threads(1)
cache_activations(CacheConfig(**eval(sys.argv[1])), progress=progress)
"""


@pytest.mark.slow
def test_resumed_after_kill_9(write: Write, config: CacheConfig) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), repr(dataclasses.asdict(config))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == -9, killed.stderr
    assert len(ActivationCache(config.out, allow_incomplete=True).manifest.shards) == 1
    write()
    write(out=config.out + "-whole")
    assert content(config.out) == content(config.out + "-whole")


def test_a_full_disk_leaves_the_whole_shards(
    write: Write, config: CacheConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        n_calls = 0
        fsync = os.fsync

        def full(handle: int) -> None:
            nonlocal n_calls
            n_calls += 1
            if n_calls == 11:  # each shard and manifest takes two: the file and its folder
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            fsync(handle)

        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            write()
    names = sorted(content(config.out))
    assert names == ["manifest.json", "shard-00000.safetensors", "shard-00001.safetensors"]
    cache = ActivationCache(config.out, allow_incomplete=True)
    assert {file.state for file in verify(config.out)} == {"whole"}
    assert next(cache.batches(50)).shape == (50, 32)
    write()
    assert ActivationCache(config.out).n_rows == TOKENS


def test_a_repair_that_fails_before_its_first_shard_leaves_the_manifest(
    write: Write, config: CacheConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The shards may lie elsewhere for a while, and without it they are nothing."""
    manifest = write()
    away = tmp_path / "away"
    away.mkdir()
    for entry in manifest.shards:
        shutil.move(Path(config.out) / entry.file, away)

    def fails(*words: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(extraction, "read_sites", fails)
        with pytest.raises(OSError, match="Input/output"):
            write()
    for entry in manifest.shards:
        shutil.move(away / entry.file, config.out)
    assert ActivationCache(config.out).manifest == manifest


def test_a_finished_cache_is_left_alone(
    write: Write, config: CacheConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = write()
    before = {path: path.stat().st_mtime_ns for path in Path(config.out).iterdir()}
    monkeypatch.setattr(LanguageModel, "load", None)
    said: list[str] = []
    elsewhere = dataclasses.replace(config, device="cuda:3")
    assert cache_activations(elsewhere, say=said.append) == manifest
    assert said == [f"{config.out} is complete (1,001 rows); nothing to do"]
    assert {path: path.stat().st_mtime_ns for path in Path(config.out).iterdir()} == before


def test_a_finished_cache_of_a_text_that_has_changed(
    write: Write, config: CacheConfig, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(Path(config.dataset).read_bytes())
    write(dataset=str(copy))
    with copy.open("a") as file:
        file.write('{"text": "one more"}\n')
    with pytest.raises(InputError, match=r"the content of .*copy\.jsonl has changed since"):
        write(dataset=str(copy))


def test_a_hub_data_set_stays_at_its_commit(
    write: Write, config: CacheConfig, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str | None] = []

    def open_corpus(dataset: str, *, revision: str | None, **options: object) -> Corpus:
        asked.append(revision)
        commit = revision or "commit-1"
        return Corpus(dataset, f"x@{commit}", commit, ("x",), lambda part: iter(texts))

    monkeypatch.setattr("sparsteer.training.data.contexts.open_corpus", open_corpus)
    interrupted(write, config)
    write()
    assert asked == [None, "commit-1"]
    write()
    assert asked == [None, "commit-1"]  # a finished one needs no network


@pytest.mark.parametrize("damage", ["changed", "truncated", "missing"])
def test_a_damaged_shard_is_repaired_and_the_others_kept(
    write: Write, config: CacheConfig, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    write()
    whole = content(config.out)
    path = Path(config.out, "shard-00001.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    if damage == "truncated":
        os.truncate(path, 100)
    elif damage == "missing":
        path.unlink()
    n_contexts = count_contexts(monkeypatch)
    write()
    assert content(config.out) == whole
    assert n_contexts == [BATCH, BATCH]


def test_an_interrupted_repair_goes_on(
    write: Write, config: CacheConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    write()
    whole = content(config.out)
    for number in (0, 2, 3):
        Path(config.out, f"shard-0000{number}.safetensors").unlink()

    def stop(done: int, wanted: int, rate: float) -> None:
        if done > 600:
            raise Stop

    with pytest.raises(Stop):
        write(progress=stop)
    assert "shard-00000.safetensors" in content(config.out)
    with pytest.raises(InputError, match="incomplete"):
        ActivationCache(config.out)
    n_contexts = count_contexts(monkeypatch)
    write()
    assert content(config.out) == whole
    assert len(n_contexts) == 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tokens": 1002}, "tokens=1001, not 1002"),
        ({"seed": 1}, "seed=0, not 1"),
        ({"dtype": "int8"}, "dtype='float32', not 'int8'"),
        ({"site": ("blocks.0.hook_resid_post",)}, "site="),
        ({"held_out_fraction": 0.0}, "held_out_fraction=0.3, not 0.0"),
    ],
)
def test_another_setting_in_the_same_folder(
    write: Write, changes: dict[str, Any], words: str
) -> None:
    write()
    with pytest.raises(InputError) as error:
        write(**changes)
    assert words in str(error.value)
    assert "--out" in str(error.value)


def interrupted(write: Write, config: CacheConfig) -> dict[str, Any]:
    """Leave a cache of one shard, and give its manifest."""

    def stop(done: int, wanted: int, rate: float) -> None:
        if done > 300:
            raise Stop

    with pytest.raises(Stop):
        write(progress=stop)
    return json.loads(Path(config.out, "manifest.json").read_text())


@pytest.mark.parametrize(
    ("key", "words"),
    [("weights_hash", "other weights now"), ("tokenizer_hash", "other tokenizer rules now")],
)
def test_another_model_under_the_same_name(
    write: Write, config: CacheConfig, key: str, words: str
) -> None:
    manifest = interrupted(write, config)
    manifest[key] = "0"
    del manifest["sha256"]
    write_checked_json(Path(config.out, "manifest.json"), manifest)
    with pytest.raises(InputError, match=f"{words} than when .* was begun"):
        write()


def test_a_corpus_that_has_changed_or_gone(write: Write, config: CacheConfig) -> None:
    copy = Path(config.out).parent / "copy.jsonl"
    copy.write_bytes(Path(config.dataset).read_bytes())
    config_of_copy = {"dataset": str(copy)}

    def write_copy(**options: Any) -> CacheManifest:
        return write(**options, **config_of_copy)

    interrupted(write_copy, config)
    with copy.open("a") as file:
        file.write('{"text": "one more"}\n')
    with pytest.raises(InputError, match=r"the content of .*copy\.jsonl has changed since"):
        write_copy()
    copy.unlink()
    with pytest.raises(InputError, match=r"copy\.jsonl is not there"):
        write_copy()
    assert {file.state for file in verify(config.out)} == {"whole"}


def test_a_folder_of_something_else(write: Write, config: CacheConfig) -> None:
    folder = Path(config.out)
    folder.mkdir()
    (folder / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="exists and is no activation cache"):
        write()
    assert os.listdir(folder) == ["thesis.txt"]
    file = folder / "thesis.txt"
    with pytest.raises(InputError, match="exists and is no activation cache"):
        write(out=str(file))


def test_two_writers(write: Write, config: CacheConfig) -> None:
    Path(config.out).mkdir()
    with (
        FileLock(Path(config.out, ".lock")),
        pytest.raises(InputError, match="another process is writing"),
    ):
        write()
    write()


@pytest.mark.parametrize(
    ("tokens", "message"), [(500, "holds a cache with tokens=500"), (TOKENS, "meanwhile; give the")]
)
def test_another_writer_that_was_there_between_the_first_look_and_the_lock(
    write: Write, config: CacheConfig, monkeypatch: pytest.MonkeyPatch, tokens: int, message: str
) -> None:
    reader = writer.context_reader

    def late(*arguments: Any) -> Any:
        monkeypatch.setattr(writer, "context_reader", reader)
        write(tokens=tokens)
        return reader(*arguments)

    monkeypatch.setattr(writer, "context_reader", late)
    with pytest.raises(InputError, match=message):
        write()
    assert ActivationCache(config.out).n_rows == tokens


def test_activations_beyond_float16(
    write: Write, tiny_model: LanguageModel, config: CacheConfig
) -> None:
    with tiny_model.site(SITE).write(lambda acts: acts * 1e6):
        with pytest.raises(InputError, match=rf"activations at {SITE} reach .*--dtype bfloat16"):
            write(dtype="float16")
        write(dtype="bfloat16", out=config.out + "-b")
    with (
        tiny_model.site(SITE).write(lambda acts: acts * float("nan")),
        pytest.raises(InputError, match=f"NaN or infinite activations at {SITE}"),
    ):
        write(dtype="bfloat16", out=config.out + "-n")


def test_wrong_input(write: Write, config: CacheConfig, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"context_length is 513, but .* at most 512 tokens"):
        write(context_length=513)
    with pytest.raises(InputError, match=r"no site 'blocks\.9\.hook_resid_post'"):
        write(site=("blocks.9.hook_resid_post",))
    with pytest.raises(InputError, match="reviws"):
        write(dataset=str(tmp_path / "reviws.jsonl"))
    empty = tmp_path / "empty.jsonl"
    for rows in ("", '{"text": ""}\n{"text": " \\n"}\n{"text": null}\n'):
        empty.write_text(rows)
        n_rows = rows.count("\n")
        with pytest.raises(InputError, match=f"gives no activations: {n_rows} documents"):
            write(dataset=str(empty), out=str(tmp_path / f"empty-{n_rows}"))
    assert not Path(config.out).exists()


def test_a_corpus_of_one_text_has_no_held_out_side(write: Write, tmp_path: Path) -> None:
    text = tmp_path / "one.jsonl"
    text.write_text(json.dumps({"text": "one and the same text, " * 9}) + "\n")
    said: list[str] = []
    manifest = write(dataset=str(text), tokens=100, say=said.append)
    assert said == list(manifest.notices)
    assert "no document fell to the held-out side" in said[0]
    assert manifest.rows == 100


def test_few_documents_have_both_sides(write: Write) -> None:
    manifest = write(held_out_fraction=1e-6)
    assert (manifest.rows, manifest.held_out_rows) == (TOKENS, 1)
    assert manifest.corpus.held_out_documents == 1
    assert manifest.notices == ()


def test_no_notice_where_no_held_out_part_was_asked_for(write: Write) -> None:
    assert write(held_out_fraction=0.0).notices == ()


def test_a_fresh_model_gives_the_same_cache(write: Write, config: CacheConfig) -> None:
    write(tokens=300)
    again = dataclasses.replace(config, tokens=300, out=config.out + "-again")
    cache_activations(again)
    assert content(again.out) == content(config.out)
