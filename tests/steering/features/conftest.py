"""A run with random weights and its index, and the cache that it was built of in full."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sparsteer.sae import LanguageModel, SparseAutoencoder
from sparsteer.sae.config import TopAFAConfig, TopKConfig
from sparsteer.steering.features import BuildConfig, Example, FeatureIndex, build_index
from sparsteer.training.data.cache.reader import ActivationCache

from ...tiny_runs import SITE, cache_of_texts, random_sae

N_LATENTS, EXAMPLES, BEFORE, AFTER = 40, 5, 6, 3
LENGTH = 24
OUTLIER_NORM = 1.3


def documents() -> list[str]:
    """Short and long ones, many of them repeated, with characters of several bytes."""
    generator = np.random.default_rng(1)
    words = ["sun", "Mond", "été", "☃", "\n", "🎉", "a", "\x1b[31m", "\u202e", "zz zz"]
    random = [" ".join(generator.choice(words, size=generator.integers(1, 25))) for _ in range(70)]
    return [*random, "the same boilerplate", *random[:40], "the same boilerplate", "", "x"]


@dataclass(frozen=True)
class Setup:
    """A run and the cache that belongs to it."""

    run: Path
    cache: Path
    texts: list[str]

    def config(self, **changes: Any) -> BuildConfig:
        settings: dict[str, Any] = {
            "run": str(self.run),
            "cache": str(self.cache),
            "examples": EXAMPLES,
            "before": BEFORE,
            "after": AFTER,
            "outlier_norm": OUTLIER_NORM,
            "near_misses": 4,
            "quantiles": 3,
            "quantile_examples": 2,
            "coactivating": 4,
            "neighbors": 4,
            "logits": 3,
            "device": "cpu",
        }
        return BuildConfig(**{**settings, **changes})


@pytest.fixture(scope="module")
def cache_folder_of_tiny(
    tiny_model: LanguageModel, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("features")
    return cache_of_texts(
        folder,
        tiny_model,
        documents(),
        tokens=100_000,
        context_length=LENGTH,
        batch_size=4,
        shard_rows=300,
        held_out_fraction=0.2,
    )


@pytest.fixture(scope="module", params=["topk", pytest.param("top_afa", marks=pytest.mark.slow)])
def setup(
    request: pytest.FixtureRequest,
    cache_folder_of_tiny: Path,
    tiny_model: LanguageModel,
    tmp_path_factory: pytest.TempPathFactory,
) -> Setup:
    """A run with random weights and its index."""
    config = (
        TopKConfig(tiny_model.d_model, N_LATENTS, 6)
        if request.param == "topk"
        else TopAFAConfig(tiny_model.d_model, N_LATENTS)
    )
    sae = random_sae(tiny_model, config, seed=5)
    sae.input_scale.fill_(0.37)
    with torch.no_grad():
        sae.b_enc.uniform_(-1, 0.1)
        sae.b_enc[7] = -1e6  # never fires
    run = tmp_path_factory.mktemp("run")
    sae.save(run / "sae")
    made = Setup(run, cache_folder_of_tiny, documents())
    build_index(made.config(), model=tiny_model)
    return made


@dataclass(frozen=True)
class Row:
    """One row of the cache, and where it is from."""

    doc: int
    position: int
    context: tuple[str, int]
    offset: int


@dataclass(frozen=True)
class Dense:
    """The whole cache in full: dense codes, and every row's place."""

    codes_NF: Tensor
    """Zero in rows of an outlying norm, which do not count."""
    all_codes_NF: Tensor
    """The same, but as they are in those rows."""
    pre_NF: Tensor
    """float64 pre-activations; -inf in rows that do not count."""
    counts_N: Tensor
    """Which rows count."""
    tokens_N: Tensor
    counted: int
    rows: list[Row]
    lengths: dict[tuple[str, int], int]


