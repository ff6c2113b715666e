"""The index against the cache read again in full: every statistic, every example, every token."""

import errno
import math
import resource
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sparsteer.kernels.codes import Codes
from sparsteer.sae import LanguageModel, SparseAutoencoder
from sparsteer.sae.common.errors import InputError
from sparsteer.steering.features import (
    FeatureIndex,
    build_index,
)
from sparsteer.steering.features.collect import Collector
from sparsteer.steering.features.windows import SortedCodes, chunks, norm_bound, windows
from sparsteer.training.data.cache.reader import ActivationCache

from .conftest import (
    EXAMPLES,
    N_LATENTS,
    OUTLIER_NORM,
    SITE,
    Dense,
    Setup,
    assert_is_row,
    contents,
    copied,
    peaks_of,
    window_of,
)


def test_the_cache_has_what_makes_it_hard(dense: Dense, setup: Setup) -> None:
    assert len({row.context[0] for row in dense.rows}) > 3, "several shards"
    of_context = defaultdict[tuple[str, int], set[int]](set)
    of_document = defaultdict[int, set[tuple[str, int]]](set)
    for row in dense.rows:
        of_context[row.context].add(row.doc)
        of_document[row.doc].add(row.context)
    assert max(map(len, of_context.values())) > 2, "several documents in a context"
    assert max(map(len, of_document.values())) > 2, "several contexts of a document"
    assert max(Counter(setup.texts).values()) > 1
    assert 20 < len(dense.rows) - dense.counted < len(dense.rows) / 4, "outliers"
    fired = (dense.codes_NF > 0).sum(0)
    assert fired[7] == 0 and 0 < int(fired[fired > 0].min()) and int(fired.max()) > 50


def test_statistics(index: FeatureIndex, dense: Dense) -> None:
    for number in range(N_LATENTS):
        feature = index.feature(number)
        values = np.sort(dense.codes_NF[:, number][dense.codes_NF[:, number] > 0].numpy())
        assert feature.fired == len(values)
        assert feature.density == pytest.approx(len(values) / dense.counted, rel=1e-12)
        if not len(values):
            assert feature.mean_activation == feature.max_activation == 0
            assert feature.p99_activation == feature.median_activation == 0
            continue
        assert feature.mean_activation == pytest.approx(values.mean(), rel=1e-5)
        assert feature.max_activation == pytest.approx(values[-1], rel=1e-5)
        assert index.max_activation(number) == feature.max_activation
        for ours, fraction in ((feature.median_activation, 0.5), (feature.p99_activation, 0.99)):
            exact = np.quantile(values, fraction, method="inverted_cdf")
            assert ours == pytest.approx(exact, rel=1 / 32)
        assert feature.p99_activation <= feature.max_activation


def test_histogram(index: FeatureIndex, dense: Dense) -> None:
    edges = np.array(index.feature(0).histogram_edges)
    assert np.all(np.diff(edges) > 0) and edges[4] == pytest.approx(2 * edges[0])
    for number in range(N_LATENTS):
        values = dense.codes_NF[:, number].numpy()
        # What lies below the lowest octave, 2^-12, counts in the first bin.
        expected, _ = np.histogram(values[values > 0].clip(min=edges[0]), bins=edges)
        assert index.feature(number).histogram == tuple(expected)


def test_top_examples(
    index: FeatureIndex, dense: Dense, setup: Setup, tiny_model: LanguageModel
) -> None:
    excluded = 0
    for number in range(N_LATENTS):
        expected: dict[tuple[int, ...], tuple[int, float]] = {}
        peaks = peaks_of(number, dense)
        for row, value in peaks:
            window, _ = window_of(dense.rows[row], dense, setup, tiny_model)
            expected.setdefault(tuple(window), (row, value))
        best = list(expected.values())[:EXAMPLES]
        excluded += best != peaks[:EXAMPLES]
        feature = index.feature(number)
        assert [example.row for example in feature.top] == [row for row, _ in best]
        for example, (row, value) in zip(feature.top, best, strict=True):
            assert example.activation == pytest.approx(value, rel=1e-5)
            assert_is_row(example, number, row, dense, setup, tiny_model)
        if feature.fired:
            assert feature.top[0].activation == feature.max_activation
    assert excluded > 5, "equal windows must come up for this to show anything"


