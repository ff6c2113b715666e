"""The strength of an arm for a cost of a study, and what that cost is."""

from pathlib import Path

import pytest

from sparsteer.sae import LanguageModel
from sparsteer.steering.evaluation.budget import Budget
from sparsteer.steering.evaluation.reading import Steered
from sparsteer.steering.evaluation.strength import CostTexts, cost_function
from sparsteer.steering.interventions.steering import steer
from sparsteer.steering.registries import STUDY_METHODS
from sparsteer.steering.study.arms.choosing import chosen_arms
from sparsteer.steering.study.calibrating import Calibrations, calibrated
from sparsteer.steering.study.context import StudyContext
from sparsteer.steering.study.texts import study_texts

from .conftest import MakeConfig


@pytest.mark.slow
def test_a_mean_kl_is_the_mean_over_tokens_and_not_their_percentile(
    make_config: MakeConfig, tiny_model: LanguageModel
) -> None:
    config = make_config(
        methods=("mean_difference",), cost=("kl=0.05", "kl_mean=0.05"), most_evaluations=6
    )
    folder, texts = Path(config.out), study_texts(config)
    study = StudyContext(config, texts, folder, model=tiny_model)
    (arm,) = (arm for arm in chosen_arms(config) if arm.family != "none")
    steering = STUDY_METHODS.get(arm.method).steering(arm, study)

    def steered_at(strength: float) -> Steered:
        return lambda: steer(tiny_model, None, steering.at(strength))

    strengths: list[float] = []
    for cost, statistic in zip(config.costs, ("p95", "mean"), strict=True):
        setting = calibrated(study, arm, steering, cost, Calibrations(folder))
        assert setting.strength is not None
        strengths.append(setting.strength)
        given = CostTexts(
            prompts=texts.tuning_prompts,
            sampling=config.sampling,
            statistic=statistic,
            batch_size=config.batch_size,
        )
        measured = cost_function(tiny_model, Budget("kl", cost.target), steered_at, given)
        assert setting.dose == pytest.approx(measured(setting.strength))
    assert strengths[1] > strengths[0]  # the mean is below the percentile
