"""Intervals cover what they say, tests reject as often as they say, and Holm agrees by hand."""

import numpy as np
import pytest

from sparsteer.sae.common.errors import InputError
from sparsteer.steering.evaluation.statistics import (
    compare,
    compare_with_draws,
    holm,
    mean_over_prompts,
    ratio_over_prompts,
    unpaired_difference,
)


def test_the_order_of_prompts_changes_nothing_but_the_resamples():
    generator = np.random.default_rng(0)
    own, other = generator.random((2, 100))
    order = generator.permutation(100)
    one, two = compare(own, other), compare(own[order], other[order])
    assert one.difference == pytest.approx(two.difference, abs=1e-12)
    assert one.low == pytest.approx(two.low, abs=0.02)
    assert one.standard_error == pytest.approx(two.standard_error, rel=0.05)
    assert compare(own, other) == one


def test_what_is_compared_with_itself_does_not_differ():
    values = np.random.default_rng(0).random(50)
    found = compare(values, values)
    assert (found.difference, found.low, found.high, found.standard_error) == (0, 0, 0, 0)
    assert found.p_value == 1
    assert found.in_standard_errors == 0
    assert compare(values + 1, values).in_standard_errors > 1e6


def test_the_means_of_other_prompts_are_resampled_apart():
    found = unpaired_difference([3.0, 5.0], [1.0, 1.0, 1.0])
    assert (found.mean, found.low, found.high) == (3, 2, 4)
    assert unpaired_difference([1.0, 1.0, 1.0], [3.0, 5.0]).mean == -3
    generator = np.random.default_rng(1)
    own, other = generator.normal(size=100), generator.normal(size=400)
    found = unpaired_difference(own, other)
    error = np.hypot(own.std() / 10, other.std() / 20)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.05)
    with pytest.raises(InputError, match="which is no number"):
        unpaired_difference([1.0, np.nan], [1.0])


def test_the_standard_error_is_that_of_a_mean_of_paired_differences():
    own, other = np.random.default_rng(0).normal(size=(2, 100))
    found = compare(own, other)
    assert found.standard_error == pytest.approx((own - other).std(ddof=1) / 10, rel=0.05)
    assert compare(other, own).difference == -found.difference
    assert compare(other, own).p_value == found.p_value


def test_pairing_sees_what_independent_means_would_not():
    generator = np.random.default_rng(0)
    level = generator.normal(size=100) * 10
    own = level + 0.5 + generator.normal(size=100) * 0.1
    found = compare(own, level)
    assert found.low > 0.4
    assert found.p_value < 0.001
    overlap = mean_over_prompts(own).low < mean_over_prompts(level).high
    assert overlap


@pytest.mark.slow
def test_intervals_cover_the_planted_mean_about_as_often_as_they_say():
    generator = np.random.default_rng(0)
    covered, rejected = 0, 0
    for _ in range(100):
        values = generator.exponential(size=60)
        interval = mean_over_prompts(values)
        covered += interval.low <= 1 <= interval.high
        rejected += compare(values, generator.exponential(size=60)).p_value <= 0.05
    assert 87 <= covered <= 100
    assert rejected <= 12


def test_ratios_weigh_prompts_by_their_length():
    nats, tokens = np.array([10.0, 1.0, 6.0]), np.array([100.0, 1.0, 20.0])
    assert ratio_over_prompts(nats, tokens).mean == pytest.approx(17 / 121)
    constant = ratio_over_prompts(2 * tokens, tokens)
    assert (constant.mean, constant.low, constant.high) == pytest.approx((2, 2, 2))
    equal = ratio_over_prompts(nats, np.ones(3))
    assert equal.mean == pytest.approx(mean_over_prompts(nats).mean)


def test_random_draws_that_differ_widen_the_interval():
    generator = np.random.default_rng(0)
    own = generator.normal(size=80) * 0.1
    alike = np.tile(generator.normal(size=80) * 0.1 + 1, (10, 1))
    levels = generator.normal(size=(10, 1))
    narrow = compare_with_draws(own, alike)
    wide = compare_with_draws(own, alike + levels - levels.mean())
    assert wide.difference == pytest.approx(narrow.difference)
    assert narrow.standard_error == pytest.approx(compare(own, alike[0]).standard_error, rel=0.05)
    assert wide.standard_error == pytest.approx(levels.std(ddof=0) / 10**0.5, rel=0.1)


def test_a_p_value_beside_random_draws_knows_that_they_differ():
    generator = np.random.default_rng(0)
    own, draws = generator.normal(size=(40,)), generator.normal(size=(10, 40))
    assert compare_with_draws(own, np.tile(own, (3, 1))).p_value == 1
    assert compare_with_draws(own - 4, draws).p_value == pytest.approx(1e-4, rel=1e-3)
    found = compare_with_draws(own, draws)
    assert compare_with_draws(-own, -draws).p_value == pytest.approx(found.p_value, abs=0.02)
    # A way that is one more of the draws, and so differs from all: prompts alone call it sure.
    levels = np.linspace(-1, 1, 9)[:, None]
    noise = generator.normal(size=(9, 40)) * 0.01
    assert compare(noise[0] + 0.2, (levels + noise).mean(0)).p_value < 0.001
    assert compare_with_draws(noise[0] + 0.2, levels + noise).p_value > 0.2


@pytest.mark.slow
def test_p_values_beside_ten_draws_reject_about_as_often_as_they_say():
    generator, rejected = np.random.default_rng(0), 0
    for _ in range(100):
        own = generator.normal(size=40) * 0.1
        draws = generator.normal(size=(10, 1)) + generator.normal(size=(10, 40)) * 0.1
        rejected += compare_with_draws(own, draws).p_value <= 0.05
    assert 1 <= rejected <= 15


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
    assert holm([0.2]) == [0.2]


def test_holm_keeps_the_order_of_p_values_and_never_lowers_one():
    values = list(np.random.default_rng(0).random(30) ** 3)
    adjusted = holm(values)
    assert all(after >= before for before, after in zip(values, adjusted, strict=True))
    assert [adjusted[n] for n in np.argsort(values)] == sorted(adjusted)
    order = np.random.default_rng(1).permutation(30)
    assert holm([values[n] for n in order]) == [adjusted[n] for n in order]


def test_wrong_input_is_named():
    with pytest.raises(InputError, match="at least one prompt"):
        mean_over_prompts([])
    with pytest.raises(InputError, match="nan, which is no number"):
        compare([1.0, float("nan")], [1.0, 2.0])
    with pytest.raises(InputError, match="2 prompts cannot be paired with 1"):
        compare([1.0, 2.0], [1.0])
    with pytest.raises(InputError, match="draw at least two"):
        compare_with_draws([1.0], np.ones((1, 1)))
    with pytest.raises(InputError, match=r"p-value is 1\.5"):
        holm([0.1, 1.5])
    with pytest.raises(InputError, match="add up to 0"):
        ratio_over_prompts([1.0], [0.0])
