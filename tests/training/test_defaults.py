"""The rule for batch size, learning rate and dead window."""

import math

import pytest

from sparsteer.training.defaults import (
    LEAST_BATCH,
    LEAST_LR,
    LR_LATENTS,
    MOST_BATCH,
    MOST_DEAD_TOKENS,
    MOST_LR,
    USUAL_STEPS,
    derived_batch_size,
    derived_dead_window,
    derived_defaults,
    derived_lr,
)


@pytest.mark.parametrize("tokens", [1, 2, 3, 100, 4096, 200_000, 1_000_000, 5_000_000, 10**9])
def test_a_batch_makes_the_usual_number_of_updates_within_its_bounds(tokens: int) -> None:
    batch = derived_batch_size(tokens)
    assert 2 <= batch <= MOST_BATCH
    assert batch == 2 or batch <= tokens
    if LEAST_BATCH < batch < MOST_BATCH:
        assert batch & (batch - 1) == 0
        ratio = tokens / batch / USUAL_STEPS
        assert math.sqrt(0.5) <= ratio * 1.01 and ratio <= math.sqrt(2) * 1.01


def test_a_batch_grows_with_the_tokens() -> None:
    sizes = [derived_batch_size(2**power) for power in range(1, 31)]
    assert sizes == sorted(sizes) and sizes[-1] == MOST_BATCH


@pytest.mark.parametrize("activation", ["topk", "top_afa", "of_a_package"])
def test_a_rate_falls_with_the_root_of_the_latents_and_with_updates(activation: str) -> None:
    wide, narrow = (derived_lr(1000, n, activation) for n in (65_536, 16_384))
    assert narrow / wide == pytest.approx(2, rel=0.01)
    rates = [derived_lr(steps, 16_384, activation) for steps in (10, 100, 1000, 10_000, 10**7)]
    assert rates == sorted(rates, reverse=True) and rates[0] > rates[-1]


def test_rates_have_bounds() -> None:
    assert derived_lr(10**9, LR_LATENTS, "topk") == LEAST_LR
    assert derived_lr(1, 8, "topk") == MOST_LR


def test_a_given_batch_decides_the_updates_that_the_rate_follows() -> None:
    few, many = (derived_defaults(400_000, 4608, "topk", batch_size=b) for b in (4096, 256))
    assert few.batch_size == 4096 and many.batch_size == 256
    assert few.lr > many.lr
    assert few.dead_after_tokens == many.dead_after_tokens


def test_the_dead_window_is_a_share_within_its_bound() -> None:
    assert derived_dead_window(1) == 1
    assert derived_dead_window(400_000) < 400_000
    assert derived_dead_window(10**10) == MOST_DEAD_TOKENS
