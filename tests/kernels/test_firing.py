"""Counts of rows since latents fired, against a count by hand."""

import pytest
import torch

from sparsteer.kernels.codes import Codes
from sparsteer.kernels.firing import count_firings_, fired_latents


def test_only_positive_values_fire() -> None:
    values = torch.tensor([[2.0, 0.0, -1.0], [torch.nan, 1.0, 0.5]])
    codes = Codes(torch.tensor([[3, 0, 1], [2, 3, 5]]), values)
    assert torch.equal(fired_latents(codes, 6).nonzero()[:, 0], torch.tensor([3, 5]))


@pytest.mark.parametrize("loss", [0.5, torch.nan, torch.inf])
def test_rows_count_for_silent_latents_unless_the_loss_is_not_finite(loss: float) -> None:
    since = torch.tensor([0, 5, 95, 99, 200])
    fired = torch.tensor([True, False, False, True, False])
    counted = count_firings_(since, fired, torch.tensor(loss), n_rows=10, dead_after=100)
    is_finite = loss == 0.5
    assert bool(counted.finite) == is_finite
    counts = [0, 15, 105, 0, 210] if is_finite else [0, 5, 95, 99, 200]
    assert torch.equal(since, torch.tensor(counts))
    assert torch.equal(counted.numbers, torch.tensor([1, 2] if is_finite else [0, 1]))
