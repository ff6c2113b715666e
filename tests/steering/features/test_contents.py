"""Levels, near misses, co-activation and token effects against dense float64 of the whole cache."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from sparsteer.kernels.codes import Codes
from sparsteer.sae import JumpReLUConfig, LanguageModel, Origin, SparseAutoencoder
from sparsteer.sae.config import BatchTopKConfig, GatedConfig, ReLUConfig, SAEConfig, TopKConfig
from sparsteer.steering.features import FeatureIndex, build_index
from sparsteer.steering.features.coactivation import FIRINGS, FiringRows, coactivating
from sparsteer.steering.features.collect import Collector
from sparsteer.steering.features.quantiles import SAMPLED_FOR_EACH
from sparsteer.steering.features.windows import SortedCodes

from ...tiny_runs import SITE
from .conftest import BEFORE, N_LATENTS, Dense, Setup, assert_is_row, copied, window_of

LEVELS, OF_LEVEL, NEAR, TOGETHER = 3, 2, 4, 4


def test_levels(index: FeatureIndex, dense: Dense, setup: Setup, tiny_model: LanguageModel) -> None:
    for number in range(N_LATENTS):
        feature = index.feature(number)
        values = dense.codes_NF[:, number].numpy()
        fired = values[values > 0]
        below = 0
        levels = feature.quantiles[::-1]
        assert sum(level.fraction for level in levels) == pytest.approx(float(len(fired) > 0))
        for place, level in enumerate(levels):
            is_last = place == len(levels) - 1
            inside = (fired >= level.low) & ((fired < level.high) | is_last)
            assert level.fraction == pytest.approx(inside.sum() / len(fired))
            assert len(level.examples) <= OF_LEVEL
            activations = [example.activation for example in level.examples]
            assert activations == sorted(activations, reverse=True)
            windows = {(example.tokens, example.peak) for example in level.examples}
            assert len(windows) == len(level.examples)
            for example in level.examples:
                assert level.low <= example.activation <= level.high
                assert_is_row(example, number, example.row, dense, setup, tiny_model)
            below += inside.sum()
        if len(levels) == LEVELS:
            assert below == len(fired)
            assert levels[-1].high == feature.max_activation and levels[0].low == 0


@pytest.mark.slow
def test_of_all_firings_each_window_is_shown_once(
    setup: Setup, dense: Dense, tiny_model: LanguageModel, tmp_path: Path
) -> None:
    setup = copied(setup, tmp_path)
    build_index(setup.config(quantile_examples=400, logits=0), model=tiny_model)
    index = FeatureIndex(tmp_path)
    windows = [window_of(row, dense, setup, tiny_model) for row in dense.rows]
    folded = 0
    for number in range(0, N_LATENTS, 3):
        values = dense.codes_NF[:, number].numpy()
        for level in index.feature(number).quantiles:
            is_last = level.high == index.max_activation(number)
            inside = (values >= level.low) & (values > 0) & ((values < level.high) | is_last)
            places = [windows[row] for row in np.flatnonzero(inside)]
            counts = Counter((tuple(tokens), peak) for tokens, peak in places)
            found = {(e.tokens, e.peak): e.duplicates + 1 for e in level.examples}
            if (values > 0).sum() > SAMPLED_FOR_EACH * LEVELS * 400:  # then a sample of them
                assert all(n <= counts[window] for window, n in found.items())
                continue
            if len(counts) > 400:
                assert len(found) == 400 and found.items() <= counts.items()
                continue
            assert found == counts
            folded += sum(found.values()) - len(found)
    assert folded > 20


def test_levels_have_about_equal_parts(index: FeatureIndex, dense: Dense) -> None:
    fired = (dense.codes_NF > 0).sum(0)
    often = [n for n in range(N_LATENTS) if fired[n] > 60]
    assert often
    for number in often:
        for level in index.feature(number).quantiles:
            assert 0.15 < level.fraction < 0.5


def test_near_misses(
    index: FeatureIndex, dense: Dense, setup: Setup, tiny_model: LanguageModel
) -> None:
    missed_NF = dense.pre_NF.masked_fill(dense.codes_NF > 0, -torch.inf)
    found = 0
    for number in range(N_LATENTS):
        best: dict[tuple[str, int], tuple[float, int]] = {}
        for row, value in enumerate(missed_NF[:, number].numpy().tolist()):
            context = dense.rows[row].context
            if value > 0 and (context not in best or value > best[context][0]):
                best[context] = (value, row)
        expected: dict[tuple[tuple[int, ...], int], float] = {}
        for value, row in sorted(best.values(), reverse=True):
            window, peak = window_of(dense.rows[row], dense, setup, tiny_model)
            expected.setdefault((tuple(window), peak), value)
        near = index.feature(number).near_misses
        scores = [example.pre_activation for example in near]
        assert scores == pytest.approx(list(expected.values())[:NEAR], rel=1e-4)
        assert len({(example.tokens, example.peak) for example in near}) == len(near)
        for example in near:
            found += 1
            assert example.activation == 0
            assert example.pre_activation == pytest.approx(
                missed_NF[example.row, number].item(), rel=1e-4
            )
            assert_is_row(example, number, example.row, dense, setup, tiny_model)
    keeps_all = not (missed_NF > 0).any()
    assert (found == 0) == keeps_all and (found > N_LATENTS or keeps_all)


def test_near_misses_can_be_left_out(
    setup: Setup, tiny_model: LanguageModel, tmp_path: Path
) -> None:
    setup = copied(setup, tmp_path)
    build_index(
        setup.config(near_misses=0, quantiles=0, coactivating=0, logits=0), model=tiny_model
    )
    feature = FeatureIndex(tmp_path).feature(3)
    assert feature.near_misses == feature.coactivating == feature.quantiles == ()
    assert feature.top and feature.token_explained is not None
    names = {path.name.split("_")[0] for path in (tmp_path / "features").iterdir()}
    assert not names & {"near", "quantile", "coactivating"}


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (ReLUConfig(32, 24), "relu keeps every positive pre-activation"),
        (GatedConfig(32, 24), "what gated compares is not what it keeps"),
        (BatchTopKConfig(32, 24, 4), ""),
        (JumpReLUConfig(32, 24), ""),
    ],
    ids=lambda value: getattr(value, "activation", ""),
)
def test_which_activations_have_near_misses(
    setup: Setup, tiny_model: LanguageModel, tmp_path: Path, config: SAEConfig, why: str
) -> None:
    origin = Origin(model=tiny_model.name, site=SITE, weights_hash=tiny_model.weights_hash)
    sae = SparseAutoencoder(config, seed=2, origin=origin)
    if config.activation == "batch_topk":
        sae.get_buffer("threshold").fill_(1.3)
    sae.save(tmp_path / "sae")
    moved = Setup(tmp_path, setup.cache, setup.texts)
    values = build_index(moved.config(logits=0), model=tiny_model)
    assert values["missing"].get("near_misses", "") == why
    index = FeatureIndex.of_run(tmp_path)
    near = [example for n in range(24) for example in index.feature(n).near_misses]
    assert bool(near) == (not why)
    for example in near:
        assert example.pre_activation is not None
        assert 0 < example.pre_activation < (1.3 if config.activation == "batch_topk" else 1.01)


def dense_pairs(fires_NF: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Fractions together and Jaccard indices of all pairs; 0 of a latent with itself."""
    fires = fires_NF.double().numpy()
    both, fired = fires.T @ fires, fires.sum(0)
    np.fill_diagonal(both, 0)
    together = both / fired.clip(min=1)[:, None]
    return together, both / (fired[:, None] + fired[None] - both).clip(min=1)


