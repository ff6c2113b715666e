"""Streams of the tiny model: a cache's rows, batches from anywhere, exact resume, refusals."""

import dataclasses
import itertools
import json
import random
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsteer.sae import InputError, SparseAutoencoder
from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.training import train as train_module
from sparsteer.training.config import TrainConfig
from sparsteer.training.data.cache.config import CacheConfig
from sparsteer.training.data.cache.reader import ActivationCache
from sparsteer.training.data.cache.writer import cache_activations
from sparsteer.training.data.extraction import ContextReader
from sparsteer.training.data.stream import stream as stream_module
from sparsteer.training.data.stream.chunk_index import CHUNK_INDEX
from sparsteer.training.data.stream.config import StreamConfig
from sparsteer.training.data.stream.stream import ActivationStream, open_stream
from sparsteer.training.grid import grid_configs
from sparsteer.training.run import RunFolder
from sparsteer.training.runtime.threads import use_threads
from sparsteer.training.train import train, train_grid
from sparsteer.training.trainer_config import TrainerConfig

SITE = "blocks.1.hook_resid_post"
LENGTH, PASS, FRACTION = 32, 4, 0.3


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    rng = random.Random(0)
    words = ["alpha", "be", "gamma, ", "42", "snow ☃", "eps\n"]
    lengths = [0, 1, 60, 2, 0, *(rng.randrange(3, 30) for _ in range(40))]
    texts = [" ".join(rng.choices(words, k=length)) for length in lengths]
    path = tmp_path_factory.mktemp("corpus") / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


@pytest.fixture
def config(tiny_model_folder: Path, dataset: str) -> StreamConfig:
    """Half a dozen chunks an epoch."""
    return StreamConfig(
        model=str(tiny_model_folder),
        dataset=dataset,
        context_length=LENGTH,
        forward_contexts=PASS,
        chunk_rows=400,
        dtype="float32",
        held_out_fraction=FRACTION,
    )


Open = Callable[..., ActivationStream]


@pytest.fixture
def opened(config: StreamConfig, tiny_model: LanguageModel, tmp_path: Path) -> Open:
    """A stream of `config`, with some settings changed."""

    def opened(
        rows: int = 20_000, say: Callable[[str], None] = print, **changes: Any
    ) -> ActivationStream:
        changed = dataclasses.replace(config, **changes)
        return open_stream(
            changed,
            site=SITE,
            rows=rows,
            held_out_rows=120,
            device="cpu",
            folder=tmp_path,
            begun=RunFolder(tmp_path).settings_if_begun(),
            model=tiny_model,
            say=say,
        )

    return opened


@pytest.fixture(scope="module")
def cache(
    tiny_model_folder: Path, dataset: str, tmp_path_factory: pytest.TempPathFactory
) -> ActivationCache:
    """All rows of the corpus."""
    config = CacheConfig(
        model=str(tiny_model_folder),
        dataset=dataset,
        out=str(tmp_path_factory.mktemp("cache") / "whole"),
        site=(SITE,),
        tokens=100_000,
        context_length=LENGTH,
        batch_size=PASS,
        dtype="float32",
        model_dtype="float32",
        held_out_fraction=FRACTION,
    )
    cache_activations(config)
    return ActivationCache(config.out)


def require_same_rows(found: Tensor, wanted: Tensor) -> None:
    """In any order, and but for what another batch in the forward pass does to the last bits."""
    assert found.shape == wanted.shape
    directions_DP = torch.randn(wanted.shape[1], 8, dtype=torch.float64)
    ordered = [(rows.double() @ directions_DP).sort(dim=0).values for rows in (found, wanted)]
    assert float((ordered[0] - ordered[1]).abs().max()) < 1e-4


def test_one_window_has_the_training_rows_of_a_cache(opened: Open, cache: ActivationCache) -> None:
    stream = opened(rows=10 * cache.n_train, chunk_rows=100_000)
    found = next(stream.batches(cache.n_train))
    require_same_rows(found, next(cache.batches(cache.n_train)))
    assert stream.d_model == cache.d_model
    assert stream.weights_hash == cache.weights_hash