def test_random_examples(
    index: FeatureIndex, dense: Dense, setup: Setup, tiny_model: LanguageModel
) -> None:
    for number in range(N_LATENTS):
        feature = index.feature(number)
        rows = [example.row for example in feature.random]
        assert len(set(rows)) == len(rows) == min(EXAMPLES, feature.fired)
        for example in feature.random:
            assert dense.codes_NF[example.row, number] > 0
            assert_is_row(example, number, example.row, dense, setup, tiny_model)


def random_rows(setup: Setup, model: LanguageModel, seed: int) -> list[list[int]]:
    build_index(setup.config(seed=seed, logits=0, rows=600), model=model)
    index = FeatureIndex(setup.run)
    return [[e.row for e in index.feature(n).random] for n in range(N_LATENTS)]


def test_random_examples_follow_the_seed(
    setup: Setup, tiny_model: LanguageModel, tmp_path: Path
) -> None:
    setup = copied(setup, tmp_path)
    first = random_rows(setup, tiny_model, 0)
    assert random_rows(setup, tiny_model, 0) == first
    assert random_rows(setup, tiny_model, 1) != first


def test_a_rebuild_is_identical(setup: Setup, tiny_model: LanguageModel) -> None:
    before = contents(setup.run / "features")
    assert len(before) > 10
    build_index(setup.config(), model=tiny_model)
    assert contents(setup.run / "features") == before
    assert sorted(path.name for path in setup.run.iterdir()) == ["features", "sae"]


