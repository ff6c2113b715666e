"""Toxicity under the tiers: the same prompts and draws for all, and figures by their definition."""

import statistics
from typing import Any

import pytest
import torch

from sparsteer.sae.autoencoder import SparseAutoencoder
from sparsteer.sae.config import TopKConfig
from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.steering.config import Sampling
from sparsteer.steering.detox.measure import measure, measure_tiers
from sparsteer.steering.detox.toxicity import DEFAULT_SCORER, toxicity_scores
from sparsteer.steering.generation import generate
from sparsteer.steering.interventions.added_vector import added_vector
from sparsteer.steering.interventions.intervention import TIERS, Intervention
from sparsteer.steering.interventions.spec import SteeredFeature

PROMPTS = ["You are", "The cat", "x", "Why did the", "They said", "a b c d e f g"]
SAMPLING = Sampling(max_new_tokens=6, temperature=0.9, seed=2)


@pytest.fixture(scope="module")
def sae() -> SparseAutoencoder:
    sae = SparseAutoencoder(TopKConfig(32, 64, 3), seed=1)
    sae.input_scale.fill_(0.3)
    return sae


@pytest.fixture(scope="module")
def intervention() -> Intervention:
    feature = SteeredFeature(index=7, strength=2.0, sign=-1, max_activation=4.0)
    return Intervention.of_features(
        site="blocks.1.hook_resid_post", features=(feature,), tier="per_input", threshold=0.1
    )


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores that are spread out, for a random model writes no words: by the text's length."""
    from sparsteer.steering.detox import measure as module

    def by_length(texts: list[str], scorer: str) -> list[float]:
        assert scorer == DEFAULT_SCORER
        return [(len(text) * 37 % 100) / 100 for text in texts]

    monkeypatch.setattr(module, "toxicity_scores", by_length)


def by_definition(values: dict[str, Any], base: dict[str, Any]) -> dict[str, float | None]:
    own, other = (
        [(len(text) * 37 % 100) / 100 for text in each["continuations"]] for each in (values, base)
    )
    differences = [one - two for one, two in zip(own, other, strict=True)]
    error = statistics.stdev(differences) / len(own) ** 0.5 if len(own) > 1 else None
    return {
        "mean": statistics.mean(own),
        "fraction": sum(score > 0.5 for score in own) / len(own),
        "change": statistics.mean(differences),
        "change_standard_error": error,
    }


@pytest.mark.usefixtures("scored")
@pytest.mark.parametrize("n_prompts", [1, 6])
def test_every_condition_continues_the_prompts_from_the_same_draws(
    tiny_model: LanguageModel,
    sae: SparseAutoencoder,
    intervention: Intervention,
    n_prompts: int,
) -> None:
    prompts, told = PROMPTS[:n_prompts], list[tuple[int, int, str]]()

    def report(done: int, total: int, doing: str) -> None:
        told.append((done, total, doing))

    measured = measure_tiers(tiny_model, sae, intervention, prompts, SAMPLING, report=report)
    assert list(measured) == ["base", *TIERS, "random_feature"]
    for name, values in measured.items():
        spec = values["intervention"] and Intervention.from_dict(values["intervention"])
        if name in TIERS:
            assert spec == intervention.with_tier(name)
        texts = generate(
            tiny_model, prompts, SAMPLING, intervention=spec, sae=sae if spec else None
        )
        assert values["continuations"] == [text.text for text in texts]
        assert values["texts"] == n_prompts
        assert values["repetition"] == pytest.approx(
            statistics.mean(text.repetition for text in texts)
        )
        assert values["steered"] == statistics.mean(text.steered_tokens > 0 for text in texts)
        for key, expected in by_definition(values, measured["base"]).items():
            assert values[key] == pytest.approx(expected), (name, key)
    assert measured["base"]["intervention"] is None
    assert measured["base"]["changed"] == measured["base"]["steered"] == 0
    assert measured["constant"]["steered"] == 1
    assert measured["constant"]["changed"] > 0
    assert told == [(n, 5, name) for n, name in enumerate(measured)] + [(5, 5, "")]


@pytest.mark.usefixtures("scored")
def test_several_random_features_are_different_ones(
    tiny_model: LanguageModel, sae: SparseAutoencoder, intervention: Intervention
) -> None:
    measured = measure_tiers(
        tiny_model,
        sae,
        intervention,
        PROMPTS[:2],
        SAMPLING,
        random_candidates=[7, 33, 2, 40],
        n_random=3,
    )
    names = ["random_feature", "random_feature_2", "random_feature_3"]
    assert list(measured) == ["base", *TIERS, *names]
    controls = [Intervention.from_dict(measured[name]["intervention"]) for name in names]
    assert {control.features[0].index for control in controls} == {2, 33, 40}


@pytest.mark.usefixtures("scored")
def test_the_control_pushes_as_hard_with_one_of_the_candidates(
    tiny_model: LanguageModel, sae: SparseAutoencoder, intervention: Intervention
) -> None:
    measured = measure_tiers(
        tiny_model, sae, intervention, PROMPTS[:2], SAMPLING, random_candidates=[7, 33]
    )
    control = Intervention.from_dict(measured["random_feature"]["intervention"])
    assert [feature.index for feature in control.features] == [33]
    sizes = [added_vector(spec, sae).square().sum() for spec in (control, intervention)]
    assert torch.allclose(*sizes, rtol=1e-5)


def test_conditions_of_ones_own_with_the_real_scorer(
    tiny_model: LanguageModel, sae: SparseAutoencoder, intervention: Intervention
) -> None:
    conditions = {"steered": intervention, "plain": None}
    measured = measure(tiny_model, sae, conditions, PROMPTS[:3], SAMPLING)
    for values in measured.values():
        scores = toxicity_scores(values["continuations"])
        assert values["mean"] == pytest.approx(statistics.mean(scores))
    assert measured["steered"]["change"] == 0
    assert measured["plain"]["change"] == pytest.approx(
        measured["plain"]["mean"] - measured["steered"]["mean"]
    )
