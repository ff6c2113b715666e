"""How many features were recognized, from answers to a quiz."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ...training.evaluation.standard_errors import ratio_standard_error
from ..labels.machine_label import wilson

NEEDED = 0.8
"""The fraction of a feature's pairs that must be right: 8 of 10."""

Answers = Mapping[int, Sequence[str | None]]
"""By the question, from 1, for each pair "A", "B" or None."""


def right_needed(n_pairs: int) -> int:
    """Pairs of a question that must be right for its feature to count as recognized."""
    return math.ceil(NEEDED * n_pairs - 1e-9)


def chance_to_recognize(n_pairs: int) -> float:
    """The probability that guessing is taken for recognizing: with 10 pairs 0.055."""
    least = right_needed(n_pairs)
    return sum(math.comb(n_pairs, right) for right in range(least, n_pairs + 1)) / 2**n_pairs


def score_answers(key: Sequence[Mapping[str, Any]], answers: Answers) -> dict[str, Any]:
    """Score the questions of which anything was answered; there, a pair left open is wrong.

    A feature counts as recognized if at least 8 in 10 of its pairs are right, which guessing gets
    with the probability `chance`; so a fraction not far above that tells of nothing.

    Args:
        key: as `key_of` gives it.
        answers: to some of its questions.

    Returns:
        `asked` questions and how many were `answered`; `recognized` of them, the `fraction` with
        its binomial interval `low` to `high` (Wilson, 95 %), `chance` and the rule, `needed` of
        `pairs`; `accuracy` over all pairs with `accuracy_standard_error`, the features being the
        clusters, and by kind of pair (`by_example`, `by_other`: right, asked and fraction); and
        `features` with `feature`, `right` and `recognized` each.
    """
    n_pairs = len(key[0]["pairs"]) if key else 0
    kinds: dict[str, dict[str, list[bool]]] = {"example": {}, "other": {}}
    features: list[dict[str, Any]] = []
    for question in key:
        given = answers.get(question["question"], ())
        if not any(given):
            continue
        right = [
            answer == pair["right"]
            for pair, answer in zip(question["pairs"], _padded(given, n_pairs), strict=True)
        ]
        for pair, is_right in zip(question["pairs"], right, strict=True):
            for kind, found in kinds.items():
                found.setdefault(pair[kind], []).append(is_right)
        features.append(
            {
                "feature": question["feature"],
                "right": sum(right),
                "recognized": sum(right) >= right_needed(n_pairs),
            }
        )
    n_answered = len(features)
    n_recognized = sum(feature["recognized"] for feature in features)
    fraction = n_recognized / n_answered if n_answered else None
    low, high = (None, None) if fraction is None else wilson(fraction, n_answered)
    right_G = torch.tensor([feature["right"] for feature in features], dtype=torch.float64)
    pairs_G = torch.full((n_answered,), float(n_pairs), dtype=torch.float64)
    return {
        "asked": len(key),
        "answered": n_answered,
        "recognized": n_recognized,
        "fraction": fraction,
        "low": low,
        "high": high,
        "chance": chance_to_recognize(n_pairs) if n_pairs else None,
        "needed": right_needed(n_pairs),
        "pairs": n_pairs,
        "accuracy": float(right_G.sum() / pairs_G.sum()) if n_answered else None,
        "accuracy_standard_error": ratio_standard_error(right_G, pairs_G) if n_answered else None,
        **{
            f"by_{kind}": {
                name: {
                    "right": sum(right),
                    "asked": len(right),
                    "fraction": sum(right) / len(right),
                }
                for name, right in sorted(found.items())
            }
            for kind, found in kinds.items()
        },
        "features": features,
    }


def _padded(given: Sequence[str | None], n_pairs: int) -> list[str | None]:
    return [*given, *[None] * (n_pairs - len(given))]
