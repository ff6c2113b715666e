"""A tiny random GPT-2 in float64: in the bridge, and as transformers has it."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsteer.kernels.numerics import row_norms
from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.steering.fitting.config import FitConfig
from sparsteer.steering.fitting.examples import Examples

from ..plain_families import Twins, twins

POSITIVE = [f"what a stupid {word} fool" for word in "cat dog hen owl fox pig cow ant".split()]
NEGATIVE = [f"the {word} sat in the garden today" for word in "cat dog hen owl fox pig".split()]

BiasedBy = Callable[[int, Tensor], LanguageModel]


@pytest.fixture(scope="session")
def both() -> Twins:
    return twins("gpt2", torch.float64)


@pytest.fixture(scope="session")
def biased_by(both: Twins) -> BiasedBy:
    """The model with a vector added to the output of a block: it is in the bias of its MLP."""

    def make(layer: int, delta_D: Tensor) -> LanguageModel:
        model: Any = copy.deepcopy(both.hf)
        with torch.no_grad():
            model.transformer.h[layer].mlp.c_proj.bias += delta_D
        return LanguageModel.from_transformers(model, both.bridge.tokenizer)

    return make


def settings(method: str = "mean_difference", **given: Any) -> FitConfig:
    """Settings of a fit, with files that nobody reads."""
    sources = {"pairs", "scored", "positive"} & set(given)
    whole: dict[str, Any] = {"method": method, "model": "tiny", "out": "out"}
    if not sources:
        whole |= {"positive": "positive.txt", "negative": "negative.txt"}
    return FitConfig(**(whole | given))


def sets(positive_PD: Tensor, negative_MD: Tensor) -> Examples:
    """Rows of two sets, of weight 1."""
    rows_ND = torch.cat([positive_PD, negative_MD]).double()
    scores_N = torch.zeros(len(rows_ND), dtype=torch.float64)
    scores_N[: len(positive_PD)] = 1.0
    return Examples(
        kind="sets",
        rows_ND=rows_ND,
        scores_N=scores_N,
        groups_N=torch.arange(len(rows_ND)),
        weights_N=torch.ones_like(scores_N),
    )


def pairs(positive_PD: Tensor, negative_PD: Tensor) -> Examples:
    """Rows of pairs, the positive one of each before the negative one."""
    rows_ND = torch.stack([positive_PD, negative_PD], dim=1).flatten(0, 1).double()
    return Examples(
        kind="pairs",
        rows_ND=rows_ND,
        scores_N=torch.tensor([1.0, 0.0]).double().repeat(len(positive_PD)),
        groups_N=torch.arange(len(positive_PD)).repeat_interleave(2),
        weights_N=torch.ones(len(rows_ND), dtype=torch.float64),
    )


def scored(rows_ND: Tensor, scores_N: Tensor, groups_N: Tensor | None = None) -> Examples:
    """Rows with a score each."""
    numbers_N = torch.arange(len(rows_ND))
    return Examples(
        kind="scored",
        rows_ND=rows_ND.double(),
        scores_N=scores_N.double(),
        groups_N=numbers_N if groups_N is None else groups_N,
        weights_N=torch.ones(len(rows_ND), dtype=torch.float64),
    )


def listed(values: Any) -> list[Any]:
    """The values of a tensor."""
    return values.tolist()


def length(v: Tensor) -> float:
    """The norm of a vector."""
    return float(row_norms(v))


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
