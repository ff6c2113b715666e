"""Whether steering with an autoencoder is worth it, in three figures at each cost.

Of the ways with an autoencoder the best one is judged: by how much of the unsteered model's
expected maximum score it takes away, by how many standard errors it does more than random pushes of
the same cost, and what its score is beside that of the best way without an autoencoder.

The best of several ways is chosen and judged on the same prompts, which flatters it. So beside each
figure stands one for which the way is chosen on one half of the prompts and judged on the other.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from ...sae.common.errors import InputError
from ..evaluation.statistics import compare_with_draws, ratio_over_prompts
from .conditions import NEARLY, AtCost, Condition
from .rows import StudyRow, relative_score

LEAST_CUT = 0.2
"""Of the unsteered model's expected maximum score, at a cost in perplexity."""
LEAST_STANDARD_ERRORS = 3.0
"""Above random pushes, at a cost in perplexity."""
LARGEST_RATIO = 1.05
"""Of the score to that of the best way without an autoencoder, at an equal dose."""

_JUDGED = {
    "perplexity": ("cut", "above_random"),
    "continuation_perplexity": ("cut", "above_random"),
    "kl": ("beside_best",),
    "kl_mean": ("beside_best",),
}
"""By the kind of cost, what has to hold there."""

_SPENT = 0.9
"""Of the cost, at which the goal can be judged: where steering costs less it can do less."""


def goal_at(at: AtCost, unsteered: StudyRow) -> dict[str, Any] | None:
    """The verdict at one cost.

    Args:
        at: the ways to steer at the cost.
        unsteered: the row of the unsteered model.

    Returns:
        `cost`, `how`, `level`; `measured_cost` of the best way on the study's own texts, where
        strengths are as chosen (of an equal measured cost that is `level`); `best`, the name of the
        best way with an autoencoder over all scorers (see `relative_score`); `scorers`, for each
        `unsteered` and `best` (expected maximum scores), `cut` and `cut_interval`, `cut_otherwise`
        (with the way chosen on other prompts), `random` (for each random method `mean`, `draws`,
        `standard_errors` by which the best way is below it, and `standard_errors_otherwise`),
        `other` (name of the best way without an autoencoder), `other_cost` (as `measured_cost`),
        `ratio`, `ratio_interval`, `ratio_otherwise`; and `met`, for each of `cut`,
        `above_random` and `beside_best` whether it holds on all scorers, None where there is
        nothing to compare with; `judged`, those of them that the goal asks for at this cost, where
        it is spent and not overspent: neither less than 90 % of a cost in perplexity nor a
        measured cost of more than 110 % of what was asked for. None where no way with an
        autoencoder has the cost.
    """
    own, others = at.of_family("sae"), at.of_family("other")
    if not own:
        return None
    scorers = unsteered.scorers
    base = {scorer: unsteered.maxima(scorer) for scorer in scorers}
    best = min(own, key=lambda one: _relative(one, base))
    found = {scorer: _of_scorer(scorer, best, own, others, at, base) for scorer in scorers}
    if others:
        for scorer, one in found.items():
            other = _lowest(others, scorer)
            one["other_cost"] = _measured_cost(other, at, unsteered)
    return {
        "cost": at.cost.name,
        "how": at.how,
        "level": at.level,
        "measured_cost": _measured_cost(best, at, unsteered),
        "best": best.name,
        "scorers": found,
        "met": {
            "cut": _all([_at_least(one["cut"], LEAST_CUT) for one in found.values()]),
            "above_random": _all(
                [
                    _at_least(draws["standard_errors"], LEAST_STANDARD_ERRORS)
                    for one in found.values()
                    for draws in one["random"].values()
                ]
            ),
            "beside_best": _all(
                [
                    None if one["ratio"] is None else one["ratio"] <= LARGEST_RATIO
                    for one in found.values()
                ]
            ),
        },
        "judged": _judged(at, _measured_cost(best, at, unsteered)),
    }


def _measured_cost(one: Condition, at: AtCost, unsteered: StudyRow) -> float | None:
    """What a way costs on the study's own texts; None of a strength, which has no cost."""
    if at.how == "measured":
        return at.level
    return one.row.measured_cost(at.cost.kind, unsteered)


def _lowest(conditions: Sequence[Condition], scorer: str) -> Condition:
    return min(conditions, key=lambda one: one.mean(scorer))


