"""Sparse logistic regression by scikit-learn: the l1 path, how far to go, and plain fits."""

import math
import warnings
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from ...sae.common.errors import InputError

FOLDS = 5
"""Of cross-validation."""

STEPS = 24
_FIRST, _SPAN = 1.05, 1e3
"""The path: so many strengths of the penalty, from one that leaves a first column to one weaker by
this factor."""

_INTERCEPT_SCALING = 100.0
"""liblinear shrinks the intercept as it does weights; scaled so, it is nearly free."""


@dataclass(frozen=True)
class PathPoint:
    """One strength of the penalty in cross-validation."""

    size: int
    """Features that it leaves, on all training texts."""
    auroc: float
    """Mean over the folds."""
    standard_error: float


class LabeledTexts(NamedTuple):
    """Texts to fit to or to score on."""

    X: Any
    """Sparse [n, C], float64, in units of the training texts' standard deviations."""
    y: Bool[np.ndarray, "n"]


def require_sklearn() -> None:
    """Raise an InputError unless scikit-learn is installed."""
    if find_spec("sklearn") is None:
        raise InputError(
            "a group is chosen with scikit-learn, which is missing; run "
            "pip install 'sparsteer[eval]', or leave --group out",
            field="group",
        )


def stratified_folds(y: Bool[np.ndarray, "N"], parts: int, seed: int) -> list[tuple[Any, Any]]:
    """Numbers of training texts and of the others, for each part that is left out."""
    selection = library("sklearn.model_selection")
    return list(selection.StratifiedKFold(parts, shuffle=True, random_state=seed).split(y, y))


def weights_of_size(
    texts: LabeledTexts, size: int, seed: int
) -> tuple[Int[np.ndarray, "k"], Float[np.ndarray, "k"]]:
    """The columns of the first fit of the path that has so many, or of the last one: those with the
    largest weights, and their weights."""
    weights = np.zeros(texts.X.shape[1])
    for strength in _strengths(texts):
        weights = _sparse_weights(texts, strength, seed)
        if np.count_nonzero(weights) >= size:
            break
    order = np.argsort(-np.abs(weights), kind="stable")[:size]
    order = order[weights[order] != 0]
    return order, weights[order]


def cross_validated_weights(
    texts: LabeledTexts, seed: int
) -> tuple[Int[np.ndarray, "k"], Float[np.ndarray, "k"], tuple[PathPoint, ...]]:
    """The smallest group of the path within a standard error of the best area over five folds: its
    columns, their weights, and the path."""
    all_weights: list[np.ndarray] = []
    path: list[PathPoint] = []
    splits = stratified_folds(texts.y, FOLDS, seed)
    for strength in _strengths(texts):
        areas: list[float] = []
        for train, test in splits:
            weights = _sparse_weights(LabeledTexts(texts.X[train], texts.y[train]), strength, seed)
            outer = LabeledTexts(texts.X[test], texts.y[test])
            areas.append(auroc(outer, outer.X @ weights))
        all_weights.append(_sparse_weights(texts, strength, seed))
        size = int(np.count_nonzero(all_weights[-1]))
        error = float(np.std(areas, ddof=1)) / math.sqrt(len(areas))
        path.append(PathPoint(size, float(np.mean(areas)), error))
    best = max(path, key=lambda point: (point.size > 0, point.auroc))
    least = best.auroc - best.standard_error
    good = [n for n, point in enumerate(path) if point.size and point.auroc >= least]
    weights = all_weights[min(good, key=lambda n: (path[n].size, n), default=-1)]
    chosen = np.flatnonzero(weights)
    return chosen, weights[chosen], tuple(path)


def _strengths(texts: LabeledTexts) -> Float[np.ndarray, "S"]:
    """C of scikit-learn, from just above where every weight is 0."""
    least = library("sklearn.svm").l1_min_c(
        texts.X, texts.y, loss="log", intercept_scaling=_INTERCEPT_SCALING
    )
    return least * np.geomspace(_FIRST, _SPAN, STEPS)


def _sparse_weights(texts: LabeledTexts, strength: float, seed: int) -> Float[np.ndarray, "C"]:
    model = library("sklearn.linear_model").LogisticRegression(
        l1_ratio=1.0,
        C=strength,
        solver="liblinear",
        intercept_scaling=_INTERCEPT_SCALING,
        tol=1e-5,
        max_iter=1000,
        random_state=seed,
    )
    return _fitted(model, texts).coef_[0]


def held_out_scores(
    training: LabeledTexts, testing: LabeledTexts, columns: Int[np.ndarray, "k"]
) -> Float[np.ndarray, "n"]:
    """What a logistic regression with a plain l2 penalty on these columns, fitted to the training
    texts, gives the held-out ones; all the same without columns."""
    if not len(columns):
        return np.zeros(len(testing.y))
    model = library("sklearn.linear_model").LogisticRegression(C=1.0, max_iter=1000)
    fitted = _fitted(model, LabeledTexts(training.X[:, columns], training.y))
    return fitted.decision_function(testing.X[:, columns])


def _fitted(model: Any, texts: LabeledTexts) -> Any:
    with warnings.catch_warnings():
        # Where texts can be told apart a weak penalty leaves large weights that converge slowly.
        warnings.filterwarnings("ignore", message=".*failed to converge")
        return model.fit(texts.X, texts.y)


def auroc(texts: LabeledTexts, scores: Float[np.ndarray, "n"]) -> float:
    """The area under the ROC curve of one number for each text."""
    return float(library("sklearn.metrics").roc_auc_score(texts.y, scores))


def library(name: str) -> Any:
    """scikit-learn and scipy, which only the extra `eval` brings, and which are slow to import."""
    return import_module(name)
