"""A group of features that tells two sets of texts apart together: a sparse logistic regression.

The l1 penalty (Tibshirani 1996) takes features one by one as it is relaxed; the fits, folds and
areas are scikit-learn's. Whatever is chosen, by the penalty or as a control, is chosen on two
thirds of the texts, fitted to them again without l1, and scored on the last third.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...sae.common.errors import InputError
from .area_intervals import Interval, difference_of_areas
from .pooling import Pooled
from .ranking import AUROC
from .sparse_logistic import (
    FOLDS,
    STEPS,
    LabeledTexts,
    PathPoint,
    auroc,
    cross_validated_weights,
    held_out_scores,
    library,
    require_sklearn,
    stratified_folds,
    weights_of_size,
)

LEAST_TEXTS = 10
"""Different texts of each kind that a group needs."""

_PARTS = 3
"""Of the texts one in so many is held out."""

_RANDOM_GROUPS = 20
_SHUFFLES = 5


@dataclass(frozen=True)
class GroupMember:
    """A feature of a group."""

    feature: int
    weight: float
    """Of the regression, for the feature's value divided by its standard deviation over the
    training texts; below 0 where the feature speaks for the negative texts."""


@dataclass(frozen=True)
class FeatureGroup:
    """Features that tell the texts apart together, and what to hold them against.

    Every area (AUROC) is over the held-out texts, which nothing was chosen or fitted on.
    """

    features: tuple[GroupMember, ...]
    """The largest weight first."""
    auroc: float
    best_feature: int
    """The single feature with the largest area on the training texts, in either direction."""
    best_auroc: float
    gain: Interval
    """auroc - best_auroc, with a 95 % interval over resampled held-out texts."""
    random_mean: float
    """Of 20 groups of as many random features, fitted in the same way."""
    random_deviation: float
    shuffled_mean: float
    """Of groups of as many features that were chosen and fitted on shuffled labels, 5 times. Far
    from 0.5, there are too few texts to say anything."""
    shuffled_deviation: float
    considered: int
    """Features that it was chosen from."""
    training_texts: int
    held_out_texts: int
    path: tuple[PathPoint, ...]
    """Cross-validation on the training texts; empty where a size was wanted."""


def require_enough_texts(positive: Sequence[str], negative: Sequence[str]) -> None:
    """Raise an InputError, before anything is read, if there are fewer than 10 different texts of a
    kind that are not in the other set, too, or scikit-learn is missing."""
    require_sklearn()
    _require_enough(len(set(positive) - set(negative)), len(set(negative) - set(positive)))


def select_group(
    pooled: Pooled,
    is_positive_N: Bool[Tensor, "N"],
    texts: Sequence[str],
    candidates_C: Int[Tensor, "C"],
    *,
    size: int = 0,
    seed: int = 0,
    say: Callable[[str], None] = lambda sentence: None,
) -> FeatureGroup:
    """Choose a group of features by l1-penalized logistic regression.

    Of equal texts one is taken, and none of those that are in both sets, so that no text is both
    fitted to and scored.

    Args:
        pooled: one number for each text and latent; 0 where a pair is missing.
        is_positive_N: the labels.
        texts: the N texts, by which equal ones are known.
        candidates_C: features to choose from.
        size: features wanted: the path is followed until it has so many, and the largest weights
            are kept. 0: cross-validation over five folds takes the smallest group whose area is
            within one standard error of the best.
        seed: of split, folds, random groups and shuffles.
        say: told beforehand what it costs.

    Raises:
        InputError: scikit-learn is missing, there are fewer than 10 different texts of a kind, or
            no candidate differs between the training texts.
    """
    require_sklearn()
    taken = _different(texts, is_positive_N)
    y = is_positive_N.numpy()[taken]
    _require_enough(int(y.sum()), int((~y).sum()))
    train, held_out = stratified_folds(y, _PARTS, seed)[0]
    # A path and a fit each for the group and the shuffled labels; one feature; random groups.
    n_fits = (_SHUFFLES + 1) * (STEPS + 1) + 1 + _RANDOM_GROUPS + (0 if size else FOLDS * STEPS)
    say(f"choosing a group of features: at most {n_fits} fits to {len(train):,} texts")
    X, names = _columns(pooled, len(texts), candidates_C, taken, train)
    training, testing = LabeledTexts(X[train], y[train]), LabeledTexts(X[held_out], y[held_out])
    path: tuple[PathPoint, ...] = ()
    if size:
        chosen, weights = weights_of_size(training, size, seed)
    else:
        chosen, weights, path = cross_validated_weights(training, seed)
    group_scores = held_out_scores(training, testing, chosen)
    areas = _areas_of_each(training)
    best = int(np.argmax(np.abs(areas - 0.5)))
    best_scores = held_out_scores(training, testing, np.array([best]))
    generator = np.random.default_rng(seed)
    n = len(chosen)
    randoms = [
        auroc(testing, held_out_scores(training, testing, generator.permutation(len(names))[:n]))
        for _ in range(_RANDOM_GROUPS)
    ]
    shuffled = [_by_shuffled(training, testing, n, generator, seed) for _ in range(_SHUFFLES)]
    order = np.argsort(-np.abs(weights), kind="stable")
    return FeatureGroup(
        features=tuple(
            GroupMember(int(names[chosen[place]]), float(weights[place])) for place in order
        ),
        auroc=auroc(testing, group_scores),
        best_feature=int(names[best]),
        best_auroc=auroc(testing, best_scores),
        gain=difference_of_areas(group_scores, best_scores, testing.y, seed),
        random_mean=float(np.mean(randoms)),
        random_deviation=float(np.std(randoms, ddof=1)),
        shuffled_mean=float(np.mean(shuffled)),
        shuffled_deviation=float(np.std(shuffled, ddof=1)),
        considered=len(candidates_C),
        training_texts=len(train),
        held_out_texts=len(held_out),
        path=path,
    )


def _different(texts: Sequence[str], is_positive_N: Bool[Tensor, "N"]) -> Int[np.ndarray, "M"]:
    """The numbers of the texts to take: the first of equal ones, and none that has both labels."""
    labeled = dict.fromkeys(zip(texts, map(bool, is_positive_N), strict=True))
    labels = Counter(text for text, _ in labeled)
    first: dict[str, int] = {}
    for number, text in enumerate(texts):
        if labels[text] == 1:
            first.setdefault(text, number)
    return np.array(list(first.values()), dtype=np.int64)


def _require_enough(n_positive: int, n_negative: int) -> None:
    for name, found in (("positive", n_positive), ("negative", n_negative)):
        if found < LEAST_TEXTS:
            raise InputError(
                f"a group is fitted to some texts and scored on others, and needs {LEAST_TEXTS} "
                f"different {name} texts; there {'is' if found == 1 else 'are'} {found}: give "
                "more, or leave --group out",
                field="group",
            )


def _columns(
    pooled: Pooled,
    n_texts: int,
    candidates_C: Int[Tensor, "C"],
    taken: Int[np.ndarray, "M"],
    train: Int[np.ndarray, "n"],
) -> tuple[Any, Int[np.ndarray, "C"]]:
    """Values of the taken texts as a sparse [M, C] matrix, each column divided by its standard
    deviation over the training texts, and the features of its columns; what is constant there is
    left out."""
    sparse = library("scipy.sparse")
    candidates = candidates_C.numpy()
    latents, texts = pooled.latents.numpy(), pooled.texts.numpy()
    column_F = np.full(1 + max(candidates.max(initial=-1), latents.max(initial=-1)), -1)
    column_F[candidates] = np.arange(len(candidates))
    known = column_F[latents] >= 0
    places = texts[known], column_F[latents[known]]
    values = pooled.values.double().numpy()[known]
    X = sparse.csr_matrix((values, places), shape=(n_texts, len(candidates)))[taken]
    training = X[train]
    means = np.asarray(training.mean(axis=0)).ravel()
    squares = np.asarray(training.multiply(training).mean(axis=0)).ravel()
    variances = squares - means**2
    varies = variances > 1e-12 * squares
    if not varies.any():
        raise InputError(
            "no feature differs between the texts that a group would be fitted to; give other "
            "texts, lower --min-firing, or leave --group out",
            field="group",
        )
    scales = sparse.diags(1 / np.sqrt(variances[varies]))
    return (X[:, varies] @ scales).tocsr(), candidates[varies]


def _by_shuffled(
    training: LabeledTexts,
    testing: LabeledTexts,
    size: int,
    generator: np.random.Generator,
    seed: int,
) -> float:
    """The area of a group that is chosen and fitted on shuffled labels."""
    mixed = LabeledTexts(training.X, generator.permutation(training.y))
    chosen, _ = weights_of_size(mixed, size, seed)
    return auroc(testing, held_out_scores(mixed, testing, chosen))


def _areas_of_each(texts: LabeledTexts) -> Float[np.ndarray, "C"]:
    """The area of every column by itself."""
    entries = texts.X.tocoo()
    rows, columns, values = (
        torch.as_tensor(part) for part in (entries.row, entries.col, entries.data)
    )
    pooled = Pooled(columns.long(), rows.long(), values)
    ranks = AUROC(pooled, len(texts.y), texts.X.shape[1])
    return ranks.areas(torch.as_tensor(texts.y)).numpy()