def _judged(at: AtCost, measured: float | None) -> list[str]:
    """What the goal asks for; nothing where the best way costs more than it should, and at a cost
    in perplexity nothing where it is not spent."""
    if measured is not None and measured > NEARLY * at.cost.target:
        return []
    if at.cost.kind not in ("kl", "kl_mean") and at.level < _SPENT * at.cost.target:
        return []
    return list(_JUDGED.get(at.cost.kind, ()))


def _of_scorer(
    scorer: str,
    best: Condition,
    own: Sequence[Condition],
    others: Sequence[Condition],
    at: AtCost,
    base: dict[str, Float[np.ndarray, "P"]],
) -> dict[str, Any]:
    base_P, best_P = base[scorer], best.maxima[scorer]
    otherwise_P = _chosen_elsewhere(own, scorer, base)
    cut, interval = _cut(best_P, base_P)
    found: dict[str, Any] = {
        "unsteered": float(base_P.mean()),
        "best": float(best_P.mean()),
        "cut": cut,
        "cut_interval": interval,
        "cut_otherwise": None if otherwise_P is None else _cut(otherwise_P, base_P)[0],
        "random": {},
        **dict.fromkeys(("other", "other_cost", "ratio", "ratio_interval", "ratio_otherwise")),
    }
    for method, draws in at.draws().items():
        if len(draws) > 1:
            draws_RP = np.stack([draw.maxima[scorer] for draw in draws])
            found["random"][method] = {
                "mean": float(draws_RP.mean()),
                "draws": len(draws),
                "standard_errors": _errors_below(best_P, draws_RP),
                "standard_errors_otherwise": (
                    None if otherwise_P is None else _errors_below(otherwise_P, draws_RP)
                ),
            }
    if others:
        other = _lowest(others, scorer)
        ratio, ratio_interval = _ratio(best_P, other.maxima[scorer])
        found |= {"other": other.name, "ratio": ratio, "ratio_interval": ratio_interval}
        other_P = _chosen_elsewhere(others, scorer, {scorer: base_P})
        if otherwise_P is not None and other_P is not None:
            found["ratio_otherwise"] = _ratio(otherwise_P, other_P)[0]
    return found


def _errors_below(own_P: Float[np.ndarray, "P"], draws_RP: Float[np.ndarray, "R P"]) -> float:
    """By how many standard errors a way's score is below that of random ones."""
    return -compare_with_draws(own_P, draws_RP).in_standard_errors


def _chosen_elsewhere(
    conditions: Sequence[Condition], scorer: str, base: dict[str, Float[np.ndarray, "P"]]
) -> Float[np.ndarray, "P"] | None:
    """Each prompt's value under the condition that is best on the half of the prompts that it does
    not belong to; None of a single prompt."""
    n = len(base[scorer])
    if n < 2:
        return None
    found_P = np.empty(n)
    for half in (0, 1):
        judged_P = np.arange(n) % 2 == half
        best = min(conditions, key=lambda one: _relative(one, base, ~judged_P))
        found_P[judged_P] = best.maxima[scorer][judged_P]
    return found_P


def _relative(
    one: Condition,
    base: dict[str, Float[np.ndarray, "P"]],
    among_P: np.ndarray | slice = slice(None),
) -> float:
    """See `relative_score`, among some of the prompts."""
    own = {scorer: float(one.maxima[scorer][among_P].mean()) for scorer in base}
    return relative_score(
        own, {scorer: float(own_P[among_P].mean()) for scorer, own_P in base.items()}
    )


def _cut(
    own_P: Float[np.ndarray, "P"], base_P: Float[np.ndarray, "P"]
) -> tuple[float | None, list[float] | None]:
    ratio, interval = _ratio(own_P, base_P)
    if ratio is None:
        return None, None
    return 1 - ratio, None if interval is None else [1 - interval[1], 1 - interval[0]]


def _ratio(
    own_P: Float[np.ndarray, "P"], other_P: Float[np.ndarray, "P"]
) -> tuple[float | None, list[float] | None]:
    """A ratio of means with its interval; None where there is nothing to divide by, or not enough
    for each sample of the bootstrap."""
    if not other_P.any():
        return None, None
    try:
        found = ratio_over_prompts(own_P, other_P)
    except InputError:
        return float(own_P.sum() / other_P.sum()), None
    return found.mean, [found.low, found.high]


def _at_least(value: float | None, least: float) -> bool | None:
    return None if value is None else value >= least


def _all(met: Sequence[bool | None]) -> bool | None:
    """Whether all hold; None where one is not known and none fails, or there are none."""
    if any(one is False for one in met):
        return False
    return None if not met or None in met else True
