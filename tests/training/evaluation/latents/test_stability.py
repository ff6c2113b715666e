"""Stability over seeds: dictionaries that are alike, permuted, partly alike, or random."""

from collections.abc import Callable
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsteer.sae import InputError, SparseAutoencoder, TopKConfig
from sparsteer.training.evaluation.latents import matching
from sparsteer.training.evaluation.latents.matching import matched_rows, nearest_rows
from sparsteer.training.evaluation.latents.stability import (
    agreement_of_decoders,
    firing_mass,
    random_nearest,
    stability,
)


def dictionary(rows: Tensor, k: int = 2) -> SparseAutoencoder:
    sae = SparseAutoencoder(TopKConfig(rows.shape[1], len(rows), k))
    with torch.no_grad():
        sae.W_enc.copy_(rows)
        sae.W_dec.copy_(rows)
    return sae


def random_rows(n_rows: int, width: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(n_rows, width, generator=generator)
    return torch.nn.functional.normalize(rows, dim=-1)


def test_the_same_in_any_order_is_wholly_stable() -> None:
    rows = random_rows(60, 16, 0)
    order = torch.randperm(60)
    mass = torch.rand(60) + 0.1
    found = stability([dictionary(rows), dictionary(rows[order])], [mass, mass[order]])
    assert len(found["pairs"]) == 2
    for pair in found["pairs"]:
        for kind in ("nearest", "matched"):
            assert pair[kind]["mean"] == pytest.approx(1, abs=1e-6)
            assert pair[kind]["above"] == {"0.7": 1, "0.9": 1}
            assert pair[kind]["weighted_mean"] == pytest.approx(1, abs=1e-6)
    assert found["matched"]["standard_deviation"] == pytest.approx(0, abs=1e-6)


def test_random_dictionaries_are_as_near_as_random_directions() -> None:
    saes = [dictionary(random_rows(700, 24, seed)) for seed in (1, 2)]
    (pair, _) = stability(saes)["pairs"]
    assert pair["nearest"]["mean"] == pytest.approx(pair["random_nearest"], abs=0.01)
    assert pair["matched"]["mean"] < pair["nearest"]["mean"]
    assert pair["nearest"]["weighted_mean"] is None
    # Of n directions in the plane the nearest is about 1 / (2 n) of a half turn off on average.
    assert random_nearest(200, 2, seed=0) == pytest.approx(1, abs=1e-3)


def test_a_copied_latent_is_matched_once() -> None:
    """Ten latents that are all near one of the other's: all found, and one of them matched."""
    rows = torch.eye(20)
    copies = torch.cat([rows[:1].expand(10, -1), rows[10:]])
    (pair, _) = stability([dictionary(copies), dictionary(rows)])["pairs"]
    assert pair["nearest"]["above"]["0.9"] == 1
    assert pair["matched"]["above"]["0.9"] == pytest.approx(11 / 20)


def test_dictionaries_of_two_widths_compare_with_their_masses() -> None:
    saes = [dictionary(random_rows(n, 8, n)) for n in (20, 30, 40)]
    found = stability(saes, [torch.rand(n) + 0.1 for n in (20, 30, 40)])
    assert [pair["latents"] for pair in found["pairs"]] == [20, 20, 30, 30, 40, 40]


def test_mass_decides_how_much_a_latent_counts() -> None:
    rows, others = torch.eye(4), torch.eye(4)
    others = torch.cat([others[:2], -others[2:]])
    mass = torch.tensor([3.0, 1.0, 4.0, 0.0])
    (pair, _) = stability([dictionary(rows), dictionary(others)], [mass, torch.ones(4)])["pairs"]
    assert pair["latents"] == 3  # the last one never fired
    assert pair["nearest"]["above"]["0.9"] == pytest.approx(2 / 3)
    assert pair["nearest"]["weighted_above"]["0.9"] == pytest.approx(4 / 8)


@settings(max_examples=8)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 999))
def test_the_matching_is_the_best_of_all(rows: int, others: int, seed: int) -> None:
    one, other = random_rows(rows, 3, seed), random_rows(others, 3, seed + 1000)
    cosines, numbers = matched_rows(one, other)
    taken = numbers[numbers >= 0].numpy().tolist()
    assert len(taken) == len(set(taken)) == min(rows, others)
    gain = one @ other.T if rows <= others else other @ one.T
    best = max(
        sum(float(gain[i, j]) for i, j in enumerate(choice))
        for choice in permutations(range(max(rows, others)), min(rows, others))
    )
    assert float(cosines.sum()) == pytest.approx(best, abs=1e-5)


def test_large_dictionaries_are_matched_among_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = random_rows(300, 12, 3)
    noisy = torch.nn.functional.normalize(rows + 0.1 * torch.randn(300, 12), dim=-1)
    order = torch.randperm(300)
    dense = matched_rows(rows, noisy[order])
    monkeypatch.setattr(matching, "MOST_DENSE", 10)
    near = matched_rows(rows, noisy[order])
    assert torch.equal(near[1], dense[1])
    wide = matched_rows(rows, noisy[order][:200])
    taken = wide[1][wide[1] >= 0].numpy().tolist()
    assert len(set(taken)) == len(taken) and (wide[0][wide[1] < 0] == 0).all()


def test_nearest_rows_ignore_norms_and_come_best_first() -> None:
    one, other = random_rows(9, 5, 0), random_rows(7, 5, 1)
    cosines, numbers = nearest_rows(3 * one, 0.2 * other, 3)
    expected = (one @ other.T).sort(dim=-1, descending=True)
    assert torch.equal(numbers, expected.indices[:, :3])
    assert torch.allclose(cosines, expected.values[:, :3], atol=1e-6)
    assert nearest_rows(one, other, 50)[0].shape == (9, 7)


def test_agreement_is_the_mean_of_the_nearest() -> None:
    one, other = dictionary(random_rows(9, 5, 0)), dictionary(random_rows(7, 5, 1))
    expected = float((one.W_dec @ other.W_dec.T).detach().amax(1).mean())
    assert agreement_of_decoders(one, other) == pytest.approx(expected, abs=1e-6)


def test_mass_is_the_sum_of_activations() -> None:
    sae = dictionary(random_rows(9, 5, 0))
    rows = torch.randn(50, 5)
    expected = sae.encode(rows).dense(9).sum(0).detach()
    assert torch.allclose(firing_mass(sae, rows), expected.double(), atol=1e-5)


@pytest.mark.parametrize(
    "saes",
    [
        lambda: [dictionary(torch.eye(3))],
        lambda: [dictionary(torch.eye(3)), dictionary(torch.eye(4))],
    ],
)
def test_what_does_not_compare_is_refused(saes: Callable[[], list[SparseAutoencoder]]) -> None:
    with pytest.raises(InputError, match=r"two autoencoders|widths 3 and 4"):
        stability(saes())