def test_coactivating(index: FeatureIndex, dense: Dense) -> None:
    together, jaccard = dense_pairs(dense.codes_NF > 0)
    exact = 0
    for number in range(N_LATENTS):
        feature = index.feature(number)
        best = np.sort(jaccard[number])[::-1][:TOGETHER]
        if feature.fired > FIRINGS:
            for other in feature.coactivating:
                assert abs(other.together - together[number, other.feature]) < 0.15
            continue
        exact += 1
        assert [o.jaccard for o in feature.coactivating] == pytest.approx(best[best > 0], rel=1e-5)
        for other in feature.coactivating:
            assert other.together == pytest.approx(together[number, other.feature], rel=1e-5)
            assert other.jaccard == pytest.approx(jaccard[number, other.feature], rel=1e-5)
    assert exact


@pytest.mark.parametrize("n_best", [3, 60])
def test_pairs_in_blocks(monkeypatch: pytest.MonkeyPatch, n_best: int) -> None:
    """Several shards, blocks of five latents, a few pairs at a time; rows where nothing fires."""
    from sparsteer.steering.features import coactivation

    monkeypatch.setattr(coactivation, "_COUNTS_AT_ONCE", 5 * 53)
    monkeypatch.setattr(coactivation, "_PAIRS_AT_ONCE", 7)
    fires_NF = torch.rand(150, 53) < torch.linspace(0.0, 0.5, 53)
    fires_NF[[3, 149]] = False
    shards = written(fires_NF, (0, 40, 41, 150))
    found = coactivating(
        lambda shard, name: shards[shard][name], 3, fires_NF.sum(0).numpy(), n_best, 0
    )
    together, jaccard = dense_pairs(fires_NF)
    assert found.numbers.shape == (53, min(n_best, 52))
    for number in range(53):
        used = found.numbers[number] >= 0
        others = found.numbers[number][used]
        best = np.sort(jaccard[number])[::-1][:n_best]
        assert found.jaccard[number][used] == pytest.approx(best[best > 0], rel=1e-5)
        assert found.jaccard[number][used] == pytest.approx(jaccard[number, others], rel=1e-5)
        assert found.together[number][used] == pytest.approx(together[number, others], rel=1e-5)
        assert number not in others and not found.together[number][~used].any()


