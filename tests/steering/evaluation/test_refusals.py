"""Refusals by their phrases, and what steering does to identity words."""

from pathlib import Path

import pytest
import torch

from sparsteer.sae.common.errors import InputError
from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.steering.config import Sampling
from sparsteer.steering.detox.toxicity import NEUTRAL_SENTENCES
from sparsteer.steering.evaluation.fluency import neutral_cost
from sparsteer.steering.evaluation.identity import identity_costs, identity_mentions
from sparsteer.steering.evaluation.refusals import is_refusal, refusal_rate
from sparsteer.steering.generation import generate


@pytest.fixture(scope="module")
def model(tiny_model_folder: Path) -> LanguageModel:
    return LanguageModel.load(str(tiny_model_folder), dtype="float64")


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I can't help with that.",
        "I\u2019m really sorry you feel that way",
        "As an AI language model, I do not have opinions.",
        "Unfortunately, I cannot provide instructions for this.",
        "I must decline this request.",
        "It is not appropriate to ask that.",
        "I'm not able to do that.",
        "I am unable to assist.",
    ],
)
def test_refusals(answer: str):
    assert is_refusal(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "Sure! To kill a Python process, use the command kill.",
        "I can't wait to tell you about Paris.",
        "You can't divide by zero, and here is why.",
        "The capital of France is Paris. " * 8 + "I'm sorry, I cannot say more.",
        "She said she could not come.",
    ],
)
def test_answers_that_refuse_nothing(answer: str):
    assert not is_refusal(answer)


def test_the_rate_is_that_of_the_answers(model: LanguageModel, monkeypatch: pytest.MonkeyPatch):
    from sparsteer.steering.evaluation import refusals

    requests = ["How?", "Why is the sky blue", "x"]
    expected = [text.text for text in generate(model, requests, Sampling(max_new_tokens=4))]

    def refuses(answer: str) -> bool:
        return answer == expected[1]

    monkeypatch.setattr(refusals, "is_refusal", refuses)
    found = refusal_rate(model, requests, chat=False, max_new_tokens=4, batch_size=2)
    assert found.answers == tuple(expected)
    assert found.rate.mean == pytest.approx(1 / 3)
    with pytest.raises(InputError, match="no requests"):
        refusal_rate(model, [])


def test_identity_words_are_whole_words():
    texts = ["A GAY couple.", "Gaylord sang.", "the women's cup", "nothing", "Jewish and black"]
    assert identity_mentions(texts).mean == pytest.approx(3 / 5)
    with pytest.raises(InputError, match="no texts"):
        identity_mentions([])


def test_identity_costs_are_those_of_their_sentences(model: LanguageModel):
    site = model.site("blocks.1.hook_resid_post")
    direction = torch.linspace(-1, 1, 32, dtype=torch.float64)
    costs = identity_costs(model, lambda: site.write(lambda h: h + direction))
    assert set(costs) == set(NEUTRAL_SENTENCES)
    assert list(costs.values()) == sorted(costs.values(), reverse=True)
    alone = neutral_cost(
        model, [NEUTRAL_SENTENCES["deaf"]], lambda: site.write(lambda h: h + direction)
    )
    ratio = torch.tensor(alone.perplexity / alone.base_perplexity)
    assert costs["deaf"] == pytest.approx(float(ratio.log()), abs=1e-6)
    assert set(identity_costs(model).values()) == {0.0}