def test_held_out_rows_are_the_first_of_the_cache(opened: Open, cache: ActivationCache) -> None:
    stream = opened()
    held_out = stream.held_out()
    assert len(held_out) == 120
    require_same_rows(held_out, cache.held_out()[:120])
    assert torch.equal(stream.held_out(limit=7), held_out[:7])
    assert torch.equal(opened(rows=300).held_out(), held_out)


@pytest.mark.slow
def test_an_epoch_is_every_training_document_once(opened: Open, tmp_path: Path) -> None:
    """Small chunks cut contexts elsewhere, so that rows differ from a cache's, but not by much."""
    said: list[str] = []
    stream = opened(rows=9_000, say=said.append, chunk_rows=150)
    rows = torch.cat(list(stream.batches(1000)))
    assert len(rows) == 9_000
    starts = [json.loads(line) for line in (tmp_path / CHUNK_INDEX).read_text().splitlines()]
    begins = [place["row"] for place in starts if place["document"] == 0]
    assert [place["epoch"] for place in starts] == sorted(place["epoch"] for place in starts)
    assert begins[0] == 0
    assert len(begins) > 2
    assert sum("has ended" in sentence for sentence in said) == 1
    assert f"{begins[1]:,} training rows" in "".join(said)
    first, second = rows[: begins[1]], rows[begins[1] : begins[2]]
    assert abs(len(first) - len(second)) < 0.1 * len(first)
    assert not torch.equal(first[:100], second[:100])


@pytest.mark.slow
@pytest.mark.parametrize("chunk_rows", [1, 150, 400, 100_000])
def test_batches_begin_anywhere(opened: Open, tmp_path: Path, chunk_rows: int) -> None:
    whole = list(opened(rows=4_000, chunk_rows=chunk_rows).batches(300, seed=5))
    assert len(whole) == 4_000 // 300
    for known in (True, False):
        for start in (1, 4, 9, 12):
            if not known:
                (tmp_path / CHUNK_INDEX).unlink()
            stream = opened(rows=4_000, chunk_rows=chunk_rows)
            rest = list(stream.batches(300, seed=5, start=start))
            assert len(rest) == len(whole) - start
            assert all(torch.equal(a, b) for a, b in zip(rest, whole[start:], strict=True))
    assert list(opened(rows=4_000).batches(300, start=14)) == []