def written(fires_NF: torch.Tensor, ends: tuple[int, ...]) -> list[dict[str, np.ndarray]]:
    firing = FiringRows(len(fires_NF), seed=0)
    shards: list[dict[str, np.ndarray]] = []
    for begin, end in pairwise(ends):
        values, indices = fires_NF[begin:end].float().sort(dim=1, descending=True)
        codes = SortedCodes([(torch.arange(end - begin), Codes(indices, values))], end - begin)
        firing.add(codes, begin)
        shards.append(firing.take_shard())
    return shards


def test_a_sample_of_firings_is_near_the_whole() -> None:
    fires_NF = torch.rand(4000, 12) < torch.linspace(0.05, 0.9, 12)
    fires_NF[:, 3] = fires_NF[:, 9] & (torch.rand(4000) < 0.9)
    shards = written(fires_NF, (0, 1500, 4000))
    fired = fires_NF.sum(0).numpy()
    found = coactivating(lambda shard, name: shards[shard][name], 2, fired, 11, 0, firings=250)
    together, jaccard = dense_pairs(fires_NF)
    for number in range(12):
        others = found.numbers[number]
        errors = found.together[number] - together[number, others]
        assert np.abs(errors).max() < 4 * 0.5 / 250**0.5
        assert np.abs(found.jaccard[number] - jaccard[number, others]).max() < 0.15
    assert found.numbers[9, 0] == 3


def test_only_some_rows_are_written_down_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    from sparsteer.steering.features import coactivation

    fires_NF = torch.rand(3000, 10) < 0.4
    monkeypatch.setattr(coactivation, "_ENTRIES", 4000)
    shards = written(fires_NF, (0, 1000, 2000, 3000))
    rows = np.concatenate([shard["rows"] for shard in shards])
    assert 3000 / 4 * 0.7 < len(rows) < 3000 / 3 * 1.3
    for shard in shards:
        for place, row in enumerate(shard["rows"]):
            begin, end = shard["row_starts"][place : place + 2]
            expected = np.flatnonzero(fires_NF[row].numpy()).tolist()
            assert sorted(shard["row_latents"][begin:end]) == expected
    fired = fires_NF.sum(0).numpy()
    found = coactivating(lambda shard, name: shards[shard][name], 3, fired, 9, 0)
    together, _ = dense_pairs(fires_NF)
    for number in range(10):
        assert np.abs(found.together[number] - together[number, found.numbers[number]]).max() < 0.2


def test_sinks_count_as_special(index: FeatureIndex, dense: Dense) -> None:
    outlying = (dense.all_codes_NF[~dense.counts_N] > 0).sum(0)
    fired = (dense.codes_NF > 0).sum(0)
    assert int(outlying.max()) > 3
    for number in range(N_LATENTS):
        expected = outlying[number] / max(1, int(fired[number] + outlying[number]))
        assert index.feature(number).special_fraction == pytest.approx(float(expected), rel=1e-6)


