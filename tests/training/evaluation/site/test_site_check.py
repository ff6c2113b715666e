"""Massive activations and outlier rows: found where they were planted, and nowhere else."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsteer.sae import LanguageModel, SparseAutoencoder
from sparsteer.sae.common.errors import InputError
from sparsteer.sae.config import TopKConfig
from sparsteer.training import initialize_from_rows
from sparsteer.training.data.cache.reader import ActivationCache
from sparsteer.training.evaluation.site.massive_activations import (
    geometry,
    largest_of_rows,
    median_magnitude,
)
from sparsteer.training.evaluation.site.site_advice import recommendation
from sparsteer.training.evaluation.site.site_check import check_site, measure_site
from sparsteer.training.evaluation.site.site_check_config import SiteCheckConfig
from sparsteer.training.evaluation.site.site_findings import SiteFindings
from sparsteer.training.evaluation.site.site_rows import (
    CONTENT,
    KINDS,
    SiteRows,
    rows_of_cache,
    rows_of_model,
)

from ....tiny_runs import SITE, cache_of_texts

CONTEXTS, LENGTH, WIDTH = 60, 12, 96
TOKEN = 77
CONFIG = SiteCheckConfig(model="tiny", dataset="made up")
TEXTS = ["abc de", "fgh ijk abc defg hij", "jj", "a b c d e f g h i j a b c d e f g"] * 4


def made_up(change: Callable[[SiteRows], object] = lambda rows: None) -> SiteRows:
    """Normal rows of 60 contexts of BOS, a first token and ten more, changed in place."""
    generator = torch.Generator().manual_seed(3)
    position = torch.arange(LENGTH).repeat(CONTEXTS)
    tokens = torch.randint(100, 110, (len(position),), generator=generator)
    kind = torch.full_like(position, CONTENT)
    for column, name in enumerate(("bos", "first_token")):
        kind[position == column] = KINDS.index(name)
    rows = SiteRows(
        model="tiny",
        dataset="made up",
        site=SITE,
        context_length=LENGTH,
        acts=torch.randn(len(position), WIDTH, generator=generator),
        tokens=tokens,
        position=position,
        kind=kind,
        dtype=None,
        text_of=lambda token: f"<{token}>",
    )
    change(rows)
    return rows


def found(
    change: Callable[[SiteRows], object] = lambda rows: None, **settings: Any
) -> SiteFindings:
    return measure_site(made_up(change), dataclasses.replace(CONFIG, **settings))


def plant_spikes(rows: SiteRows) -> None:
    """A massive value in coordinate 5 of eight rows, all of one token, six at position 3."""
    third, fifth = (rows.position == 3).nonzero()[:6, 0], (rows.position == 5).nonzero()[:2, 0]
    spiked = torch.cat([third, fifth])
    rows.tokens[spiked] = TOKEN
    rows.acts[spiked, 5] = -300.0


def plant_sinks(rows: SiteRows) -> None:
    """A massive value in coordinate 7 of what training leaves out."""
    rows.acts[rows.kind != CONTENT, 7] = 2000.0


def plant_constant(rows: SiteRows) -> None:
    """Coordinate 9 is large in every row, and varies as the others."""
    rows.acts[:, 9] += 200.0


def test_normal_rows_have_nothing_massive() -> None:
    x = torch.randn(2000, 500)
    assert 5 < float(largest_of_rows(x).max()) / median_magnitude(x) < 9
    nothing = found()
    assert nothing.massive_coordinates == nothing.outliers.rows == 0
    assert not any(one.massive or one.carriers.rows for one in nothing.coordinates)
    assert set(nothing.geometry) == {"content", "excluded"}
    assert nothing.geometry["excluded"].scale_ratio == pytest.approx(1, abs=0.02)
    harmless, no_row, no_value = recommendation(nothing)
    assert harmless.startswith("BOS and the first token of a context: at most")
    assert "nothing more to leave out" in no_row and "is massive" in no_value


def test_planted_spikes_are_found_where_they_are() -> None:
    spiked = found(plant_spikes)
    assert spiked.massive_coordinates == 1
    first, second, *_ = spiked.coordinates
    assert (first.coordinate, first.massive, second.massive) == (5, True, False)
    assert first.largest == 300 and first.ratio == pytest.approx(300 / spiked.median_magnitude)
    for carriers in (first.carriers, spiked.outliers.carriers):
        assert (carriers.rows, carriers.kinds) == (8, {"content": 8})
        assert [(p.position, p.rows, p.of) for p in carriers.positions] == [(3, 6, 60), (5, 2, 60)]
        (token,) = carriers.tokens
        assert (token.token, token.text, token.rows, token.of) == (TOKEN, f"<{TOKEN}>", 8, 8)
    assert spiked.kinds["content"].massive_rows == 8
    assert spiked.outliers.fraction == 8 / 600
    squares = made_up(plant_spikes).acts[made_up().is_content].double().square()
    assert first.share == pytest.approx(float(squares[:, 5].sum() / squares.sum()))
    assert first.share_centered == pytest.approx(first.share, rel=0.01)
    assert spiked.geometry["outliers"].rows == 592
    # 8 x 300^2 beside 600 x 96: the scale is what these rows make of it.
    expected = (1 + 8 * 300**2 / (600 * WIDTH)) ** 0.5
    assert spiked.geometry["outliers"].scale_ratio == pytest.approx(expected, rel=0.02)
    assert spiked.geometry["massive_coordinates"].coordinates == WIDTH - 1
    text = " ".join(recommendation(spiked))
    assert "8 rows of 600 that training reads are above 5 times the median norm" in text
    assert "position 3 (6) and 5 (2) and at '<77>' (8)" in text
    assert "--clip-norm" in text and "--context-length" in text
    assert "coordinate 5 (9" in text and "prefer another site" in text


def test_sinks_are_told_from_what_training_reads() -> None:
    sinks = found(plant_sinks)
    (first, *_) = sinks.coordinates
    assert (first.coordinate, first.massive) == (7, True)
    assert first.ratio < 10 and first.ratio_excluded == 2000 / sinks.median_magnitude
    assert first.carriers.kinds == {"bos": 60, "first_token": 60}
    assert [p.position for p in first.carriers.positions] == [0, 1]
    assert sinks.kinds["bos"].massive_rows == 60 and sinks.kinds["content"].massive_rows == 0
    assert sinks.kinds["bos"].ratio == pytest.approx(2000 / WIDTH**0.5, rel=0.05)
    assert sinks.outliers.rows == 0
    without, with_them = found().geometry["content"], sinks.geometry["excluded"]
    assert sinks.geometry["content"] == without
    assert with_them.scale_ratio < 0.02
    leave_out, no_row, _ = recommendation(sinks)
    assert leave_out.startswith("leave out BOS (up to ") and "sparsteer cache" in leave_out
    assert "nothing more to leave out" in no_row


def test_what_is_large_in_every_row_is_the_centers() -> None:
    constant = found(plant_constant)
    (first, *_) = constant.coordinates
    assert first.coordinate == 9 and first.carriers.rows == len(made_up().tokens)
    assert first.mean == pytest.approx(200, abs=0.5) and first.spread == pytest.approx(1, abs=0.1)
    assert first.share > 0.99 and first.share_centered < 0.03
    content = constant.geometry["content"]
    assert content.mean_cosine > 0.99 and abs(content.mean_cosine_centered) < 0.01
    text = " ".join(recommendation(constant))
    assert "coordinate 9 (mean 200, spread" in text and "nothing to leave out" in text
    assert "prefer another site" not in text and "leave out BOS" not in text


def test_storing_what_varies_little_beside_a_constant_is_warned_of() -> None:
    def plant(rows: SiteRows) -> None:
        rows.acts[:, 9] += 70_000.0

    text = " ".join(recommendation(found(plant)))
    assert "storing rows in bfloat16 would add" in text and "float16 does not hold" in text


def test_no_unit_changes_what_is_found() -> None:
    def in_other_units(rows: SiteRows) -> None:
        plant_spikes(rows)
        rows.acts.mul_(16.0)

    one, other = found(plant_spikes), found(in_other_units)
    assert recommendation(one) == recommendation(other)
    assert [c.ratio for c in one.coordinates] == [c.ratio for c in other.coordinates]
    assert one.norm_quantiles == other.norm_quantiles
    scales = (one.geometry["content"].input_scale, other.geometry["content"].input_scale)
    assert scales[0] == pytest.approx(16 * scales[1])


def test_the_scale_is_the_one_that_training_estimates() -> None:
    x = made_up(plant_spikes).acts + 3
    sae = SparseAutoencoder(TopKConfig(WIDTH, 128, 4), seed=0)
    initialize_from_rows(sae, x)
    assert geometry(x).input_scale == pytest.approx(float(sae.input_scale), rel=1e-6)


def test_mean_cosine_is_over_pairs() -> None:
    x = torch.randn(50, 6) + 1

    def over_pairs(rows: Tensor) -> float:
        unit = torch.nn.functional.normalize(rows.double(), dim=-1)
        cosines = unit @ unit.T
        return float(cosines[~torch.eye(len(rows), dtype=torch.bool)].mean())

    assert geometry(x).mean_cosine == pytest.approx(over_pairs(x))
    assert geometry(x).mean_cosine_centered < geometry(x).mean_cosine


def test_no_more_is_listed_than_asked_for() -> None:
    few = found(plant_spikes, top=1)
    assert len(few.coordinates) == len(few.coordinates[0].carriers.positions) == 1
    assert few.outliers.carriers.rows == 8
    assert found(plant_spikes, massive_ratio=1e4).massive_coordinates == 0
    assert found(plant_spikes, outlier_norm=100.0).outliers.rows == 0


def test_rows_without_scale_are_refused() -> None:
    with pytest.raises(InputError, match="600 rows at the site are all alike"):
        found(lambda rows: rows.acts.copy_(rows.acts[:1].expand_as(rows.acts)))
    with pytest.raises(InputError, match="half of the values at the site are 0"):
        found(lambda rows: rows.acts[:, : WIDTH - 10].zero_())


def test_reading_a_model_gives_the_rows_of_a_cache(
    tiny_model: LanguageModel, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"context_length": 16, "tokens": 10_000, "batch_size": 3}
    cache = cache_of_texts(
        tmp_path, tiny_model, TEXTS, dtype="float32", held_out_fraction=0.0, **settings
    )
    config = SiteCheckConfig(
        model=tiny_model.name, dataset=str(tmp_path / "corpus.jsonl"), site=SITE, **settings
    )
    read = rows_of_model(config, model=tiny_model)
    stored = rows_of_cache(SiteCheckConfig(cache=str(cache), tokens=10_000))
    assert torch.equal(read.acts[read.is_content], stored.acts)
    assert torch.equal(read.tokens[read.is_content], stored.tokens)
    assert torch.equal(read.position[read.is_content], stored.position)
    excluded = ActivationCache(cache).manifest.excluded
    for number, name in enumerate(KINDS[:CONTENT]):
        assert int((read.kind == number).sum()) == excluded[name] > 0
    assert read.text_of is not None and read.text_of(int(read.tokens[0])) == "<|bos|>"
    few = rows_of_model(dataclasses.replace(config, tokens=20), model=tiny_model)
    assert 20 <= int(few.is_content.sum()) < 20 + 16
    torch.testing.assert_close(few.acts, read.acts[: len(few.acts)])


def test_what_is_planted_in_a_model_is_found(tiny_model: LanguageModel, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))

    def plant(acts: Tensor) -> Tensor:
        changed = acts.clone()
        changed[:, :2, 11] = 5e4
        changed[:, 9, 4] = 2e4
        return changed

    config = SiteCheckConfig(
        model=tiny_model.name, dataset=str(corpus), site=SITE, context_length=16
    )
    seen: list[int] = []
    with tiny_model.site(SITE).write(plant):
        shown = check_site(config, model=tiny_model, progress=lambda done, total: seen.append(done))
    sinks, spike, *others = shown.coordinates
    assert (sinks.coordinate, spike.coordinate, shown.massive_coordinates) == (11, 4, 2)
    assert [p.position for p in sinks.carriers.positions] == [0, 1]
    assert [p.position for p in spike.carriers.positions] == [9]
    assert not any(one.massive for one in others)
    assert sinks.carriers.rows == 2 * shown.kinds["bos"].rows
    assert "content" not in sinks.carriers.kinds
    assert {p.position for p in shown.outliers.carriers.positions} == {9}
    assert seen == sorted(seen) and seen[-1] == shown.rows


def test_a_cache_does_not_tell_all(write_cache: Callable[..., Path], tmp_path: Path) -> None:
    folder = write_cache(tmp_path / "cache")
    config = SiteCheckConfig(cache=str(folder), tokens=1000)
    shown = check_site(config)
    assert (shown.rows, set(shown.kinds), len(shown.unknown)) == (1000, {"content"}, 2)
    assert set(shown.rounding) == {"float32"}
    assert shown.coordinates[0].ratio_excluded is None
    cache = ActivationCache(folder)
    everything = rows_of_cache(dataclasses.replace(config, tokens=10**6))
    assert len(everything.acts) == cache.n_train
    assert int(everything.position.min()) == 2 and everything.text_of is None
    with pytest.raises(InputError, match="not finite"):
        check_site(SiteCheckConfig(cache=str(write_cache(tmp_path / "bad", bad_row=True))))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "model is missing; give --model and --dataset to read, or"),
        ({"model": "m"}, "dataset is missing"),
        ({"cache": "c", "model": "m"}, "model is 'm', but the activations of c have been read"),
        ({"cache": "c", "batch_size": 2}, "batch_size is 2, but the activations of c have"),
        ({"cache": "c", "tokens": 1}, "tokens is 1, but must be a whole number of at least 2"),
        ({"cache": "c", "top": 0}, "top is 0"),
        ({"cache": "c", "massive_ratio": 0.0}, "massive_ratio is 0.0, but must be above 0"),
        ({"cache": "c", "outlier_norm": float("nan")}, "outlier_norm is nan"),
        ({"model": "m", "dataset": "d", "context_length": 2}, "context_length is 2"),
        ({"model": "m", "dataset": " "}, "dataset is empty"),
        ({"model": "m", "dataset": "d", "device": "cpu", "device_map": "auto"}, "leave one out"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as error:
        SiteCheckConfig(**settings)
    assert sentence in str(error.value)
