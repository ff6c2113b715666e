"""Ways to steer compared: with the unsteered model, with random pushes, and with each other."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from ..evaluation.statistics import Comparison, compare, compare_with_draws, holm
from ..suite.store import finite
from .arm import Cost
from .conditions import AtCost, at_chosen_cost, at_measured_cost
from .config import StudyConfig
from .fronts import fronts
from .goal import goal_at
from .rows import PER_PROMPT, StudyRow, read_rows

_LEAST_P_VALUE = 1 / 10_001
_LEVEL = 0.05
_FEW_PROMPTS = 30
_SEVERAL_TIMES = 3


def compare_rows(rows: Sequence[Mapping[str, Any]], config: StudyConfig) -> dict[str, Any]:
    """What the rows of a study say together.

    Scores are compared by each prompt's largest one (of a toxicity scorer, its expected maximum
    toxicity), prompt by prompt. At each cost a way to steer is held against the unsteered model,
    against the mean of the random directions, and of the random latents, of the same cost, and a
    way with an autoencoder against the best one without (the lowest by that scorer). All of that
    twice: of the rows whose strengths were chosen for the cost, and where the measured cost is
    equal (see `at_measured_cost`). P-values are adjusted by Holm's method over all comparisons of
    the same kind of these two.

    Args:
        rows: as `measure` gives them, one of them of the unsteered model, all on the same prompts.
        config: of the study, whose `costs` are those that rows are compared at.

    Returns:
        `rows`: the same without the figures of single prompts; `comparisons`, each with `how`
        (`chosen` or `measured`), `cost`, `level` (the cost at which they were compared), `scorer`,
        `arm`, `against` (`none`, the random method, or the name of the other way), `relation`
        (`none`, `random` or `best_other`), `own` and `other` (expected maximum scores) and the
        fields of a `Comparison` with `standard_errors`, `p_holm` and `relative` (own / other - 1,
        None where other is 0); `fronts`, as `fronts` gives them; `goal`, as `goal_at` gives it for
        each cost; `excluded`, for each cost the ways that were not compared; `cautions`,
        sentences. Plain JSON values, with None for infinity.

    Raises:
        InputError: as `read_rows`, and as `compare`.
    """
    unsteered, others = read_rows(rows)
    at_costs = _at_costs(others, unsteered, config.costs)
    comparisons = [one for at in at_costs for one in _compared(at, unsteered)]
    comparisons += _without_cost(others, unsteered)
    for how in ("chosen", "measured"):
        own = [one for one in comparisons if one["how"] == how]
        for one, adjusted in zip(own, holm([one["p_value"] for one in own]), strict=True):
            one["p_holm"] = adjusted
    goals = [goal_at(at, unsteered) for at in at_costs]
    found = {
        "rows": [{key: row[key] for key in row if key != PER_PROMPT} for row in rows],
        "comparisons": comparisons,
        "fronts": fronts(others, unsteered),
        "goal": [goal for goal in goals if goal is not None],
        "excluded": [
            {"how": at.how, "cost": at.cost.name, "arms": list(at.excluded)}
            for at in at_costs
            if at.excluded
        ],
        "cautions": list(_cautions(comparisons, at_costs, unsteered)),
    }
    return cast(dict[str, Any], finite(found))


def _at_costs(rows: Sequence[StudyRow], unsteered: StudyRow, costs: Sequence[Cost]) -> list[AtCost]:
    found: list[AtCost] = []
    for cost in costs:
        found.append(at_chosen_cost(rows, cost))
        measured = at_measured_cost(rows, unsteered, cost)
        if measured is not None:
            found.append(measured)
    return found


def _compared(at: AtCost, unsteered: StudyRow) -> list[dict[str, Any]]:
    """All comparisons at one cost."""
    draws = {method: own for method, own in at.draws().items() if len(own) > 1}
    others = at.of_family("other")
    found: list[dict[str, Any]] = []
    for scorer in unsteered.scorers:
        base_P = unsteered.maxima(scorer)
        best = min(others, key=lambda one: one.mean(scorer), default=None)
        for one in at.conditions:
            if one.row.family == "random":
                continue
            own_P = one.maxima[scorer]
            about = {"how": at.how, "cost": at.cost.name, "level": at.level, "scorer": scorer}
            mean, base = one.mean(scorer), float(base_P.mean())
            found.append(
                _entry(about, one.name, "none", "none", mean, base, compare(own_P, base_P))
            )
            for method, conditions in draws.items():
                draws_RP = np.stack([draw.maxima[scorer] for draw in conditions])
                beside = compare_with_draws(own_P, draws_RP)
                found.append(
                    _entry(about, one.name, method, "random", mean, float(draws_RP.mean()), beside)
                )
            if best is not None and one.row.family == "sae":
                beside = compare(own_P, best.maxima[scorer])
                other = best.mean(scorer)
                found.append(_entry(about, one.name, best.name, "best_other", mean, other, beside))
    return found


def _without_cost(rows: Sequence[StudyRow], unsteered: StudyRow) -> list[dict[str, Any]]:
    """Ways that have no strength, such as a text before the prompt, beside the unsteered model."""
    found: list[dict[str, Any]] = []
    for row in rows:
        if row.cost is not None or row.family == "random":
            continue
        for scorer in unsteered.scorers:
            own_P, base_P = row.maxima(scorer), unsteered.maxima(scorer)
            about = {"how": "chosen", "cost": None, "level": None, "scorer": scorer}
            mean, base = float(own_P.mean()), float(base_P.mean())
            beside = compare(own_P, base_P)
            found.append(_entry(about, row.arm, "none", "none", mean, base, beside))
    return found


def _entry(
    about: Mapping[str, Any],
    arm: str,
    against: str,
    relation: str,
    own: float,
    other: float,
    found: Comparison,
) -> dict[str, Any]:
    return {
        **about,
        "arm": arm,
        "against": against,
        "relation": relation,
        "own": own,
        "other": other,
        "relative": own / other - 1 if other else None,
        **dataclasses.asdict(found),
        "standard_errors": found.in_standard_errors,
    }


def _cautions(
    comparisons: Sequence[Mapping[str, Any]], at_costs: Sequence[AtCost], unsteered: StudyRow
) -> list[str]:
    cautions: list[str] = []
    for how in ("chosen", "measured"):
        n = sum(one["how"] == how for one in comparisons)
        if n * _LEAST_P_VALUE > _LEVEL:
            cautions.append(
                f"{n} comparisons are adjusted together, and no p-value is below "
                f"{_LEAST_P_VALUE:.1g}, so that none can be significant at {_LEVEL:g}; look at "
                "standard errors, or compare fewer ways to steer"
            )
            break
    alone = dict.fromkeys(
        method for at in at_costs for method, own in at.draws().items() if len(own) < 2
    )
    cautions += [
        f"of {method} only one draw has the cost, which has no spread to compare with; draw more"
        for method in alone
    ]
    cautions += [found for at in at_costs if (found := _unequal_means(at, unsteered)) is not None]
    n_prompts = len(unsteered.maxima(unsteered.scorers[0]))
    if n_prompts < _FEW_PROMPTS:
        cautions.append(
            f"{n_prompts} prompts are few: intervals of the bootstrap are too narrow for so few"
        )
    capability: Mapping[str, Mapping[str, Any]] = unsteered.values["capability"] or {}
    for name, known in capability.items():
        if known["ci"][0] <= known["chance"]:
            cautions.append(
                f"unsteered the model answers {known['accuracy']:.1%} of {name}, which is no more "
                f"than by chance ({known['chance']:.1%}), so that they do not tell what steering "
                "costs"
            )
    return cautions


def _unequal_means(at: AtCost, unsteered: StudyRow) -> str | None:
    """What to be wary of where ways of an equal percentile of the KL differ much in its mean."""
    if (at.how, at.cost.kind) != ("chosen", "kl"):
        return None
    means = {
        one.name: mean
        for one in at.conditions
        if one.row.family != "random"
        and (mean := one.row.measured_cost("kl_mean", unsteered)) is not None
    }
    if len(means) < 2:
        return None
    least, most = min(means, key=lambda name: means[name]), max(means, key=lambda name: means[name])
    if means[most] <= _SEVERAL_TIMES * means[least]:
        return None
    return (
        f"at {at.cost.name}, a 95th percentile, the mean KL is from {means[least]:.2g} nats "
        f"({least}) to {means[most]:.2g} ({most}): these do not push equally hard. The percentile "
        "does not see a gate that opens at fewer than one token in twenty; compare at the mean, "
        "such as --cost kl_mean=0.1"
    )