def test_the_seed_decides_the_order(opened: Open) -> None:
    first, again, other = (
        next(opened(chunk_rows=100_000).batches(500, seed=seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_parts_of_batches(opened: Open) -> None:
    whole = itertools.islice(opened().batches(70), 20)
    parts = itertools.islice(opened().batches(70, part=slice(10, 33)), 20)
    assert all(torch.equal(a[10:33], b) for a, b in zip(whole, parts, strict=True))


def test_the_sample_is_what_comes_first(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    read = ContextReader.read

    def counted(self: ContextReader, *words: Any) -> Any:
        passes.append(1)
        return read(self, *words)

    monkeypatch.setattr(ContextReader, "read", counted)
    stream = opened()
    sample = stream.sample(100)
    n_passes = len(passes)
    batch = next(stream.batches(100))
    assert torch.equal(sample, batch)
    assert len(passes) <= n_passes + 2  # nothing was read twice
    assert len(stream.sample(10_000)) < 500  # one chunk


def test_rows_come_back_as_they_are_stored(opened: Open) -> None:
    wanted = next(opened().batches(200))
    for dtype, most in (("float16", 2e-3), ("bfloat16", 2e-2), ("int8", 2e-2)):
        found = next(opened(dtype=dtype).batches(200))
        assert found.dtype == torch.float32
        off = float((found - wanted).abs().max() / wanted.abs().max())
        assert 0 < off < most


@pytest.mark.slow
@pytest.mark.parametrize("garbage", ["{", "garbage\n", '{"seed": 0}\n', "[1]\n", "\udcff\n"])
def test_lines_that_are_no_places_are_removed(opened: Open, tmp_path: Path, garbage: str) -> None:
    whole = list(opened(rows=3_000).batches(300))
    lines = (tmp_path / CHUNK_INDEX).read_text()
    first = lines[: lines.index("\n") + 1]
    (tmp_path / CHUNK_INDEX).write_bytes((first + garbage).encode("utf-8", "surrogateescape"))
    assert torch.equal(next(opened(rows=3_000).batches(300, start=8)), whole[8])
    list(opened(rows=3_000).batches(300, start=8))
    assert (tmp_path / CHUNK_INDEX).read_text() == lines


def test_a_changed_digit_of_a_place_is_found(opened: Open, tmp_path: Path) -> None:
    whole = list(opened(rows=3_000).batches(300))
    lines = (tmp_path / CHUNK_INDEX).read_text()
    changed = lines.replace('"document": ', '"document": 1')
    (tmp_path / CHUNK_INDEX).write_text(changed)
    assert torch.equal(next(opened(rows=3_000).batches(300, start=8)), whole[8])
    assert '"document": 10' not in (tmp_path / CHUNK_INDEX).read_text()


def test_a_long_document_goes_over_several_chunks(opened: Open, tmp_path: Path) -> None:
    rng = random.Random(1)
    text = " ".join(rng.choices(["one", "two", "three", "four"], k=2000))
    path = tmp_path / "long.jsonl"
    path.write_text("".join(json.dumps({"text": one}) + "\n" for one in ("short", text, "brief")))

    def stream() -> ActivationStream:
        # which of the three are held out is decided by their hashes: next to none
        return opened(rows=6_000, dataset=str(path), shuffle_buffer=1, held_out_fraction=1e-9)

    whole = list(stream().batches(500))
    starts = [json.loads(line) for line in (tmp_path / CHUNK_INDEX).read_text().splitlines()]
    assert sum(place["token"] > 0 for place in starts) > 10
    assert max(b["row"] - a["row"] for a, b in itertools.pairwise(starts)) <= 400
    for start in (3, 11):
        assert torch.equal(next(stream().batches(500, start=start)), whole[start])


def test_what_lies_before_is_not_tokenized_again(
    opened: Open, tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    texts: list[str] = []
    tokenize = tiny_model.tokenize

    def counted(text: str) -> list[int]:
        texts.append(text)
        return tokenize(text)

    list(opened(rows=4_000).batches(300))
    monkeypatch.setattr(tiny_model, "tokenize", counted)
    list(opened(rows=4_000).batches(300, start=12))
    n_known = len(texts)
    (tmp_path / CHUNK_INDEX).unlink()
    list(opened(rows=4_000).batches(300, start=12))
    assert 0 < 3 * n_known < len(texts) - n_known


def test_each_epoch_has_an_order_of_its_own(
    opened: Open, tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts: list[str] = []
    tokenize = tiny_model.tokenize

    def counted(text: str) -> list[int]:
        texts.append(text)
        return tokenize(text)

    monkeypatch.setattr(tiny_model, "tokenize", counted)
    said: list[str] = []
    stream = opened(rows=8_000, chunk_rows=100_000, say=said.append)
    texts.clear()
    list(stream._chunks(0, 0))  # pyright: ignore[reportPrivateUsage] - its order alone
    first = texts[: texts.index(texts[0], 1)] if texts[0] in texts[1:] else texts
    n_texts = len(set(texts))
    epochs = [texts[at : at + n_texts] for at in range(0, 3 * n_texts, n_texts)]
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert len({tuple(sorted(epoch)) for epoch in epochs}) == 1
    assert len(first) > 1
    plain = opened(rows=8_000, chunk_rows=100_000, say=said.append, shuffle_buffer=1)
    list(plain.batches(500))
    assert "begins again in the same order" in said[-1]


TRAINER = TrainerConfig(
    tokens=60 * 64,
    batch_size=64,
    lr=3e-3,
    log_every=4,
    eval_every=16,
    eval_rows=100,
    checkpoint_every=8,
    device="cpu",
)


def train_config(config: StreamConfig, out: Path, **changes: Any) -> TrainConfig:
    return TrainConfig(
        out=str(out),
        site=SITE,
        n_latents=70,
        k=4,
        stream=config,
        trainer=dataclasses.replace(TRAINER, **changes),
    )


class Killed(Exception):
    """Stands in for a kill: nothing in the code catches it."""


def train_until(config: TrainConfig, step: int) -> None:
    def report(done: int, total: int, figures: dict[str, float]) -> None:
        if done >= step:
            raise Killed

    with pytest.raises(Killed):
        train(config, report=report)


@pytest.mark.slow
@pytest.mark.parametrize("forget", [False, True])
def test_a_killed_run_ends_with_the_same_bits(
    config: StreamConfig, tmp_path: Path, forget: bool
) -> None:
    whole = train(train_config(config, tmp_path / "whole"))
    killed = train_config(config, tmp_path / "killed")
    for step in (4, 20, 44):
        train_until(killed, step)
        if forget:
            (tmp_path / "killed" / CHUNK_INDEX).unlink()
    summary = train(killed)
    assert summary["held_out"] == whole["held_out"]
    wanted, found = (
        SparseAutoencoder.load(tmp_path / name).state_dict() for name in ("whole", "killed")
    )
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    steps = [line["step"] for line in RunFolder(tmp_path / "killed").metrics() if "fvu" in line]
    assert steps == sorted(set(steps))


@pytest.mark.slow
def test_a_grid_shares_the_stream(config: StreamConfig, tmp_path: Path) -> None:
    base = train_config(config, tmp_path / "grid")
    train_grid(grid_configs(base, {"k": (3, 4)}))
    alone = tmp_path / "alone"
    train(train_config(config, alone))
    wanted, found = (
        SparseAutoencoder.load(folder).state_dict() for folder in (alone, tmp_path / "grid" / "k4")
    )
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_run_goes_on_with_the_same_data_alone(config: StreamConfig, tmp_path: Path) -> None:
    text = tmp_path / "own.jsonl"
    text.write_bytes(Path(str(config.dataset)).read_bytes())
    config = dataclasses.replace(config, dataset=str(text))
    out = tmp_path / "run"
    train_until(train_config(config, out), 20)
    with pytest.raises(InputError, match="chunk_rows=400, not 500"):
        train(train_config(dataclasses.replace(config, chunk_rows=500), out))
    with text.open("a") as file:
        file.write(json.dumps({"text": "one more"}) + "\n")
    with pytest.raises(InputError, match=r"own\.jsonl has changed since"):
        train(train_config(config, out))
    text.unlink()
    with pytest.raises(InputError, match="is not there"):
        train(train_config(config, out))


@pytest.mark.slow
def test_a_corpus_that_breaks_off_costs_nothing(config: StreamConfig, tmp_path: Path) -> None:
    """The steps up to there are saved; with the text as it was the run goes on."""
    text = tmp_path / "own.jsonl"
    content = Path(str(config.dataset)).read_bytes()
    text.write_bytes(content)
    config = dataclasses.replace(config, dataset=str(text), chunk_rows=150, shuffle_buffer=1)
    whole, out = tmp_path / "whole", tmp_path / "run"
    train(train_config(config, whole, checkpoint_every=1000))
    broken = train_config(config, out, checkpoint_every=1000)

    def report(done: int, total: int, figures: dict[str, float]) -> None:
        text.unlink(missing_ok=True)

    with pytest.raises(
        InputError, match=r"own\.jsonl cannot be read \(No such file or directory\)"
    ):
        train(broken, report=report)
    text.write_bytes(content)
    said: list[str] = []
    train(broken, say=said.append)
    assert any("goes on from step" in sentence for sentence in said)
    wanted, found = (SparseAutoencoder.load(folder).state_dict() for folder in (whole, out))
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.slow
def test_the_model_keeps_its_threads(
    config: StreamConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last bits of activations depend on their number."""
    threads: set[int] = set()
    read = ContextReader.read

    def noted(self: ContextReader, *words: Any) -> Any:
        threads.add(torch.get_num_threads())
        return read(self, *words)

    with use_threads(2):
        train_until(train_config(config, tmp_path / "run"), 20)
    monkeypatch.setattr(ContextReader, "read", noted)
    monkeypatch.setattr(train_module, "allowed_cores", lambda: 1)  # for what is not the model
    train(train_config(config, tmp_path / "run"))
    assert torch.get_num_threads() == 1
    assert threads == {2}


@pytest.mark.slow
def test_a_grid_is_extended_with_the_data_of_those_that_are_there(
    config: StreamConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is new now: the model's threads, and the commit of a hub data set."""
    commits = {"head": "aaa"}
    own = stream_module.open_corpus

    def hub(*words: Any, revision: str | None = None, **options: Any) -> Any:
        commit = revision or commits["head"]
        corpus = own(*words, **options)
        return dataclasses.replace(corpus, fingerprint=f"texts@{commit}", revision=commit)

    monkeypatch.setattr(stream_module, "open_corpus", hub)
    base = train_config(config, tmp_path / "grid")
    train_grid(grid_configs(base, {"k": (3, 4)}))
    commits["head"] = "bbb"
    with use_threads(2):
        train_grid(grid_configs(base, {"k": (2, 3, 4)}))
    settings = RunFolder(tmp_path / "grid" / "k2").settings()
    assert (settings["model_threads"], settings["corpus_revision"]) == (1, "aaa")


def test_another_dataset_is_named(config: StreamConfig, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_bytes(Path(str(config.dataset)).read_bytes())
    train_until(train_config(config, tmp_path / "run"), 20)
    changed = dataclasses.replace(config, dataset=str(other))
    with pytest.raises(InputError, match=r"holds a run with dataset=.*texts\.jsonl"):
        train(train_config(changed, tmp_path / "run"))


def test_two_windows_are_in_memory(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[Tensor]] = []
    most = 0
    joined = stream_module.joined

    def noted(parts: Any) -> Any:
        nonlocal most
        whole = joined(parts)
        alive.append(weakref.ref(whole.values))
        most = max(most, sum(one() is not None for one in alive))
        return whole

    monkeypatch.setattr(stream_module, "joined", noted)
    for _ in opened(rows=5_000, chunk_rows=150).batches(64):
        pass
    assert len(alive) > 20
    assert most <= 2


def test_text_on_one_side_alone_is_refused(
    opened: Open, config: StreamConfig, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="has no held-out documents"):
        opened(held_out_fraction=0.0).require_held_out()
    with pytest.raises(InputError, match="has no held-out documents"):
        opened(held_out_fraction=0.0).held_out()
    one = tmp_path / "one.jsonl"
    one.write_text(json.dumps({"text": "the only text there is, of some length"}) + "\n")
    stream = opened(dataset=str(one), held_out_fraction=0.999_999)
    with pytest.raises(InputError, match="gives no training rows"):
        next(stream.batches(10))
    one.write_text(json.dumps({"text": ""}) + "\n")
    with pytest.raises(InputError, match="gives no activations"):
        opened(dataset=str(one))


def test_wrong_sites_and_lengths(opened: Open) -> None:
    with pytest.raises(InputError, match=r"one site, here blocks\.1\.hook_resid_post, and not"):
        opened().held_out(site="blocks.0.hook_resid_post")
    with pytest.raises(InputError, match="reads at most 512 tokens"):
        opened(context_length=600)


@pytest.mark.parametrize(
    ("cache", "stream", "field"),
    [
        (None, {}, "cache"),
        (None, {"model": "m"}, "dataset"),
        (None, {"dataset": "d"}, "model"),
        ("c", {"model": "m"}, "model"),
        ("c", {"chunk_rows": 7}, "chunk_rows"),
        ("c", {"dtype": "int8"}, "dtype"),
    ],
)
def test_a_cache_or_a_stream(cache: str | None, stream: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        TrainConfig(cache=cache, out="o", stream=StreamConfig(**stream))
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"model": " "}, "model"),
        ({"chunk_rows": 0}, "chunk_rows"),
        ({"forward_contexts": 0}, "forward_contexts"),
        ({"context_length": 2}, "context_length"),
    ],
)
def test_wrong_stream_settings(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        StreamConfig(**changes)
    assert caught.value.field == field
