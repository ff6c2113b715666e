"""Penalty, top-k, top-p, min-p and stop strings: as in transformers, and row by row."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import TopPLogitsWarper

from sparsteer.sae.autoencoder import SparseAutoencoder
from sparsteer.sae.common.errors import InputError
from sparsteer.sae.config import TopKConfig
from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.steering.config import Sampling
from sparsteer.steering.generation import Continuation, Generation, generate
from sparsteer.steering.interventions.intervention import Intervention
from sparsteer.steering.interventions.spec import SteeredFeature
from sparsteer.steering.sampling import RowSampler
from sparsteer.steering.texts import prompt_tokens

PROMPTS = ["Hi", "The quick brown fox", "x x x", "a b " * 20]
SETTINGS: list[dict[str, Any]] = [
    {},
    {"repetition_penalty": 1.7},
    {"repetition_penalty": 0.6},
    {"temperature": 0.8, "top_k": 3},
    {"temperature": 1.3, "top_p": 0.7},
    {"temperature": 1.3, "top_p": 0.0},
    {"temperature": 0.9, "min_p": 0.2},
    {"temperature": 1.1, "top_k": 9, "top_p": 0.8, "min_p": 0.1, "repetition_penalty": 1.4},
    {"temperature": 1.0, "top_k": 10_000, "min_p": 1.0},
]


@pytest.fixture(scope="module")
def model(tiny_model_folder: Path) -> LanguageModel:
    return LanguageModel.load(str(tiny_model_folder), dtype="float64")


@pytest.mark.parametrize("settings", SETTINGS)
def test_scores_are_those_of_transformers(model: LanguageModel, settings: dict[str, Any]) -> None:
    original: Any = model.bridge.original_model
    given = {"temperature": 1.0, "top_k": 0, **settings}
    for prompt in PROMPTS[:2]:
        ids = prompt_tokens(model, prompt)
        made = original.generate(
            torch.tensor([ids]),
            do_sample="temperature" in settings,
            max_new_tokens=1,
            output_scores=True,
            output_logits=True,
            return_dict_in_generate=True,
            pad_token_id=0,
            use_cache=False,
            **given,
        )
        ours = RowSampler([Sampling(**settings)], [ids]).scores(made.logits[0])[0]
        torch.testing.assert_close(ours, made.scores[0][0].double(), rtol=1e-6, atol=1e-6)


def scores_of(logits_V: Tensor, **settings: Any) -> Tensor:
    return RowSampler([Sampling(**settings)], [[0]]).scores(logits_V[None])[0]


def test_tokens_as_likely_as_the_last_of_the_top_are_kept() -> None:
    logits = torch.tensor([1.0, 3.0, 2.0, 3.0, 2.0, 2.0, -5.0])
    kept: Any = scores_of(logits, temperature=2.0, top_k=3) > -math.inf
    assert kept.nonzero()[:, 0].tolist() == [1, 2, 3, 4, 5]
    even: Any = scores_of(logits, temperature=1.0, min_p=1.0) > -math.inf
    assert even.nonzero()[:, 0].tolist() == [1, 3]


@pytest.mark.parametrize("spread", [6.0, 1.0, 0.01])
def test_top_p_looks_beyond_the_tokens_that_it_sorts_first(spread: float) -> None:
    """Peaked rows reach it among few tokens, flat ones among none but all."""
    logits = torch.randn(3, 9000, dtype=torch.float64) * spread
    logits[1, 4000:] = -math.inf
    warper: Any = TopPLogitsWarper(0.9)
    expected = warper(None, logits)
    settings = Sampling(temperature=1.0, top_p=0.9)
    assert torch.equal(RowSampler([settings] * 3, [[0]] * 3).scores(logits), expected)
    for row in range(3):
        assert torch.equal(scores_of(logits[row], temperature=1.0, top_p=0.9), expected[row])


def texts(model: LanguageModel, settings: dict[str, Any], at_once: int) -> list[Continuation]:
    sampling = Sampling(max_new_tokens=10, seed=3, batch_size=at_once, **settings)
    return generate(model, PROMPTS, sampling)


@pytest.mark.parametrize("settings", [SETTINGS[1], SETTINGS[2], SETTINGS[7]])
def test_a_text_does_not_depend_on_its_batch(
    model: LanguageModel, settings: dict[str, Any]
) -> None:
    assert texts(model, settings, 4) == texts(model, settings, 1)
    assert texts(model, settings, 4) != texts(model, {}, 4)


def test_a_penalty_takes_the_prompt_and_no_padding_for_seen(model: LanguageModel) -> None:
    """Of a padded row, each greedy token is the likeliest after a penalty by hand."""
    rows = [prompt_tokens(model, prompt) for prompt in PROMPTS]
    generation = Generation(model, rows, Sampling(max_new_tokens=6, repetition_penalty=1.9))
    while not generation.done:
        generation.step()
    for row, made in zip(rows, generation.results(), strict=True):
        seen = list(row)
        for token in made.tokens:
            logits_V = model.logits(torch.tensor([seen]))[0, -1]
            for known in set(seen):
                logits_V[known] *= 1.9 if logits_V[known] < 0 else 1 / 1.9
            assert token == int(logits_V.argmax())
            seen.append(token)


def test_base_and_steered_draw_from_the_same_tokens(model: LanguageModel) -> None:
    """A push of no size changes nothing; with one, min_p = 1 still takes the likeliest."""
    sae = SparseAutoencoder(TopKConfig(32, 48, 4), seed=5).double()
    features = (SteeredFeature(index=3, strength=0.0, max_activation=2.0),)
    still = Intervention.of_features(
        site="blocks.1.hook_resid_post", features=features, tier="constant"
    )
    sampling = Sampling(max_new_tokens=8, **SETTINGS[7])
    assert [t.text for t in generate(model, PROMPTS, sampling)] == [
        t.text for t in generate(model, PROMPTS, sampling, intervention=still, sae=sae)
    ]
    pushed = Intervention.of_features(
        site="blocks.1.hook_resid_post",
        features=(SteeredFeature(index=3, strength=4.0, max_activation=2.0),),
        tier="constant",
    )
    likeliest = [
        generate(model, PROMPTS, sampling, intervention=pushed, sae=sae)
        for sampling in (
            Sampling(max_new_tokens=8),
            Sampling(max_new_tokens=8, temperature=5.0, min_p=1.0),
        )
    ]
    assert likeliest[0] == likeliest[1]


def test_a_text_ends_before_a_stop_string(model: LanguageModel) -> None:
    whole = texts(model, {}, 4)
    for text in whole:
        pieces = [piece for piece in text.text.split("\ufffd") if piece]  # of whole characters
        for stop in (pieces[-1][-2:], pieces[0][:1]):
            found = texts(model, {"stop": ("\x00never", stop)}, 4)[whole.index(text)]
            assert found.text == text.text[: text.text.index(stop)].rstrip("\ufffd")
            assert found.stopped == "stop"
            assert found.tokens == text.tokens[: len(found.tokens)]
    assert texts(model, {"stop": ("\x00never",)}, 4) == whole


def test_a_special_token_may_stop_a_text(model: LanguageModel) -> None:
    """Its string is looked for though the text leaves special tokens out."""
    rows = [prompt_tokens(model, "abc")]
    generation = Generation(model, rows, Sampling(max_new_tokens=9, stop=("c<|bos|>",)))
    tokens = [*model.tokenize("xyzc<|bos|>"), 77]
    for token in tokens:
        if generation.done:
            break
        generation._choose = lambda logits_BV, token=token: torch.tensor([token])  # pyright: ignore
        generation.step()
    (made,) = generation.results()
    assert (made.text, made.stopped) == ("xyz", "stop")
    assert list(made.tokens) == tokens[:-1]


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"top_k": -1}, "top_k"),
        ({"top_p": 1.2}, "top_p"),
        ({"top_p": math.nan}, "top_p"),
        ({"min_p": -0.1}, "min_p"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"temperature": 0.0, "top_p": 0.9}, "top_p"),
        ({"temperature": 0.0, "top_k": 5}, "top_k"),
        ({"stop": ("a", "")}, "stop"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        given: dict[str, Any] = {"temperature": 1.0, **settings}
        Sampling(**given)
    assert caught.value.field == field
