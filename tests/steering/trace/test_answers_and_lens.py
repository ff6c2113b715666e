"""Likeness of answers, the logit lens, and the tokens of words."""

import math
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.steering.config import Sampling
from sparsteer.steering.evaluation.greedy import greedy_answers
from sparsteer.steering.generation import generate
from sparsteer.steering.texts import prompt_tokens
from sparsteer.steering.trace.answers import rouge_l
from sparsteer.steering.trace.lens import LogitLens, mass_of, overlap, tokens_of_words

from ..fitting.conftest import randn
from .conftest import TEXTS, plain

TOKENS = torch.tensor([[1, 40, 50, 60, 70, 80]])


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("the cat sat", "The cat sat!", 1.0),
        ("a b c d", "b x d", 2 * 2 / 7),
        ("a b", "b a", 0.5),
        ("one", "two", 0.0),
        ("", "", 1.0),
        ("...", "word", 0.0),
        ("c'est la vie", "la vie en rose", 2 * 2 / 8),
    ],
)
def test_rouge_l(one: str, other: str, expected: float) -> None:
    assert rouge_l(one, other) == pytest.approx(expected)
    assert rouge_l(other, one) == pytest.approx(expected)


def test_answers_are_those_of_greedy_generation(model: LanguageModel) -> None:
    rows = [prompt_tokens(model, text) for text in TEXTS["concept"]]
    answers = greedy_answers(model, rows, nullcontext, max_new_tokens=4, batch_size=2)
    expected = generate(model, TEXTS["concept"], Sampling(max_new_tokens=4))
    assert [each.tokens for each in answers] == [each.tokens for each in expected]
    assert [each.text for each in answers] == [each.text for each in expected]


@pytest.mark.slow_except("gpt2")
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_behind_the_last_layer_the_lens_says_what_the_model_says(family: str) -> None:
    model = plain(family)
    last = model.site(f"blocks.{model.n_layers - 1}.hook_resid_post")
    tokens_T = torch.tensor([5, 40, 41])
    mass_N = LogitLens(model).mass(last.read(TOKENS)[0], tokens_T)
    logits_NV = model.logits(TOKENS)[0]
    if family == "gemma2":  # which caps its logits behind the unembedding
        cap: float = model.network.model.config.final_logit_softcapping
        logits_NV = cap * (logits_NV / cap).atanh()
    assert torch.allclose(mass_N, mass_of(logits_NV, tokens_T), rtol=1e-5, atol=1e-9)
    assert float(mass_of(logits_NV, torch.arange(logits_NV.shape[1]))[2]) == pytest.approx(1)


def test_a_row_of_the_unembedding_raises_its_own_token(model: LanguageModel) -> None:
    """Of the vector that the norm's gain turns into a token's row, as far as LayerNorm lets."""
    lens = LogitLens(model)
    gain_D = lens._norm.gain_D  # pyright: ignore[reportPrivateUsage]
    original: Any = model.network.model
    head: torch.Tensor = original.get_output_embeddings().weight.detach()
    token = int(head.square().sum(dim=1).argmax())
    top_NT = lens.top_tokens(torch.stack([head[token] / gain_D, randn(model.d_model)]), 3)
    assert int(top_NT[0, 0]) == token and top_NT.shape == (2, 3)
    assert torch.equal(lens.top_tokens(5 * (head[token] / gain_D)[None], 3)[0], top_NT[0])


def test_tokens_of_words(model: LanguageModel) -> None:
    """The tokenizer has single bytes only: a letter is a token, of a word the first is taken."""
    ids = {each: model.tokenize(each)[0] for each in ("a", "A", " ", "Z")}
    assert tokens_of_words(model, ["a"]) == [ids["a"], ids["A"]]
    assert tokens_of_words(model, ["Zebra", " a "]) == [ids[" "], ids["a"], ids["A"]]


def test_overlap() -> None:
    assert overlap([1, 2, 3], [3, 2, 1]) == 1.0
    assert overlap([1, 2], [2, 3, 4]) == 0.25
    assert overlap([], []) == 1.0 and overlap([1], [2]) == 0.0
    assert math.isclose(overlap(range(200), range(100, 300)), 1 / 3)
