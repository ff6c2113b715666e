"""Scores of directions and of layers, and the published one that chooses for another reason."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sparsteer.sae.common.errors import InputError
from sparsteer.steering.fitting.examples import held_out_groups
from sparsteer.steering.fitting.methods.ids import fit_ids
from sparsteer.steering.fitting.methods.mean_difference import fit_mean_difference
from sparsteer.steering.fitting.reading import ReadExamples
from sparsteer.steering.fitting.separation import (
    auroc,
    d_prime,
    published_layer_score,
    separation,
)
from sparsteer.steering.fitting.site_choice import best_site, compared_sites, finite
from sparsteer.steering.fitting.sources import pairs_of, sets_of

from .conftest import randn, sets, settings

SIDES = torch.arange(24) < 10


def test_auroc_counts_the_pairs() -> None:
    scores_N = (2 * randn(24)).round()
    wins = [
        (float(p) > float(n)) + (float(p) == float(n)) / 2
        for p in scores_N[SIDES]
        for n in scores_N[~SIDES]
    ]
    assert auroc(scores_N, SIDES) == pytest.approx(sum(wins) / len(wins), abs=1e-12)
    assert auroc(-scores_N, SIDES) == pytest.approx(1 - sum(wins) / len(wins), abs=1e-12)
    assert math.isnan(auroc(scores_N, torch.ones(24, dtype=torch.bool)))


def test_d_prime_is_in_units_of_the_spread() -> None:
    scores_N = torch.cat([randn(4000) * 2 + 3, randn(6000, seed=1) * 2])
    sides_N = torch.arange(10_000) < 4000
    assert d_prime(scores_N, sides_N) == pytest.approx(1.5, abs=0.06)
    assert d_prime(50 * scores_N + 7, sides_N) == pytest.approx(d_prime(scores_N, sides_N))
    assert d_prime(sides_N.double(), sides_N) == math.inf
    assert d_prime(torch.zeros(10_000), sides_N) == 0
    assert math.isnan(d_prime(scores_N[:2], torch.tensor([True, False])))


def test_a_side_without_texts_has_no_separation() -> None:
    assert separation(randn(3), torch.zeros(3, dtype=torch.bool)) is None
    found = separation(torch.tensor([2.0, 1.0]), torch.tensor([True, False]))
    assert found == {"auroc": 1.0, "n_positive": 1, "n_negative": 1}


def read_of(layers: dict[str, tuple[Tensor, Tensor]]) -> ReadExamples:
    """Rows of positive and negative texts at several sites, all to be fitted to."""
    by_site = {name: sets(*sides) for name, sides in layers.items()}
    first = next(iter(by_site.values()))
    positive = [f"p{n}" for n in range(int(first.scores_N.sum()))]
    negative = [f"n{n}" for n in range(len(first) - len(positive))]
    return ReadExamples(
        source=sets_of(positive, negative),
        by_site=by_site,
        is_held_out_N=torch.zeros(len(first), dtype=torch.bool),
        texts_N=torch.arange(len(first)),
        n_tokens=99,
        n_texts=len(first),
        without_content=0,
        truncated=0,
    )


def layers(factor: float = 1.0) -> dict[str, tuple[Tensor, Tensor]]:
    """Three layers; a contrast at the second alone, a massive coordinate at the third."""
    found = {str(n): (randn(20, 8, seed=2 * n), randn(20, 8, seed=2 * n + 1)) for n in range(3)}
    found["1"] = (found["1"][0] + 2, found["1"][1])
    found["2"] = tuple(rows + 30 * torch.eye(8)[0] for rows in found["2"])  # pyright: ignore[reportArgumentType] - two
    found["0"] = tuple(factor * rows for rows in found["0"])  # pyright: ignore[reportArgumentType] - two
    return found


def test_the_layer_with_the_contrast_is_chosen() -> None:
    rows = compared_sites(read_of(layers()), fit_mean_difference, settings())
    assert [row["site"] for row in rows] == ["0", "1", "2"]
    assert best_site(rows) == "1"
    assert rows[1]["auroc"] > 0.95 and rows[1]["d_prime"] > 2
    assert all(abs(rows[n]["auroc"] - 0.5) < 0.3 for n in (0, 2))


def test_the_published_score_chooses_by_size_and_not_by_contrast() -> None:
    """A defect of the published code: it takes the layer with a massive coordinate, and another one
    where activations are multiplied, of which AUROC and d' know nothing."""
    before = compared_sites(read_of(layers()), fit_mean_difference, settings())
    after = compared_sites(read_of(layers(factor=100.0)), fit_mean_difference, settings())

    def published(rows: list[dict[str, float]]) -> list[float]:
        return [row["published_layer_score"] for row in rows]

    assert max(published(before)) == published(before)[2]
    assert published(after)[0] > published(before)[0] + 0.02
    for one, other in zip(before, after, strict=True):
        for name in ("auroc", "d_prime"):
            assert one[name] == pytest.approx(other[name], abs=1e-9)


