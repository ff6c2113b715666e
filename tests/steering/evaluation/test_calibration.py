"""The strength of a dose: planted laws are solved in few evaluations, noise and breaks survived."""

import math
import random
from collections.abc import Callable

import pytest

from sparsteer.sae.common.errors import InputError
from sparsteer.steering.errors import TooStrong
from sparsteer.steering.evaluation.calibration import Calibration, calibrate

LAWS: dict[str, Callable[[float], float]] = {
    "square": lambda s: 0.03 * s * s,
    "linear": lambda s: 0.4 * abs(s),
    "saturating": lambda s: 12 * (1 - math.exp(-0.01 * s * s)),
    "steep": lambda s: 1e-3 * abs(s) ** 5,
    "offset": lambda s: 0.01 * s * s + 0.002 * abs(s) ** 4,
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("target", [0.05, 0.5, 3.0])
@pytest.mark.parametrize("start", [0.2, 1.0, 30.0])
def test_a_planted_law_is_solved(law: str, target: float, start: float):
    found = calibrate(LAWS[law], target, start=start)
    assert found.met
    assert found.dose == pytest.approx(target, rel=0.11)
    assert found.dose == LAWS[law](found.strength)
    assert len(found.evaluations) <= 6


def test_a_square_is_solved_by_the_second_evaluation():
    found = calibrate(LAWS["square"], 0.5, start=1.0)
    assert len(found.evaluations) == 2
    assert found.strength == pytest.approx((0.5 / 0.03) ** 0.5)


def test_a_good_start_is_enough():
    found = calibrate(LAWS["square"], 0.5, start=4.0)
    assert [each.strength for each in found.evaluations] == pytest.approx([4.0])


@pytest.mark.parametrize("how", ["raises", "nan", "infinite"])
def test_strengths_that_break_the_model_are_too_large(how: str):
    def dose(strength: float) -> float:
        if abs(strength) > 5:
            if how == "raises":
                raise TooStrong("the logits are no numbers; lower the strength")
            return math.nan if how == "nan" else math.inf
        return 0.03 * strength * strength

    found = calibrate(dose, 0.5, start=100.0, most=8)
    assert found.met
    assert found.evaluations[0].dose is None
    assert abs(found.strength) <= 5


def test_a_target_behind_the_break_is_approached_and_not_met():
    def dose(strength: float) -> float:
        return 0.03 * strength * strength if strength < 3 else math.nan

    found = calibrate(dose, 2.0, start=1.0, most=8)
    assert not found.met
    assert 2 < found.strength < 3
    assert found.dose == max(each.dose for each in found.evaluations if each.dose)


def test_noise_of_ten_percent_leaves_the_strength_about_right():
    for seed in range(30):
        noise = random.Random(seed)
        found = calibrate(
            lambda s, noise=noise: 0.03 * s * s * math.exp(noise.gauss(0, 0.1)), 0.5, start=0.3
        )
        assert found.strength == pytest.approx((0.5 / 0.03) ** 0.5, rel=0.25)


def test_a_dose_of_nothing_up_to_some_strength_is_passed():
    found = calibrate(lambda s: 0.0 if s < 4 else 0.2 * (s - 4), 0.5, start=1.0, most=10)
    assert found.met


def test_negative_strengths_stay_negative():
    found = calibrate(LAWS["square"], 0.5, start=-1.0)
    assert found.strength == pytest.approx(-((0.5 / 0.03) ** 0.5))
    assert all(each.strength < 0 for each in found.evaluations)


def test_every_evaluation_is_reported():
    told: list[object] = []
    found: Calibration = calibrate(LAWS["steep"], 0.5, start=0.5, report=told.append)
    assert tuple(told) == found.evaluations


def test_what_has_no_answer_is_said():
    with pytest.raises(InputError, match="changed nothing"):
        calibrate(lambda s: 0.0, 0.5)
    with pytest.raises(InputError, match="broke the model"):
        calibrate(lambda s: math.nan, 0.5)
    with pytest.raises(InputError, match=r"target is 0\.0"):
        calibrate(lambda s: s, 0.0)
    with pytest.raises(InputError, match="start is 0"):
        calibrate(lambda s: s, 1.0, start=0.0)


def test_other_errors_are_not_taken_for_breaks():
    def dose(strength: float) -> float:
        raise InputError("there is no such site; give another")

    with pytest.raises(InputError, match="no such site"):
        calibrate(dose, 0.5)