def read_all(setup: Setup) -> Dense:
    cache = ActivationCache(setup.cache)
    sae = SparseAutoencoder.load(setup.run / "sae")
    codes: list[Tensor] = []
    pre: list[Tensor] = []
    tokens: list[Tensor] = []
    norms: list[Tensor] = []
    rows: list[Row] = []
    lengths: dict[tuple[str, int], int] = {}
    for entry in cache.manifest.shards:
        shard = cache.shard(entry)
        acts_ND = shard.stored(SITE).restored()
        norms.append(acts_ND.square().sum(1).sqrt())
        wide = SparseAutoencoder.load(setup.run / "sae").double()
        centered_ND = wide.scaled(acts_ND.double()) - wide.center
        pre.append((centered_ND @ wide.W_enc.T + wide.b_enc).detach())
        tokens.append(shard.tensor("tokens"))
        codes.append(sae.encode(acts_ND).dense(N_LATENTS).detach())
        columns = [shard.tensor(name) for name in ("doc", "position", "context", "offset")]
        for doc, position, context, offset in zip(*columns, strict=True):
            rows.append(Row(int(doc), int(position), (entry.file, int(context)), int(offset)))
        for context, length in enumerate(shard.tensor("lengths")):
            lengths[entry.file, context] = int(length)
    # The median is that of the first shard, so that one pass is enough.
    counts_N = torch.cat(norms) <= OUTLIER_NORM * norms[0].median()
    codes_NF = torch.cat(codes) * counts_N[:, None]
    return Dense(
        codes_NF=codes_NF,
        all_codes_NF=torch.cat(codes),
        pre_NF=torch.cat(pre).masked_fill(~counts_N[:, None], -torch.inf),
        counts_N=counts_N,
        tokens_N=torch.cat(tokens),
        counted=int(counts_N.sum()),
        rows=rows,
        lengths=lengths,
    )


@pytest.fixture(scope="module")
def dense(setup: Setup) -> Dense:
    return read_all(setup)


@pytest.fixture(scope="module")
def index(setup: Setup) -> FeatureIndex:
    return FeatureIndex.of_run(setup.run)


def window_of(row: Row, dense: Dense, setup: Setup, model: LanguageModel) -> tuple[list[int], int]:
    """Tokens around a row from the text of its document, and where the row's own is."""
    assert model.eos_id is not None
    tokens = [*model.tokenize(setup.texts[row.doc]), model.eos_id]
    # Column 0 of a context is BOS; a document that began in an earlier one is cut there.
    low = max(row.position - BEFORE, row.position - (row.offset - 1), 0)
    room = dense.lengths[row.context] - 1 - row.offset
    return tokens[low : row.position + min(AFTER, room) + 1], row.position - low


def peaks_of(number: int, dense: Dense) -> list[tuple[int, float]]:
    """The rows with the largest activation in their context, best first, with the activations."""
    best: dict[tuple[str, int], tuple[float, int]] = {}
    for row_number, value in enumerate(dense.codes_NF[:, number].numpy().tolist()):
        context = dense.rows[row_number].context
        if value > 0 and (context not in best or value > best[context][0]):
            best[context] = (value, row_number)
    ordered = sorted(best.values(), key=lambda pair: (-pair[0], pair[1]))
    return [(row_number, value) for value, row_number in ordered]


def assert_is_row(
    example: Example, feature: int, row: int, dense: Dense, setup: Setup, model: LanguageModel
) -> None:
    """Every field of the example is what the cache and the document say."""
    place = dense.rows[row]
    assert (example.document, example.position) == (place.doc, place.position)
    tokens, peak = window_of(place, dense, setup, model)
    assert list(example.tokens) == tokens and example.peak == peak
    assert example.starts_document == (place.position == peak)
    text = "".join(example.texts)
    assert text.encode("utf-8", "surrogateescape") == bytes_of(tokens, model)
    around = {
        (other.doc, other.position): dense.codes_NF[number, feature].item()
        for number, other in enumerate(dense.rows)
        if other.context == place.context
    }
    first = place.position - peak
    expected = [around.get((place.doc, first + n), 0.0) for n in range(len(tokens))]
    assert example.activations == pytest.approx(expected, rel=1e-5)
    assert example.activations[peak] == example.activation


def bytes_of(tokens: list[int], model: LanguageModel) -> bytes:
    """What the tokens stand for, from the tokenizer's own decoder, one byte a token."""
    special = {0: b"<|pad|>", 1: b"<|bos|>", 2: b"<|eos|>"}
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    byte_of = {character: byte for byte, character in bytes_to_unicode().items()}
    names = model.tokenizer.convert_ids_to_tokens(tokens)
    return b"".join(
        special.get(token) or bytes([byte_of[name]])
        for token, name in zip(tokens, names, strict=True)
    )


def copied(setup: Setup, folder: Path) -> Setup:
    SparseAutoencoder.load(setup.run / "sae").save(folder / "sae")
    return Setup(folder, setup.cache, setup.texts)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
