"""Corpora mixed by weight: shares of the text, order, identity, resume, and sources that end."""

import dataclasses
import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsteer.sae.common.errors import InputError
from sparsteer.sae.common.mixtures import shares_of
from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.training import ActivationCache, CacheConfig, cache_activations
from sparsteer.training.data.corpus import Corpus, Document, open_corpus
from sparsteer.training.data.document_order import PartsOf
from sparsteer.training.data.stream.chunk_index import ChunkStart
from sparsteer.training.data.stream.chunks import ChunkSource
from sparsteer.training.data.stream.config import StreamConfig


def write_texts(path: Path, letter: str, number: int, least: int = 1, most: int = 40) -> Path:
    """Documents that are one letter, repeated, in words of five."""
    rng = random.Random(letter)
    path.mkdir(parents=True, exist_ok=True)
    rows = [" ".join([letter * 5] * rng.randint(least, most)) for _ in range(number)]
    (path / f"{letter}.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    return path / f"{letter}.jsonl"


@pytest.fixture
def sources(tmp_path: Path) -> tuple[Path, Path]:
    """Short texts of a, and half as many of b that are four times as long."""
    return (
        write_texts(tmp_path / "texts", "a", 200),
        write_texts(tmp_path / "texts", "b", 100, 4, 160),
    )


def read(corpus: Corpus, seed: int = 0, shuffle_buffer: int = 20) -> list[Document]:
    return list(corpus.documents(seed=seed, shuffle_buffer=shuffle_buffer))


def letters(documents: list[Document], letter: str) -> int:
    return sum(len(text) for _, text in documents if text.startswith(letter))


@given(
    st.lists(st.integers(1, 12), min_size=2, max_size=4),
    st.lists(st.lists(st.text("x", max_size=9), max_size=30), min_size=4, max_size=4),
    st.integers(0, 5),
)
def test_a_prefix_has_the_share_of_each(
    weights: list[int], texts: list[list[str]], seed: int
) -> None:
    """As long as no source has ended, no text is further from its share than a document's length
    for each source."""
    documents = [
        [Document(1000 * place + row, text) for row, text in enumerate(rows)]
        for place, rows in enumerate(texts[: len(weights)])
    ]
    corpus = open_mixture(documents, weights)
    ended: list[str] = []
    given_text = [0.0] * len(weights)
    longest = max((len(text) for rows in texts for text in rows), default=0)
    for number, text in corpus.documents(seed=seed, shuffle_buffer=3, ended=ended.append):
        if ended:
            break
        given_text[number % len(weights)] += len(text)
        shares = [length / weight for length, weight in zip(given_text, weights, strict=True)]
        assert max(shares) - min(shares) <= longest / min(weights)
    assert sorted(read(corpus, seed)) == sorted(
        Document(row * len(weights) + place, text)
        for place, rows in enumerate(texts[: len(weights)])
        for row, text in enumerate(rows)
    )


def open_mixture(documents: list[list[Document]], weights: list[int]) -> Corpus:
    """A mixture of data sets of one part each."""
    shares = shares_of(" ".join(f"{place}:{weight}" for place, weight in enumerate(weights)))
    mixture = tuple(
        PartsOf(share.name, share.weight, range(place, place + 1))
        for place, share in enumerate(shares)
    )
    return Corpus(
        dataset="x",
        fingerprint="y",
        revision=None,
        parts=tuple(share.name for share in shares),
        read_part=lambda part: (text for _, text in documents[part]),
        mixture=mixture,
    )


def test_files_are_mixed_by_their_text(sources: tuple[Path, Path]) -> None:
    a, b = sources
    corpus = open_corpus(f"{a}:3 {b}:1")
    assert corpus.parts == (str(a), str(b))
    documents = read(corpus)
    assert len(documents) == 300
    half = documents[:150]
    assert letters(half, "a") / letters(half, "b") == pytest.approx(3, rel=0.25)
    assert read(corpus) == documents
    assert read(corpus, seed=1) != documents
    rows = {
        letter: path.read_text().splitlines() for letter, path in zip("ab", sources, strict=True)
    }
    for number, text in documents:
        row, part = divmod(number, 2)
        assert json.loads(rows["ab"[part]][row])["text"] == text


def test_a_folder_in_a_mixture_and_a_layout_that_is_said(
    sources: tuple[Path, Path], tmp_path: Path
) -> None:
    a, _ = sources
    chats = tmp_path / "chats.jsonl"
    chats.write_text(json.dumps({"messages": [{"role": "user", "content": "c c"}]}) + "\n")
    said: list[str] = []
    corpus = open_corpus(f"{a.parent}:1 {chats}:2", progress=said.append)
    assert corpus.parts == ("a.jsonl", "b.jsonl", str(chats))
    assert sum(text.startswith("c") for _, text in read(corpus)) == 1
    (sentence,) = said
    assert sentence.startswith(f"{chats}: the text of a row is")


def test_a_source_that_ends_is_said_and_the_rest_goes_on(sources: tuple[Path, Path]) -> None:
    a, b = sources
    said: list[str] = []
    corpus = open_corpus(f"{a}:1 {b}:1")
    documents = list(corpus.documents(seed=0, shuffle_buffer=5, ended=said.append))
    assert len(documents) == 300
    assert said == [f"{a} ended after 200 documents; the text behind is of {b}"]
    tail = documents[documents.index([d for d in documents if d.text.startswith("a")][-1]) + 1 :]
    assert len(tail) > 20 and all(text.startswith("b") for _, text in tail)


def test_what_identifies_a_mixture(sources: tuple[Path, Path]) -> None:
    a, b = sources
    prints = {
        open_corpus(text).fingerprint for text in (f"{a}:3 {b}:1", f"{a}:1 {b}:3", f"{b}:1 {a}:3")
    }
    assert len(prints) == 3
    before = open_corpus(f"{a}:3 {b}:1").fingerprint
    b.write_text(b.read_text().replace("bbbbb", "ccccc", 1))
    assert open_corpus(f"{a}:3 {b}:1").fingerprint != before


def test_a_wrong_name_in_a_mixture(sources: tuple[Path, Path]) -> None:
    a, _ = sources
    with pytest.raises(InputError, match=r"no\.jsonl is not there"):
        open_corpus(f"{a}:3 no.jsonl:1")
    with pytest.raises(InputError, match="a weight of 0"):
        open_corpus(f"{a}:3 no.jsonl:0")


@pytest.fixture
def config(tiny_model_folder: Path, sources: tuple[Path, Path], tmp_path: Path) -> CacheConfig:
    a, b = sources
    return CacheConfig(
        model=str(tiny_model_folder),
        dataset=f"{a}:3 {b}:1",
        out=str(tmp_path / "out"),
        tokens=1500,
        context_length=32,
        batch_size=4,
        shard_rows=2 * 4 * 32,
        dtype="float32",
        model_dtype="float32",
        held_out_fraction=0.3,
    )


def test_a_mixed_cache_goes_on_to_the_same_bytes(
    config: CacheConfig, tiny_model: LanguageModel, tmp_path: Path
) -> None:
    def stop(done: int, wanted: int, rate: float) -> None:
        if done > 700:
            raise KeyboardInterrupt

    whole = cache_activations(config, model=tiny_model)
    assert whole.config["dataset"] == whole.corpus.dataset == config.dataset
    cut = dataclasses.replace(config, out=str(tmp_path / "cut"))
    with pytest.raises(KeyboardInterrupt):
        cache_activations(cut, model=tiny_model, progress=stop)
    other = dataclasses.replace(cut, dataset=config.dataset.replace(":3", ":2"))
    with pytest.raises(InputError, match="holds a cache with dataset="):
        cache_activations(other, model=tiny_model)
    said: list[str] = []
    resumed = cache_activations(cut, model=tiny_model, say=said.append)
    assert [shard.sha256 for shard in resumed.shards] == [shard.sha256 for shard in whole.shards]
    assert said[0].startswith(f"{cut.out} goes on from")
    parts = {
        int(doc) % 2
        for entry in whole.shards
        for doc in ActivationCache(config.out).shard(entry).tensor("doc")
    }
    assert parts == {0, 1}


def test_a_mixed_cache_says_which_source_ended(
    config: CacheConfig, tiny_model: LanguageModel, tmp_path: Path
) -> None:
    few = write_texts(tmp_path / "few", "c", 3)
    _, b = config.dataset.split()
    mixed = dataclasses.replace(config, dataset=f"{few}:1 {b}")
    said: list[str] = []
    manifest = cache_activations(mixed, model=tiny_model, say=said.append)
    b_name = b.rpartition(":")[0]
    sentence = f"{few} ended after 3 documents; the text behind is of {b_name}"
    assert sentence in manifest.notices
    assert said.count(sentence) == 1


def test_a_stream_of_a_mixture_says_it_once(
    config: CacheConfig, tiny_model: LanguageModel, tmp_path: Path
) -> None:
    few = write_texts(tmp_path / "few", "c", 3)
    _, b = config.dataset.split()
    stream = StreamConfig(
        model=config.model,
        dataset=f"{few}:1 {b}",
        context_length=32,
        forward_contexts=4,
        chunk_rows=400,
        dtype="float32",
        model_dtype="float32",
        held_out_fraction=0.1,
    )
    assert stream.dataset is not None
    said: list[str] = []
    source = ChunkSource(stream, open_corpus(stream.dataset), tiny_model, said.append)
    chunks = source.from_row(0, rows=2000, seed=0, path=tmp_path / "index")
    assert next(chunks).start == ChunkStart(0, 0, 0)
    assert sum(1 for _ in chunks) > 2
    assert len(said) == 1 and said[0].startswith(f"{few} ended after 3 documents")
