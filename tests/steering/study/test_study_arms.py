"""Arms on a tiny model: what they do at a strength, and what is kept of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sparsteer.kernels.numerics import row_norms
from sparsteer.sae import LanguageModel
from sparsteer.sae.common.errors import InputError
from sparsteer.steering.interventions.added_vector import added_vector
from sparsteer.steering.interventions.intervention import Intervention
from sparsteer.steering.interventions.spec import SteeredFeature
from sparsteer.steering.interventions.steering import steer
from sparsteer.steering.registries import STUDY_METHODS
from sparsteer.steering.study.arm import Arm
from sparsteer.steering.study.arms.choosing import chosen_arms
from sparsteer.steering.study.arms.method import ArmSteering
from sparsteer.steering.study.context import StudyContext
from sparsteer.steering.study.texts import study_texts

from .conftest import MakeConfig


@pytest.fixture
def study(make_config: MakeConfig, tiny_model: LanguageModel, tmp_path: Path) -> StudyContext:
    config = make_config()
    return StudyContext(config, study_texts(config), tmp_path / "out", model=tiny_model)


def steering(study: StudyContext, name: str) -> ArmSteering:
    (arm,) = [arm for arm in chosen_arms(study.config) if arm.name == name]
    return STUDY_METHODS.get(arm.method).steering(arm, study)


def every(study: StudyContext) -> Iterator[tuple[Arm, ArmSteering]]:
    for arm in chosen_arms(study.config):
        yield arm, STUDY_METHODS.get(arm.method).steering(arm, study)


@pytest.mark.slow
def test_every_arm_steers_at_its_site_and_is_found_again(
    study: StudyContext, make_config: MakeConfig, tiny_model: LanguageModel
) -> None:
    tokens = torch.tensor([[1, *range(40, 60)]])
    base = tiny_model.network.model(tokens).logits
    first: dict[str, str] = {}
    for arm, made in every(study):
        if made.intervention is None:
            continue
        at = made.at(0.5)
        assert at.sites == (study.site.name,)
        assert at.tier == arm.tier
        assert {edit.kind for edit in at.edits} == {arm.edit}
        first[arm.name] = made.intervention.to_json()
        with steer(tiny_model, study.sae, at):
            logits = tiny_model.network.model(tokens).logits
        assert bool(logits.isfinite().all())
        if arm.tier == "constant" and arm.edit == "add":
            assert not torch.equal(logits, base)
    again = StudyContext(study.config, study.texts, study.folder, model=tiny_model)
    kept = {arm.name: made.intervention for arm, made in every(again)}
    assert first == {name: own.to_json() for name, own in kept.items() if own is not None}


def test_the_mean_difference_is_led_away_from(study: StudyContext) -> None:
    toward = study.fitted("mean_difference").edits[0].tensors["v"]
    away = added_vector(steering(study, "mean_difference").at(2.0))
    torch.testing.assert_close(away, -2 * toward)


def test_random_directions_are_as_long_and_do_not_depend_on_how_many_there_are(
    study: StudyContext, make_config: MakeConfig, tiny_model: LanguageModel
) -> None:
    own = added_vector(steering(study, "random_direction-1").at(1.0))
    length = row_norms(added_vector(steering(study, "mean_difference").at(1.0)))
    torch.testing.assert_close(row_norms(own), length)
    config = make_config(draws=5)
    more = StudyContext(config, study.texts, study.folder, model=tiny_model)
    for name in ("random_direction-1", "random_latent-1"):
        assert steering(more, name).intervention == steering(study, name).intervention
    latents = {
        feature.index
        for draw in range(5)
        if (given := steering(more, f"random_latent-{draw}").intervention) is not None
        for feature in given.features
    }
    assert len(latents) == 5
    assert not latents & study.chosen_latents()


def test_a_clamp_is_scaled_by_its_level_and_an_ablation_by_how_far_it_goes() -> None:
    feature = SteeredFeature(index=3, strength=-1.0, max_activation=2.0)
    made = {
        edit: Intervention.of_features(site="s", features=(feature,), edit=edit)
        for edit in ("clamp", "ablate")
    }
    clamp = ArmSteering(intervention=made["clamp"]).at(0.25).edits[0]
    assert (clamp.strength, clamp.features[0].strength) == (1.0, -0.25)
    ablate = ArmSteering(intervention=made["ablate"]).at(0.25).edits[0]
    assert (ablate.strength, ablate.features[0].strength) == (0.25, -1.0)


def test_picks_that_are_found_suppress_and_are_written(study: StudyContext) -> None:
    features = study.features()
    assert [feature.strength for feature in features] == [-1.0, -1.0]
    assert (study.folder / "picks.json").exists()
    units = [study.index.max_activation(feature.index) for feature in features]
    assert [feature.max_activation for feature in features] == units
    group = study.group()
    assert min(feature.strength for feature in group) == -1.0
    assert all(-1.0 <= feature.strength < 0 for feature in group)


def test_texts_are_apart_and_drawn_by_the_seed(make_config: MakeConfig) -> None:
    texts = study_texts(make_config(fit_texts=5))
    assert len(texts.positive) == len(texts.negative) == 5
    assert not set(texts.positive) & set(texts.tuning_prompts)
    assert not set(texts.neutral) & set(texts.tuning_neutral)
    assert study_texts(make_config(fit_texts=5)) == texts
    assert study_texts(make_config(fit_texts=5, seed=1)) != texts


@pytest.mark.parametrize(("size", "expected"), [(2, 2), (16, 10), (1000, 10)])
def test_strengths_are_chosen_on_texts_that_are_set_aside_first(
    make_config: MakeConfig, size: int, expected: int
) -> None:
    config = make_config(tuning_size=size)
    assert config.fit_texts > 21  # so that all 21 texts would be fitted to
    texts = study_texts(config)
    assert len(texts.tuning_prompts) == expected
    assert len(texts.positive) == 21 - expected
    assert not set(texts.positive) & set(texts.tuning_prompts)


def test_strengths_are_not_chosen_on_texts_that_are_given_and_fitted_to(
    make_config: MakeConfig,
) -> None:
    config = make_config()
    with pytest.raises(InputError, match=r"tuning_prompts has 2 texts of positive"):
        study_texts(make_config(tuning_prompts=config.positive))


def test_prompts_that_are_fitted_to_are_refused(make_config: MakeConfig) -> None:
    config = make_config()
    with pytest.raises(InputError, match=r"prompts has \d+ texts of"):
        study_texts(make_config(prompts=config.positive))
