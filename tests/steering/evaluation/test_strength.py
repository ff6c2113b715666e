"""The strength that has a cost, found on a tiny model and measured again by other means."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from sparsteer.sae.autoencoder import SparseAutoencoder
from sparsteer.sae.common.errors import InputError
from sparsteer.sae.config import TopKConfig
from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.steering.config import Sampling
from sparsteer.steering.errors import NoDose, TooStrong
from sparsteer.steering.evaluation.budget import BUDGET_KINDS, Budget
from sparsteer.steering.evaluation.calibration import Evaluation, calibrate
from sparsteer.steering.evaluation.continuations import sample_continuations
from sparsteer.steering.evaluation.dose import generated_dose
from sparsteer.steering.evaluation.fluency import neutral_cost
from sparsteer.steering.evaluation.strength import (
    CostTexts,
    cost_function,
    find_strength,
    scaled_steering,
)
from sparsteer.steering.interventions.intervention import Intervention, SteeredFeature
from sparsteer.steering.texts import prompt_tokens

SITE = "blocks.1.hook_resid_post"
PROMPTS = ["You are", "The cat sat on", "x", "Why did the"]
TEXTS = ["A sentence of some length.", "Ordinary words, and more of them."]
USED = CostTexts(
    prompts=PROMPTS,
    neutral=TEXTS,
    sampling=Sampling(max_new_tokens=8, temperature=1.0, seed=5),
    continuations=2,
)


@pytest.fixture(scope="module")
def model(tiny_model_folder: Path) -> LanguageModel:
    return LanguageModel.load(str(tiny_model_folder), dtype="float64")


@pytest.fixture(scope="module")
def sae() -> SparseAutoencoder:
    return SparseAutoencoder(TopKConfig(32, 64, 3), seed=1).double()


def feature_push(tier: str = "constant", threshold: float = 0.0) -> Intervention:
    feature = SteeredFeature(index=7, strength=1.0, sign=-1, max_activation=1.0)
    return Intervention.of_features(site=SITE, features=(feature,), tier=tier, threshold=threshold)


def pushed_toward(
    model: LanguageModel, token: int
) -> Callable[[float], Callable[[], AbstractContextManager[object]]]:
    """At a strength, so far along the output embedding of a token."""
    head = cast(Any, model.network.model.get_output_embeddings())
    toward_D: Tensor = head.weight[token].detach()
    return lambda strength: (
        lambda: model.site(SITE).write(lambda h_BLD: h_BLD + strength * toward_D)
    )


def test_the_strength_of_a_kl_has_it_when_it_is_measured_anew(
    model: LanguageModel, sae: SparseAutoencoder
):
    steered_at = scaled_steering(model, sae, feature_push())
    budget = Budget("kl", 0.05)
    found = find_strength(budget, cost_function(model, budget, steered_at, USED))
    assert found.met
    steered = steered_at(found.strength)
    texts = sample_continuations(model, PROMPTS, USED.sampling, 2, steered)
    prompts = [prompt_tokens(model, prompt) for prompt in PROMPTS for _ in range(2)]
    tokens = [text.tokens for of_prompt in texts for text in of_prompt]
    assert generated_dose(model, prompts, tokens, steered).p95 == pytest.approx(found.dose)
    mean = cost_function(model, budget, steered_at, replace(USED, statistic="mean"))
    dose = generated_dose(model, prompts, tokens, steered)
    assert mean(found.strength) == pytest.approx(dose.mean.mean)
    assert dose.mean.mean < found.dose


def test_the_strength_of_a_rise_of_perplexity_has_it(model: LanguageModel, sae: SparseAutoencoder):
    steered_at = scaled_steering(model, sae, feature_push())
    budget = Budget("perplexity", 0.1)
    told: list[Evaluation] = []
    cost = cost_function(model, budget, steered_at, USED)
    found = find_strength(budget, cost, start=20.0, report=told.append)
    assert found.met
    assert tuple(told) == found.evaluations
    ratio = neutral_cost(model, TEXTS, steered_at(found.strength)).ratio.mean
    assert ratio - 1 == pytest.approx(found.dose)
    assert found.dose == pytest.approx(0.1, rel=0.11)


@pytest.mark.parametrize("kind", BUDGET_KINDS)
def test_steering_by_nothing_costs_nothing(model: LanguageModel, sae: SparseAutoencoder, kind: str):
    push = scaled_steering(model, sae, feature_push())
    cost = cost_function(model, Budget(kind, 0.1), push, USED)  # pyright: ignore[reportArgumentType]
    assert cost(0.0) == pytest.approx(0, abs=1e-12)


@pytest.mark.slow
def test_what_is_written_far_off_is_unlikely_to_the_unsteered_model(
    model: LanguageModel, sae: SparseAutoencoder
):
    push = scaled_steering(model, sae, feature_push())
    cost = cost_function(model, Budget("continuation_perplexity", 0.1), push, USED)
    assert cost(100.0) > cost(1.0)


def test_repetition_is_counted_above_that_of_the_unsteered_model(model: LanguageModel):
    """Pushed so far toward one token that nothing else is written."""
    cost = cost_function(model, Budget("repetition", 0.1), pushed_toward(model, 5), USED)
    base = sample_continuations(model, PROMPTS, USED.sampling, 2)
    repeated = [text.repetition for of_prompt in base for text in of_prompt]
    assert cost(1e6) == pytest.approx(5 / 6 - sum(repeated) / len(repeated))


def test_a_gate_that_never_opens_has_no_strength(model: LanguageModel, sae: SparseAutoencoder):
    steered_at = scaled_steering(model, sae, feature_push("per_token", threshold=1e6))
    budget = Budget("perplexity", 0.1)
    with pytest.raises(NoDose, match="check that the gate ever opens"):
        find_strength(budget, cost_function(model, budget, steered_at, USED), most=3)


def test_a_model_that_writes_nothing_is_steered_too_far(model: LanguageModel):
    assert model.eos_id is not None
    cost = cost_function(model, Budget("kl", 0.1), pushed_toward(model, model.eos_id), USED)
    with pytest.raises(TooStrong, match="ends each text at once at strength 1e"):
        cost(1e6)


def test_texts_that_are_missing_are_asked_for(model: LanguageModel, sae: SparseAutoencoder):
    steered_at = scaled_steering(model, sae, feature_push())
    with pytest.raises(InputError, match="no prompts; give at least one"):
        cost_function(model, Budget("kl", 0.1), steered_at, CostTexts(neutral=TEXTS))
    with pytest.raises(InputError, match="none has two tokens"):
        cost_function(model, Budget("perplexity", 0.1), steered_at, CostTexts(prompts=PROMPTS))


def test_budgets_are_checked():
    with pytest.raises(InputError, match="target is"):
        Budget("kl", 0.0)


def test_no_strength_is_above_the_largest():
    def dose(strength: float) -> float:
        return 0.01 * strength * strength

    found = calibrate(dose, 1.0, start=0.1, largest=3.0)
    assert found.strength == 3.0
    assert not found.met
    assert max(each.strength for each in found.evaluations) == 3.0
    assert [each.strength for each in found.evaluations].count(3.0) == 1
    assert calibrate(dose, 0.04, start=9.0, largest=3.0).met


def test_a_steered_tensor_is_on_the_way(model: LanguageModel):
    """A dose of a plain hook needs no intervention."""
    direction = torch.linspace(-1, 1, 32, dtype=torch.float64)

    def at(strength: float) -> Callable[[], AbstractContextManager[object]]:
        return lambda: model.site(SITE).write(lambda h_BLD: h_BLD + strength * direction)

    budget = Budget("kl", 0.02)
    found = find_strength(budget, cost_function(model, budget, at, USED))
    assert found.met