def test_a_disk_that_takes_no_more_says_so(
    setup: Setup, tiny_model: LanguageModel, tmp_path: Path
) -> None:
    """A limit on the size of files stands for it; numpy itself would only count bytes."""
    setup = copied(setup, tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
    try:
        with pytest.raises(OSError) as caught:
            build_index(setup.config(), model=tiny_model)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    assert [path.name for path in setup.run.iterdir()] == ["sae"]


def tables(collected: Collector) -> dict[str, Tensor]:
    """All that does not depend on the pieces; how many windows are folded may."""
    _, tensors = collected.state()
    return {
        name: tensor
        for name, tensor in tensors.items()
        if not name.endswith(("duplicates", "total", "squares"))
    }


@pytest.mark.parametrize("name", ["examples", "before", "after"])
def test_more_than_memory_holds_is_refused(
    setup: Setup, tiny_model: LanguageModel, name: str
) -> None:
    with pytest.raises(InputError, match=rf"{name} {'is ' * (name == 'examples')}{2**40}.* GB, mo"):
        build_index(setup.config(**{name: 2**40}), model=tiny_model)


@pytest.mark.parametrize("rows_at_once", [1, 10_000])
def test_pieces_change_nothing(setup: Setup, rows_at_once: int) -> None:
    """In float64, so that a product taken in other blocks rounds to the same float32."""
    cache = ActivationCache(setup.cache)
    sae = SparseAutoencoder.load(setup.run / "sae").double()

    def run(rows: int) -> Collector:
        shards = list(cache.manifest.shards[-4:])
        bound = norm_bound(cache, shards[0], SITE, OUTLIER_NORM)
        parts = chunks(cache, shards, SITE, rows_at_once=rows, bound=bound, device="cpu")
        collected = Collector(sae, setup.config(seed=3, coactivating=0))
        for chunk in parts:
            collected.add(chunk)
        return collected

    ours, other = run(rows_at_once), run(150)
    for name, table in tables(ours).items():
        assert torch.equal(table, tables(other)[name]), name
    assert torch.equal(ours.statistics.fired, other.statistics.fired)
    torch.testing.assert_close(ours.statistics.total, other.statistics.total)


def test_pieces_cover_the_cache_once(setup: Setup) -> None:
    cache = ActivationCache(setup.cache)
    n_rows = 0
    shards = list(cache.manifest.shards)
    for chunk in chunks(cache, shards, SITE, rows_at_once=100, bound=math.inf, device="cpu"):
        assert chunk.first_row == n_rows
        n_rows += len(chunk.rows_RD)
        assert len(chunk.rows_RD) <= 100 and chunk.kept.all()
        assert torch.equal(
            windows(chunk, 0, 0).tokens[:, 0], chunk.contexts[chunk.context, chunk.offset]
        )
    assert n_rows == cache.n_rows


def test_activations_are_looked_up() -> None:
    dense_RF = torch.rand(9, 13) * (torch.rand(9, 13) > 0.6)
    values, indices = dense_RF.topk(13)
    activations = SortedCodes([(torch.arange(9), Codes(indices, values))], 9)
    assert len(activations.values) == int((dense_RF > 0).sum())
    latents = torch.arange(13)
    rows = torch.cat([torch.arange(9), torch.tensor([-1])]).expand(13, 10)
    expected = torch.cat([dense_RF.T, torch.zeros(13, 1)], dim=1)
    assert torch.equal(activations.at(latents, rows), expected)
    empty = SortedCodes([(torch.arange(9), Codes(indices, values * 0))], 9)
    assert not empty.at(latents, rows).any()


def test_neighbors(index: FeatureIndex, setup: Setup) -> None:
    W_dec = SparseAutoencoder.load(setup.run / "sae").W_dec.detach().double().numpy()
    unit = W_dec / np.linalg.norm(W_dec, axis=1, keepdims=True)
    for number in range(N_LATENTS):
        cosine = unit @ unit[number]
        others = [int(n) for n in np.argsort(-cosine) if n != number][:4]
        neighbors = index.feature(number).neighbors
        assert [n.feature for n in neighbors] == others
        assert [n.cosine for n in neighbors] == pytest.approx(cosine[others], abs=1e-6)


def test_positive_and_negative_logits(
    index: FeatureIndex, setup: Setup, tiny_model: LanguageModel
) -> None:
    """Against the transformers model's own norm and head."""
    model: Any = tiny_model.bridge.original_model
    W_dec = SparseAutoencoder.load(setup.run / "sae").W_dec.detach()
    d_model = W_dec.shape[1]
    with torch.no_grad():
        effect = model.lm_head(model.model.norm(W_dec * d_model**0.5))
    effect -= effect.mean(-1, keepdim=True)
    for number in range(N_LATENTS):
        feature = index.feature(number)
        assert feature.positive_logits is not None and feature.negative_logits is not None
        order = effect[number].argsort(descending=True)
        assert [t.token for t in feature.positive_logits] == order[:3].tolist()
        assert [t.token for t in feature.negative_logits] == order[-3:].flip(0).tolist()
        assert feature.positive_logits[0].logit == pytest.approx(
            effect[number].max().item(), rel=1e-4
        )
        assert feature.negative_logits[0].logit == pytest.approx(
            effect[number].min().item(), rel=1e-4
        )
        assert feature.positive_logits[0].text == index.vocabulary.texts([int(order[0])])[0]


def test_logits_can_be_left_out(
    setup: Setup, tiny_model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = copied(setup, tmp_path)
    build_index(setup.config(logits=0), model=tiny_model)
    given = contents(setup.run / "features")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the language model must not be loaded")

    monkeypatch.setattr(LanguageModel, "load", refuse)
    build_index(setup.config(logits=0))
    assert contents(setup.run / "features") == given
    feature = FeatureIndex.of_run(tmp_path).feature(0)
    assert feature.positive_logits is None and feature.negative_logits is None


def test_outliers_are_counted(
    setup: Setup, dense: Dense, tmp_path: Path, tiny_model: LanguageModel
) -> None:
    setup = copied(setup, tmp_path)
    values = build_index(setup.config(logits=0), model=tiny_model)
    assert values["rows"] == dense.counted
    assert values["outliers"] == len(dense.rows) - dense.counted
    values = build_index(setup.config(logits=0, outlier_norm=0.0), model=tiny_model)
    assert (values["rows"], values["outliers"]) == (len(dense.rows), 0)


def test_rows_limit_the_shards(setup: Setup, tmp_path: Path, tiny_model: LanguageModel) -> None:
    setup = copied(setup, tmp_path)
    shards = ActivationCache(setup.cache).manifest.shards
    values = build_index(setup.config(rows=shards[0].rows + 1), model=tiny_model)
    assert values["rows"] + values["outliers"] == shards[0].rows + shards[1].rows
    done: list[tuple[int, int]] = []
    values = build_index(
        setup.config(rows=1), model=tiny_model, report=lambda d, total, _: done.append((d, total))
    )
    assert values["rows"] + values["outliers"] == shards[0].rows and done[-1] == (
        shards[0].rows,
        shards[0].rows,
    )
    assert values["never_fired"] == sum(
        FeatureIndex(setup.run).feature(n).fired == 0 for n in range(N_LATENTS)
    )
