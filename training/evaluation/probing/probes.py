"""Linear probes of few columns: split by text, columns and scaling from the training side alone.

A probe of k latents takes those whose mean differs most between the labels, as in Gurnee et al.
(arXiv 2305.01610) and SAEBench (2503.09532), and fits a logistic regression with an L2 penalty to
them. The fit and its figures are those of TransformerLens (`fit_sparse_probe`), in float64 and to a
proven distance from the optimum.
"""

import math
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .pooled import PooledCodes
from .tasks import hash_of

HELD_OUT_FRACTION = 0.3
"""Of the texts of each label: those on which probes are scored."""

PENALTY = 0.01
"""Coefficient of half the squared weights beside the mean loss, for probes of few columns."""

DENSE_PENALTIES = (0.01, 0.1, 1.0)
"""Those of which the probe of the whole activation takes the best."""


class Score(NamedTuple):
    """How well a probe tells the labels of held-out texts, of which half have each."""

    accuracy: float
    auc: float
    """Area under the receiver operating characteristic."""


def held_out_texts(
    texts: Sequence[str], labels_N: Bool[Tensor, "N"], seed: int
) -> Bool[Tensor, "N"]:
    """Which of different texts are held out: those of each label with the lowest hashes.

    A text's hash depends on the text and the seed alone, so that the order of the texts does not
    matter.
    """
    held_out_N = torch.zeros_like(labels_N)
    for label in (False, True):
        numbers = [int(number) for number in (labels_N == label).nonzero()[:, 0]]
        numbers.sort(key=lambda number: hash_of(texts[number], seed))
        held_out_N[numbers[: math.ceil(HELD_OUT_FRACTION * len(numbers))]] = True
    return held_out_N


def fit_probe(
    columns_NK: Float[Tensor, "N K"],
    labels_N: Bool[Tensor, "N"],
    held_out_N: Bool[Tensor, "N"],
    penalty: float = PENALTY,
) -> Score:
    """Fit a logistic regression to the training texts, and score it on the held-out ones.

    Columns are brought to mean 0 and deviation 1 over the training texts; one that is constant
    there takes no part.

    Args:
        columns_NK: what the probe sees of each text.
        labels_N: half of the held-out texts have each label, and half of the others.
        held_out_N: of `held_out_texts`.
        penalty: see `PENALTY`.

    A probe without columns guesses: 0.5.

    Raises RuntimeError if the optimizer does not come near enough to the optimum.
    """
    if not columns_NK.shape[1]:
        return Score(0.5, 0.5)
    # Whole groups are held out, those that bring the held-out fraction nearest to the wanted one:
    # with a group for each side that is the held-out side.
    result = _sparse_probing().fit_sparse_probe(
        columns_NK,
        labels_N,
        k=columns_NK.shape[1],
        test_fraction=HELD_OUT_FRACTION,
        groups=held_out_N.long(),
        preprocess="standardize",
        std_floor=0.0,
        class_weight=None,
        l2_strength=penalty,
    )
    if not torch.equal(result.test_indices.sort().values, held_out_N.nonzero()[:, 0]):
        raise RuntimeError("TransformerLens scored the probe on other texts than those held out")
    return Score(result.metrics.accuracy, result.metrics.roc_auc)


def ranked_latents(
    codes: PooledCodes, labels_N: Bool[Tensor, "N"], held_out_N: Bool[Tensor, "N"], most: int
) -> Tensor:
    """The latents whose mean differs most between the labels over the training texts, the best
    first, at most so many."""
    differences_F = codes.mean_differences(labels_N, ~held_out_N).abs()
    order_F = differences_F.argsort(descending=True, stable=True)
    return order_F[:most]


def shuffled(
    labels_N: Bool[Tensor, "N"], held_out_N: Bool[Tensor, "N"], seed: int
) -> Bool[Tensor, "N"]:
    """The labels with those of half of each label's training texts changed, drawn from the seed.

    So the training labels tell nothing of the true ones. Were they put in any order, a few more
    than half would agree or disagree with the truth, and a latent that knows the truth would be
    always right or always wrong.
    """
    generator = torch.Generator().manual_seed(seed)
    mixed_N = labels_N.clone()
    for label in (False, True):
        numbers = ((labels_N == label) & ~held_out_N).nonzero()[:, 0]
        order = torch.randperm(len(numbers), generator=generator)
        mixed_N[numbers[order[: len(numbers) // 2]]] = not label
    return mixed_N


def dense_probe(
    acts_ND: Float[Tensor, "N D"],
    texts: Sequence[str],
    labels_N: Bool[Tensor, "N"],
    held_out_N: Bool[Tensor, "N"],
    seed: int,
) -> Score:
    """A probe of every coordinate of the activation, the ceiling for probes of few latents.

    So many columns need a penalty that suits: the best of `DENSE_PENALTIES` on a part of the
    training texts is taken, which is held out in the same way, and the probe is fitted to them all
    with it.
    """
    training = (~held_out_N).nonzero()[:, 0]
    own_texts = [texts[int(number)] for number in training]
    inner_N = held_out_texts(own_texts, labels_N[training], seed)
    best = max(
        DENSE_PENALTIES,
        key=lambda penalty: fit_probe(acts_ND[training], labels_N[training], inner_N, penalty),
    )
    return fit_probe(acts_ND, labels_N, held_out_N, best)


@cache
def _sparse_probing() -> Any:
    """TransformerLens is slow to import."""
    return import_module("transformer_lens.tools.analysis.sparse_probing")