def test_special_tokens_are_counted(setup: Setup, tiny_model: LanguageModel, dense: Dense) -> None:
    """Rows of a few usual tokens, told to be special."""
    from sparsteer.steering.features.windows import chunks
    from sparsteer.training.data.cache.reader import ActivationCache

    ids = np.unique(dense.tokens_N.numpy())[:4].tolist()
    sae = SparseAutoencoder.load(setup.run / "sae")
    cache = ActivationCache(setup.cache)
    collector = Collector(sae, setup.config(), special_ids=ids)
    shards = list(cache.manifest.shards)
    for chunk in chunks(cache, shards, SITE, rows_at_once=200, bound=1e9, device="cpu"):
        collector.add(chunk)
    is_special = torch.isin(dense.tokens_N, torch.tensor(ids))
    expected = (dense.all_codes_NF[is_special] > 0).sum(0)
    assert torch.equal(collector.special, expected) and int(expected.max()) > 3
    assert not collector.sinks.any()


def omega_squared(values: np.ndarray, tokens: np.ndarray) -> float:
    """As textbooks have it, group by group."""
    groups = [values[tokens == token] for token in np.unique(tokens)]
    mean = values.mean()
    between = sum(len(group) * (group.mean() - mean) ** 2 for group in groups)
    within = sum(((group - group.mean()) ** 2).sum() for group in groups)
    mean_within = within / (len(values) - len(groups))
    total = between + within
    if total + mean_within == 0:
        return 0.0
    return max(0.0, (between - (len(groups) - 1) * mean_within) / (total + mean_within))


def test_token_explained(index: FeatureIndex, dense: Dense) -> None:
    tokens = dense.tokens_N[dense.counts_N].numpy()
    explained: list[float] = []
    for number in range(N_LATENTS):
        values = dense.codes_NF[dense.counts_N, number].double().numpy()
        expected = omega_squared(values, tokens)
        found = index.feature(number).token_explained
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)
        explained.append(expected)
    assert max(explained) > 0.2 and min(explained) == 0


def test_folded_windows_are_counted(
    index: FeatureIndex, dense: Dense, setup: Setup, tiny_model: LanguageModel
) -> None:
    windows = [tuple(window_of(row, dense, setup, tiny_model)[0]) for row in dense.rows]
    folded = 0
    for number in range(N_LATENTS):
        fires = dense.codes_NF[:, number] > 0
        contexts: dict[tuple[int, ...], set[tuple[str, int]]] = {}
        for row in np.flatnonzero(fires.numpy()).tolist():
            contexts.setdefault(windows[row], set()).add(dense.rows[row].context)
        for example in index.feature(number).top:
            assert 0 <= example.duplicates < len(contexts[example.tokens])
            folded += example.duplicates
    assert folded > 20


def test_a_transcoder_has_examples_by_what_it_reads(
    setup: Setup, dense: Dense, tiny_model: LanguageModel, tmp_path: Path
) -> None:
    origin = Origin(
        model=tiny_model.name,
        site=SITE,
        weights_hash=tiny_model.weights_hash,
        target_site="blocks.2.hook_mlp_out",
    )
    config = TopKConfig(tiny_model.d_model, 24, 4, transcoder=True)
    sae = SparseAutoencoder(config, seed=3, origin=origin)
    sae.save(tmp_path / "sae")
    moved = Setup(tmp_path, setup.cache, setup.texts)
    values = build_index(moved.config(), model=tiny_model)
    assert values["site"] == SITE
    index = FeatureIndex.of_run(tmp_path)
    from sparsteer.training.data.cache.reader import ActivationCache

    cache = ActivationCache(setup.cache)
    acts_ND = torch.cat([cache.shard(e).stored(SITE).restored() for e in cache.manifest.shards])
    codes_NF = sae.encode(acts_ND).dense(24).detach() * dense.counts_N[:, None]
    for number in range(24):
        feature = index.feature(number)
        assert feature.max_activation == pytest.approx(codes_NF[:, number].max().item(), rel=1e-5)
        for example in feature.top:
            assert example.activation == pytest.approx(
                codes_NF[example.row, number].item(), rel=1e-5
            )
            assert example.peak <= BEFORE