def test_the_published_score_of_equal_sets_is_not_0() -> None:
    rows_ND = randn(15, 6)
    p_ND = rows_ND.softmax(-1)
    expected = float((p_ND * p_ND.log() - p_ND.square()).mean())
    assert published_layer_score(rows_ND, rows_ND) == pytest.approx(expected)
    assert abs(expected) > 0.1
    same = torch.cat([rows_ND.sum(-1)] * 2)
    assert auroc(same, torch.arange(30) < 15) == 0.5
    other_ND = randn(15, 6, seed=1)
    kl_div = torch.nn.functional.kl_div
    mean_ND = (p_ND + other_ND.softmax(-1)) / 2
    literal = (
        kl_div(p_ND, mean_ND, reduction="none")
        + kl_div(other_ND.softmax(-1), mean_ND, reduction="none")
    ).mean() / 2
    assert published_layer_score(rows_ND, other_ND) == pytest.approx(float(literal))


def test_sites_cannot_be_compared_with_too_few_texts_or_without_scores() -> None:
    few = {name: (p[:1], n) for name, (p, n) in layers().items()}
    with pytest.raises(InputError, match="too few texts to compare them"):
        compared_sites(read_of(few), fit_mean_difference, settings())
    with pytest.raises(InputError, match="ids does not tell texts apart"):
        compared_sites(read_of(layers()), fit_ids, settings("ids"))


def test_infinite_figures_are_left_out_of_files() -> None:
    row = {"site": "a", "d_prime": math.inf, "auroc": 1.0}
    assert finite(row) == {**row, "d_prime": None}


def test_what_is_held_out_depends_on_texts_alone() -> None:
    positive, negative = [f"p{n}" for n in range(20)], [f"n{n}" for n in range(10)]
    source, turned = sets_of(positive, negative), sets_of(positive[::-1], negative[::-1])

    one = {source.texts[group] for group in held_out_groups(source, 0.3, 0)}
    other = {turned.texts[group] for group in held_out_groups(turned, 0.3, 0)}
    assert one == other
    assert sum(text.startswith("p") for text in one) == 6
    assert sum(text.startswith("n") for text in one) == 3
    assert {source.texts[group] for group in held_out_groups(source, 0.3, 1)} != one
    assert held_out_groups(source, 0.0, 0) == set()
    with pytest.raises(InputError, match=r"held_out is 0\.3, but one side has 3 texts"):
        held_out_groups(sets_of(positive, negative[:3]), 0.3, 0)


def test_a_pair_is_held_out_as_a_whole() -> None:
    source = pairs_of([(f"p{n}", f"n{n}") for n in range(10)])
    held_out = held_out_groups(source, 0.3, 0)
    assert len(held_out) == 3
    assert [group in held_out for group in source.groups][::2] == [
        group in held_out for group in source.groups
    ][1::2]


def test_differences_are_of_pairs() -> None:
    with pytest.raises(ValueError, match="sets have no pair differences"):
        sets(randn(2, 3), randn(2, 3)).pair_differences()
    one_side = replace(sets(randn(2, 3), randn(2, 3)), scores_N=torch.ones(4).double())
    with pytest.raises(InputError, match="none is left on one side"):
        one_side.sides()
