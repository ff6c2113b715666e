"""Continuations under a context are those that generation with an intervention gives."""

from pathlib import Path

import pytest

from sparsteer.sae.autoencoder import SparseAutoencoder
from sparsteer.sae.common.errors import InputError
from sparsteer.sae.config import TopKConfig
from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.steering.config import Sampling
from sparsteer.steering.evaluation.continuations import sample_continuations
from sparsteer.steering.generation import generate
from sparsteer.steering.interventions.intervention import TIERS, Intervention, SteeredFeature
from sparsteer.steering.interventions.steering import steer

PROMPTS = ["You are", "The cat sat on", "x", "Why did the"]


@pytest.fixture(scope="module")
def model(tiny_model_folder: Path) -> LanguageModel:
    return LanguageModel.load(str(tiny_model_folder), dtype="float64")


@pytest.mark.slow_except("per_input")
@pytest.mark.parametrize("tier", TIERS)
def test_a_context_steers_as_an_intervention_given_to_generation_does(
    model: LanguageModel, tier: str
):
    sae = SparseAutoencoder(TopKConfig(32, 64, 3), seed=1).double()
    feature = SteeredFeature(index=7, strength=4.0, sign=-1, max_activation=4.0)
    spec = Intervention.of_features(
        site="blocks.1.hook_resid_post", features=(feature,), tier=tier, threshold=0.05
    )
    sampling = Sampling(max_new_tokens=8, temperature=0.9, seed=5, batch_size=3)
    found = sample_continuations(model, PROMPTS, sampling, 2, lambda: steer(model, sae, spec))
    for number in range(2):
        own = Sampling(max_new_tokens=8, temperature=0.9, seed=5 + number, batch_size=3)
        expected = generate(model, PROMPTS, own, intervention=spec, sae=sae)
        assert [each[number].tokens for each in found] == [text.tokens for text in expected]
    base = sample_continuations(model, PROMPTS, sampling, 1)
    assert [each[0].tokens for each in base] != [each[0].tokens for each in found]


def test_a_continuation_is_the_same_however_many_there_are(model: LanguageModel):
    sampling = Sampling(max_new_tokens=4, temperature=1.0)
    told: list[tuple[int, int]] = []
    more = sample_continuations(
        model, PROMPTS, sampling, 3, progress=lambda done, total: told.append((done, total))
    )
    fewer = sample_continuations(model, PROMPTS[::-1], sampling, 2)
    for some, all_ in zip(fewer[::-1], more, strict=True):
        assert [text.tokens for text in some] == [text.tokens for text in all_[:2]]
        assert len({text.tokens for text in all_}) > 1
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_several_greedy_ones_would_be_one(model: LanguageModel):
    with pytest.raises(InputError, match="n is 2"):
        sample_continuations(model, PROMPTS, Sampling(), 2)
