"""Groups of features: a planted one is found, and chance finds nothing."""

import dataclasses

import numpy as np
import pytest
import torch

from sparsteer.sae import InputError
from sparsteer.steering.features.area_intervals import difference_of_areas
from sparsteer.steering.features.group_selection import FeatureGroup, select_group
from sparsteer.steering.features.pooling import Pooled

pytest.importorskip("sklearn")

N_TEXTS, N_LATENTS = 160, 30
PLANTED = (3, 7)


def planted(contrary: float = 0.0) -> tuple[Pooled, torch.Tensor, list[str]]:
    """Each positive text has latent 3 or latent 7, and no negative one has either, but for a
    fraction of texts with the contrary label; the others fire anywhere."""
    generator = np.random.default_rng(0)
    dense = generator.uniform(0.5, 1, (N_TEXTS, N_LATENTS))
    dense *= generator.random((N_TEXTS, N_LATENTS)) < 0.3
    is_positive = np.arange(N_TEXTS) % 2 == 0
    which = generator.random(N_TEXTS) < 0.5
    dense[:, 3] = np.where(is_positive & which, dense[:, 3] + 0.5, 0)
    dense[:, 7] = np.where(is_positive & ~which, dense[:, 7] + 0.5, 0)
    is_positive ^= generator.random(N_TEXTS) < contrary
    return sparse(torch.tensor(dense)), torch.tensor(is_positive), [f"t{n}" for n in range(N_TEXTS)]


def sparse(dense: torch.Tensor) -> Pooled:
    texts, latents = dense.nonzero(as_tuple=True)
    return Pooled(latents, texts, dense[texts, latents])


def members(group: FeatureGroup) -> set[int]:
    return {one.feature for one in group.features}


def test_either_of_two_latents_is_found_as_a_pair() -> None:
    said: list[str] = []
    group = select_group(*planted(), torch.arange(N_LATENTS), size=2, say=said.append)
    assert members(group) == set(PLANTED)
    assert group.auroc == 1 and all(one.weight > 0 for one in group.features)
    assert group.best_feature in PLANTED and 0.6 < group.best_auroc < 0.9
    assert group.gain.value == pytest.approx(group.auroc - group.best_auroc)
    assert group.gain.low > 0, "the pair says more than any one, beyond chance"
    assert group.random_mean < 0.7
    assert abs(group.shuffled_mean - 0.5) < 0.12
    assert group.training_texts + group.held_out_texts == N_TEXTS
    assert said == ["choosing a group of features: at most 171 fits to 106 texts"]
    again = select_group(*planted(), torch.arange(N_LATENTS), size=2)
    assert again == group


def test_cross_validation_stops_where_more_features_say_nothing() -> None:
    group = select_group(*planted(contrary=0.1), torch.arange(N_LATENTS))
    assert set(PLANTED) <= members(group) and len(members(group)) < 6
    sizes = [point.size for point in group.path]
    assert sizes[-1] > 15, "the path goes on to features that fit the contrary labels"
    best = max(group.path, key=lambda point: point.auroc)
    least = best.auroc - best.standard_error
    good = {point.size for point in group.path if point.size and point.auroc >= least}
    assert len(members(group)) == min(good)


@pytest.mark.slow
def test_permuted_labels_say_nothing() -> None:
    pooled, is_positive, texts = planted()
    areas: list[float] = []
    for seed in range(8):
        order = torch.randperm(N_TEXTS, generator=torch.Generator().manual_seed(seed))
        mixed = is_positive[order]
        areas.append(select_group(pooled, mixed, texts, torch.arange(N_LATENTS), size=3).auroc)
    assert abs(float(np.mean(areas)) - 0.5) < 0.1


def test_numbers_of_latents_do_not_matter_and_others_are_not_looked_at() -> None:
    pooled, is_positive, texts = planted()
    names = torch.randperm(500, generator=torch.Generator().manual_seed(1))[:N_LATENTS]
    renamed = pooled._replace(latents=names[pooled.latents])
    first = select_group(pooled, is_positive, texts, torch.arange(N_LATENTS), size=2)
    second = select_group(renamed, is_positive, texts, names, size=2)
    assert members(second) == {int(names[one]) for one in members(first)}
    assert second.auroc == first.auroc and second.best_auroc == first.best_auroc
    without = torch.tensor([n for n in range(N_LATENTS) if n != 3])
    assert 3 not in members(select_group(pooled, is_positive, texts, without, size=2))


def test_equal_texts_are_taken_once_and_contradictions_not_at_all() -> None:
    pooled, is_positive, texts = planted()
    repeated = [texts[0] if n in (2, 4) else texts[1] if n == 6 else t for n, t in enumerate(texts)]
    group = select_group(pooled, is_positive, repeated, torch.arange(N_LATENTS), size=2)
    # 2 and 4 are copies of 0; 6, a positive one, is a copy of 1, so that neither is taken.
    assert group.training_texts + group.held_out_texts == N_TEXTS - 4


def test_what_cannot_be_chosen_from() -> None:
    pooled, is_positive, texts = planted()
    candidates = torch.arange(N_LATENTS)
    with pytest.raises(InputError, match="needs 10 different positive texts; there is 1:"):
        select_group(pooled, torch.arange(N_TEXTS) == 5, texts, candidates, size=2)
    with pytest.raises(InputError, match="needs 10 different positive texts; there are 0:"):
        select_group(pooled, is_positive, ["same"] * N_TEXTS, candidates, size=2)
    constant = sparse(torch.ones(N_TEXTS, N_LATENTS, dtype=torch.float64) / 3)
    for empty in (constant, Pooled(candidates[:0], candidates[:0], torch.empty(0))):
        with pytest.raises(InputError, match="no feature differs between the texts"):
            select_group(empty, is_positive, texts, candidates, size=2)
    with pytest.raises(InputError, match="no feature differs between the texts"):
        select_group(pooled, is_positive, texts, candidates[:0])


def test_a_difference_of_areas_and_its_interval() -> None:
    generator = np.random.default_rng(0)
    is_positive = np.arange(60) < 30
    good = is_positive + generator.normal(size=60)
    bad = generator.normal(size=60)
    found = difference_of_areas(good, bad, is_positive, seed=1)
    wins = [np.sign(s[:30, None] - s[None, 30:]).mean() / 2 for s in (good, bad)]
    assert found.value == pytest.approx(wins[0] - wins[1])
    assert found.low < found.value < found.high
    same = difference_of_areas(good, good, is_positive, seed=1)
    assert dataclasses.astuple(same) == (0, 0, 0)
    assert dataclasses.astuple(
        difference_of_areas(bad, good, is_positive, seed=1)
    ) == pytest.approx((-found.value, -found.high, -found.low))
