"""A tiny random model of each of some families, in float64 and without a bridge."""

import copy
from functools import cache
from typing import Any

import pytest
import torch

from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.steering.trace.config import TraceConfig

from ..plain_families import twins

TEXTS = {
    "concept": ["Where is it", "a b c a b", "why did the cat sit"],
    "unrelated": ["one two", "the garden is", "xyz xyz", "it was"],
}


@cache
def plain(family: str = "gpt2") -> LanguageModel:
    """Not to be changed; see `own`."""
    return twins(family, torch.float64).plain


def own(family: str = "gpt2") -> LanguageModel:
    """A copy that a test may change."""
    model: Any = copy.deepcopy(twins(family, torch.float64).hf)
    return LanguageModel.from_transformers(model, plain(family).tokenizer)


def settings(**given: Any) -> TraceConfig:
    """Settings with files that nobody reads."""
    whole: dict[str, Any] = {
        **{name: "none.txt" for name in ("intervention", "concept", "unrelated")},
        **{"model": "tiny", "value_vectors": 4, "n_words": 3, "max_new_tokens": 4, "draws": 2},
    }
    return TraceConfig(**(whole | given))


@pytest.fixture
def model() -> LanguageModel:
    return plain()
