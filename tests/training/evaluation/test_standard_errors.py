"""Standard errors of ratios against their spread in repeated samples."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sparsteer.training.evaluation.standard_errors import fvu_standard_error, ratio_standard_error


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("n_clusters", [13, 60])
def test_the_spread_of_a_ratio_in_repeated_samples(n_clusters: int) -> None:
    """Clusters of 1 to 40 members whose values share a part, as tokens of a text do."""
    source = generator(n_clusters)
    ratios: list[float] = []
    variances: list[float] = []
    for _ in range(2000):
        sizes_G = torch.randint(1, 41, (n_clusters,), generator=source).double()
        shared_G, own_G = torch.randn(2, n_clusters, generator=source, dtype=torch.float64)
        sums_G = sizes_G * (3 + shared_G) + sizes_G.sqrt() * own_G
        ratios.append(float(sums_G.sum() / sizes_G.sum()))
        error = ratio_standard_error(sums_G, sizes_G)
        assert error is not None
        variances.append(error**2)
    # About 0.92 of it with 13 clusters: the method is right for many.
    assert np.mean(variances) / np.var(ratios) == pytest.approx(1, abs=0.15)


def test_of_equal_clusters_it_is_that_of_a_mean() -> None:
    values_G = torch.randn(17, generator=generator(0), dtype=torch.float64)
    found = ratio_standard_error(values_G * 5, torch.full((17,), 5))
    assert found == pytest.approx(float(values_G.std()) / math.sqrt(17))


def test_there_is_none_of_one_cluster_or_of_nothing() -> None:
    assert ratio_standard_error(torch.ones(1), torch.ones(1)) is None
    assert ratio_standard_error(torch.ones(3), torch.zeros(3)) is None
    assert fvu_standard_error(torch.ones(4), torch.randn(4, 3), torch.full((4,), 7)) is None


def fvu(residuals_N: Tensor, rows_ND: Tensor) -> float:
    squares = (rows_ND - rows_ND.mean(0)).square().sum()
    return float(residuals_N.sum() / squares)


def test_an_fvu_varies_with_the_documents_that_are_drawn() -> None:
    """Against resampling of whole documents, of 1 to 60 rows, in any order."""
    source = generator(5)
    sizes = torch.randint(1, 61, (80,), generator=source)
    documents_N = torch.arange(80).repeat_interleave(sizes) * 37 + 5
    level_G, error_G = torch.rand(2, 80, generator=source) + 0.1
    rows_ND = torch.randn(len(documents_N), 7, generator=source)
    rows_ND = rows_ND * level_G.repeat_interleave(sizes)[:, None] + 100
    residuals_N = (error_G * level_G).repeat_interleave(sizes).square()
    members = torch.split(torch.arange(len(documents_N)), [int(size) for size in sizes])
    resampled: list[float] = []
    for _ in range(600):
        drawn = torch.randint(80, (80,), generator=source)
        chosen = torch.cat([members[number] for number in drawn])
        resampled.append(fvu(residuals_N[chosen].double(), rows_ND[chosen].double()))
    mixed = torch.randperm(len(documents_N), generator=source)
    found = fvu_standard_error(residuals_N[mixed], rows_ND[mixed], documents_N[mixed])
    assert found == pytest.approx(float(np.std(resampled)), rel=0.15)
    by_rows = fvu_standard_error(residuals_N, rows_ND, torch.arange(len(documents_N)))
    assert found is not None and by_rows is not None
    assert found > 2 * by_rows
