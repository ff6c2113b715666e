"""The L0 that perplexity allows: the search on planted losses, and the cut by algebra."""

import math
from collections.abc import Sequence

import pytest
import torch

from sparsteer.sae import InputError, SparseAutoencoder, TopKConfig
from sparsteer.training.evaluation.perplexity_l0 import (
    Cut,
    contributions,
    fewest_latents,
    l0_curve,
)
from sparsteer.training.evaluation.perplexity_l0_config import PerplexityL0Config

D, F = 10, 30
N_ROWS = 500
SIZES = torch.rand(N_ROWS * 40, dtype=torch.float64).sort(descending=True).values


def planted(thresholds: Sequence[float]) -> list[float]:
    """2 nats and more where fewer than all latents stay: half a nat at 10 latents of a row."""
    l0s = [int((SIZES >= t).sum()) / N_ROWS for t in thresholds]
    return [2 + 5 / max(l0, 1e-2) - 5 / 40 for l0 in l0s]


def true_l0(loss: float) -> float:
    return 5 / (loss - 2 + 5 / 40)


@pytest.mark.parametrize("percent", [0.5, 1.0, 5.0, 60.0])
def test_the_l0_of_a_planted_curve_is_found(percent: float) -> None:
    curve = l0_curve(planted, SIZES, N_ROWS)
    assert curve[0].threshold == 0 and curve[0].l0 == pytest.approx(40)
    assert curve[-1].l0 == 0 and [p.l0 for p in curve] == sorted(
        (p.l0 for p in curve), reverse=True
    )
    allowed = curve[0].loss + math.log1p(percent / 100)
    (found,) = fewest_latents(planted, curve, SIZES, N_ROWS, [allowed])
    assert found is not None and found.loss <= allowed
    assert found.l0 == pytest.approx(true_l0(allowed), rel=0.015)


def test_more_perplexity_never_asks_for_more_latents() -> None:
    curve = l0_curve(planted, SIZES, N_ROWS)
    allowed = [curve[0].loss + math.log1p(p / 100) for p in (0.1, 0.5, 1, 3, 10, 50)]
    found = fewest_latents(planted, curve, SIZES, N_ROWS, allowed)
    l0s = [one.l0 for one in found if one is not None]
    assert len(l0s) == 6 and l0s == sorted(l0s, reverse=True)


def test_the_ends() -> None:
    """Where all latents cost too much already there is none; where none are needed, none stay."""
    curve = l0_curve(planted, SIZES, N_ROWS)
    too_little, as_it_is, anything = fewest_latents(
        planted, curve, SIZES, N_ROWS, [curve[0].loss - 0.1, curve[0].loss, 1e9]
    )
    assert too_little is None
    assert as_it_is is not None and as_it_is.l0 == pytest.approx(40)
    assert anything is not None and anything.l0 == 0


def test_few_latents_in_all_are_searched_too() -> None:
    sizes = torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)

    def losses(thresholds: Sequence[float]) -> list[float]:
        return [1.0 - int((sizes >= t).sum()) for t in thresholds]

    curve = l0_curve(losses, sizes, 1)
    (found,) = fewest_latents(losses, curve, sizes, 1, [-1.0])
    assert found is not None and found.l0 == 2 and found.threshold == 2.0


@pytest.fixture
def sae() -> SparseAutoencoder:
    sae = SparseAutoencoder(TopKConfig(D, F, F), seed=1)
    with torch.no_grad():
        sae.b_dec.copy_(torch.randn(D))
        sae.input_scale.fill_(0.7)
    return sae


def test_a_threshold_of_zero_cuts_nothing_and_an_infinite_one_all(sae: SparseAutoencoder) -> None:
    x = torch.randn(20, D)
    assert torch.equal(Cut(sae, 0.0)(x), sae(x))
    nothing = (sae.b_dec / sae.input_scale).expand(20, D)
    torch.testing.assert_close(Cut(sae, math.inf)(x), nothing)


def test_of_orthonormal_rows_the_square_of_what_is_cut_is_what_misses() -> None:
    sae = SparseAutoencoder(TopKConfig(D, D, D))
    with torch.no_grad():
        for weights in (sae.W_enc, sae.W_dec):
            weights.copy_(torch.eye(D))
    x = torch.randn(200, D).abs()
    sizes = contributions(sae, x)
    threshold = float(sizes[len(sizes) // 3])
    missed = (sae(x).detach() - Cut(sae, threshold)(x)).double().square().sum()
    assert missed == pytest.approx(float(sizes[sizes < threshold].square().sum()), rel=1e-5)


def test_scaling_a_row_and_its_activation_changes_nothing(sae: SparseAutoencoder) -> None:
    x = torch.randn(50, D)
    before, threshold = contributions(sae, x), 0.4
    cut = Cut(sae, threshold)(x)
    with torch.no_grad():
        factor = torch.linspace(0.25, 4.0, F)
        sae.W_dec.mul_(factor[:, None])
        sae.W_enc.div_(factor[:, None])
    torch.testing.assert_close(contributions(sae, x), before, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(Cut(sae, threshold)(x), cut)


def test_wrong_values() -> None:
    with pytest.raises(InputError, match="contexts is 0"):
        PerplexityL0Config(sae="s", cache="c", contexts=0)
    with pytest.raises(InputError, match="percent is empty"):
        PerplexityL0Config(sae="s", cache="c", percent=())
    with pytest.raises(InputError, match="percent"):
        PerplexityL0Config(sae="s", cache="c", percent=(0.0,))
