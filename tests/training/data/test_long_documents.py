"""Long documents are tokenized in pieces, only as far as they are used, and stay one document."""

import json
from pathlib import Path

import pytest
import torch

from sparsteer.sae import LanguageModel
from sparsteer.sae.language_model import long_texts
from sparsteer.training import ActivationCache, CacheConfig, cache_activations
from sparsteer.training.data.corpus import open_corpus
from sparsteer.training.data.stream.chunk_index import ChunkStart
from sparsteer.training.data.stream.chunks import ChunkSource
from sparsteer.training.data.stream.config import StreamConfig

PIECE = 500


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    texts = ["some words, and more of them. " * 400, "a short one", "others follow here\n" * 900]
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


@pytest.fixture
def read(tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The characters of each text that is tokenized, in pieces of at most PIECE."""
    lengths: list[int] = []
    tokenize = tiny_model.tokenize

    def noted(text: str) -> list[int]:
        lengths.append(len(text))
        return tokenize(text)

    monkeypatch.setattr(tiny_model, "tokenize", noted)
    return lengths


def test_a_cache_reads_pieces_and_is_the_same(
    dataset: str,
    tiny_model: LanguageModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    read: list[int],
) -> None:
    def contexts(out: str, tokens: int) -> list[torch.Tensor]:
        config = CacheConfig(
            model=tiny_model.name,
            dataset=dataset,
            out=str(tmp_path / out),
            tokens=tokens,
            context_length=32,
            held_out_fraction=0.3,
            shuffle_buffer=1,
            dtype="float32",
        )
        cache_activations(config, model=tiny_model)
        cache = ActivationCache(config.out)
        shards = [cache.shard(entry) for entry in cache.manifest.shards]
        return [shard.tensor(n) for shard in shards for n in ("contexts", "doc", "position")]

    whole = contexts("whole", 1500)
    assert max(read) > 10_000
    read.clear()
    monkeypatch.setattr(long_texts, "PIECE_CHARACTERS", PIECE)
    pieces = contexts("pieces", 1500)
    assert max(read) <= PIECE
    assert all(torch.equal(one, other) for one, other in zip(whole, pieces, strict=True))


def test_a_stream_reads_pieces_and_is_the_same(
    dataset: str,
    tiny_model: LanguageModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    read: list[int],
) -> None:
    config = StreamConfig(
        model=tiny_model.name,
        dataset=dataset,
        context_length=32,
        chunk_rows=700,
        held_out_fraction=0.3,
        shuffle_buffer=1,
    )

    def chunks(rows: int) -> list[tuple[ChunkStart, list[list[int]]]]:
        source = ChunkSource(config, open_corpus(dataset), tiny_model)
        path = tmp_path / f"{len(read)}.jsonl"
        return [
            (chunk.start, [chosen.context.tokens.tolist() for chosen in chunk.contexts])
            for chunk in source.from_row(0, rows=rows, seed=0, path=path)
        ]

    whole = chunks(30_000)
    assert len(whole) > 15 and whole[-1][0].epoch > 0
    read.clear()
    monkeypatch.setattr(long_texts, "PIECE_CHARACTERS", PIECE)
    assert chunks(30_000) == whole
    assert max(read) <= PIECE
    read.clear()
    chunks(600)
    assert sum(read) < 3 * PIECE
