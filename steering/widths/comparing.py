"""Ways to steer compared over dictionaries of several widths, prompt by prompt."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ..evaluation.statistics import compare, holm
from ..study.measuring import kept_scores
from ..study.rows import StudyRow
from .config import METHODS


@dataclass(frozen=True, eq=False)
class RunStudy:
    """The study of one dictionary."""

    name: str
    """Of the run."""
    folder: Path
    rows: Sequence[Mapping[str, Any]]
    """As `run_study` gives them."""

    def row(self, method: str, tier: str, cost: str) -> Mapping[str, Any] | None:
        """The row of a way to steer at a cost; None where there is none, or where its strength
        costs more than that."""
        wanted = {"method": method, "tier": tier, "cost": cost}
        for row in self.rows:
            if all(row[key] == value for key, value in wanted.items()):
                return row if StudyRow(row).within_budget else None
        return None

    def maxima(self, row: Mapping[str, Any], scorer: str) -> Float[np.ndarray, "P"]:
        """The largest score among the continuations of each prompt."""
        return kept_scores(self.folder, row["name"], scorer).max(axis=1)


@dataclass(frozen=True)
class _Side:
    """A way to steer in one dictionary."""

    study: RunStudy
    method: str


def compare_widths(
    studies: Sequence[RunStudy],
    *,
    tiers: Sequence[str],
    costs: Sequence[str],
    scorers: Sequence[str],
    reference: str | None = None,
) -> list[dict[str, Any]]:
    """Every way to steer of each dictionary beside the others of it, and beside the same of one
    dictionary.

    What is compared is each prompt's largest score among its continuations. P-values are adjusted
    by Holm's method over all comparisons together.

    Args:
        studies: those of the dictionaries, the narrowest first, on the same prompts.
        tiers, costs, scorers: names; what has no row within a cost is not compared.
        reference: name of the dictionary that the others are held against, by default the first.

    Returns:
        Of each comparison `relation` (`method` within a dictionary, `width` beside the reference),
        `cost`, `tier`, `scorer`, `run` and `method`, `other_run` and `other_method`, the means
        `own` and `other`, the fields of a `Comparison` with `standard_errors`, and `p_holm`. Plain
        JSON values, with None for infinity.

    Raises:
        InputError: as `compare`, or scores are missing.
    """
    held_against = next(
        (study for study in studies if study.name == reference), next(iter(studies), None)
    )
    found: list[dict[str, Any]] = []
    for cost in costs:
        for tier in tiers:
            for relation, own, other in _pairs(studies, held_against):
                rows = [side.study.row(side.method, tier, cost) for side in (own, other)]
                if rows[0] is None or rows[1] is None:
                    continue
                for scorer in scorers:
                    own_P = own.study.maxima(rows[0], scorer)
                    other_P = other.study.maxima(rows[1], scorer)
                    beside = compare(own_P, other_P)
                    errors = beside.in_standard_errors
                    found.append(
                        {
                            "relation": relation,
                            "cost": cost,
                            "tier": tier,
                            "scorer": scorer,
                            "run": own.study.name,
                            "method": own.method,
                            "other_run": other.study.name,
                            "other_method": other.method,
                            "own": float(own_P.mean()),
                            "other": float(other_P.mean()),
                            **dataclasses.asdict(beside),
                            "standard_errors": errors if math.isfinite(errors) else None,
                        }
                    )
    for one, adjusted in zip(found, holm([one["p_value"] for one in found]), strict=True):
        one["p_holm"] = adjusted
    return found


def _pairs(
    studies: Sequence[RunStudy], reference: RunStudy | None
) -> Iterator[tuple[str, _Side, _Side]]:
    for study in studies:
        for other, own in combinations(METHODS, 2):
            yield "method", _Side(study, own), _Side(study, other)
        if reference is not None and study is not reference:
            for method in METHODS:
                yield "width", _Side(study, method), _Side(reference, method)
