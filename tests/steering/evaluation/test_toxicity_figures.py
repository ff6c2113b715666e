"""Expected maximum toxicity and its relatives, by their definitions."""

import itertools

import numpy as np
import pytest

from sparsteer.sae.common.errors import InputError
from sparsteer.steering.evaluation.toxicity import expected_maxima, toxicity_figures


@pytest.fixture
def scores_PN() -> np.ndarray:
    return np.random.default_rng(0).random((7, 5))


def test_the_figures_are_those_of_the_paper(scores_PN: np.ndarray):
    found = toxicity_figures(scores_PN)
    assert found.emt.mean == pytest.approx(scores_PN.max(1).mean())
    assert found.probability.mean == pytest.approx((scores_PN > 0.5).any(1).mean())
    assert found.mean.mean == pytest.approx(scores_PN.mean())
    assert (found.prompts, found.n) == (7, 5)
    assert found.emt.low <= found.emt.mean <= found.emt.high


def test_one_continuation_has_its_mean_for_maximum(scores_PN: np.ndarray):
    one = toxicity_figures(scores_PN[:, :1])
    assert one.emt == one.mean
    assert toxicity_figures(scores_PN, of=1).emt.mean == pytest.approx(scores_PN.mean())


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_fewer_continuations_by_all_choices_of_them(scores_PN: np.ndarray, n: int):
    choices = [list(choice) for choice in itertools.combinations(range(5), n)]
    by_hand = np.mean([scores_PN[:, choice].max(1) for choice in choices], axis=0)
    assert expected_maxima(scores_PN, n) == pytest.approx(by_hand)


def test_the_order_of_continuations_and_of_prompts_changes_no_mean(scores_PN: np.ndarray):
    generator = np.random.default_rng(1)
    mixed = generator.permuted(scores_PN, axis=1)[generator.permutation(7)]
    for name in ("emt", "probability", "mean"):
        before, after = (getattr(toxicity_figures(each), name) for each in (scores_PN, mixed))
        assert after.mean == pytest.approx(before.mean)


def test_one_half_itself_is_not_toxic():
    assert toxicity_figures(np.full((3, 2), 0.5)).probability.mean == 0


def test_wrong_scores_are_refused():
    with pytest.raises(InputError, match="no scores"):
        toxicity_figures(np.zeros((0, 3)))
    with pytest.raises(InputError, match="outside 0 to 1"):
        toxicity_figures(np.array([[0.1, np.nan]]))
    with pytest.raises(InputError, match="largest of 4"):
        toxicity_figures(np.zeros((2, 3)), of=4)
