"""Which of several sites tells the texts apart best, by cross-validation on those fitted to."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ...sae.common.errors import InputError
from .config import FitConfig
from .examples import Examples, folds
from .reading import ReadExamples
from .separation import auroc, d_prime, published_layer_score
from .site_fit import SiteFunction

_FOLDS = 5


def compared_sites(
    read: ReadExamples, fit_site: SiteFunction, config: FitConfig
) -> list[dict[str, Any]]:
    """How well the method tells texts apart at each site that it was not fitted to.

    The texts that are not held out are cut into five parts (fewer where there are few texts); each
    part is told apart by what was fitted to the others. So the texts that are held out for the
    report have no part in the choice.

    Returns:
        For each site in the model's order `site`, `auroc` and `d_prime`, the means over the parts
        (None where they are not defined), and of sets and pairs `published_layer_score`, on which
        nothing depends.

    Raises:
        InputError: there are fewer than two texts to fit to on a side, or the fit is not defined.
    """
    training_N = ~read.is_held_out_N
    first = next(iter(read.by_site.values())).take(training_N)
    groups = {int(group) for group in first.groups_N}
    n_folds = min(_FOLDS, _smallest_side(first))
    if n_folds < 2:
        raise InputError(
            f"site has {len(read.by_site)} sites, but there are too few texts to compare them; "
            "give at least two of each side beside those held out, or one site",
            field="site",
        )
    parts = [
        torch.isin(first.groups_N, torch.tensor(sorted(part)))
        for part in folds(read.source, groups, n_folds, config.seed)
    ]
    found: list[dict[str, Any]] = []
    for name, examples in read.by_site.items():
        training = examples.take(training_N)
        figures = [_of_part(training, part_N, fit_site, config) for part_N in parts]
        row: dict[str, Any] = {"site": name}
        for number, figure in enumerate(("auroc", "d_prime")):
            known = [each[number] for each in figures if not math.isnan(each[number])]
            row[figure] = math.fsum(known) / len(known) if known else None
        if training.kind in ("sets", "pairs"):
            row["published_layer_score"] = published_layer_score(*training.sides())
        found.append(row)
    return found


def best_site(compared: Sequence[dict[str, Any]]) -> str:
    """The site of the largest AUROC; of equal ones of the largest d', then the first."""

    def rank(row: dict[str, Any]) -> list[float]:
        return [-math.inf if row[name] is None else row[name] for name in ("auroc", "d_prime")]

    return max(compared, key=rank)["site"]


def finite(row: Mapping[str, Any]) -> dict[str, Any]:
    """What `compared_sites` says of a site, for JSON: without the d' of parts that are told apart
    without any spread, which is infinite."""
    return {name: None if value in (math.inf, -math.inf) else value for name, value in row.items()}


def _of_part(
    training: Examples, part_N: torch.Tensor, fit_site: SiteFunction, config: FitConfig
) -> tuple[float, float]:
    """AUROC and d' on a part of what was fitted to the rest; NaN where they are not defined."""
    part, positive_N = training.take(part_N), training.is_positive_N[part_N]
    scores = fit_site(training.take(~part_N), config).scores
    if scores is None:
        raise InputError(
            f"site has several sites, but {config.method} does not tell texts apart, by which one "
            "is chosen; give the one that is edited",
            field="site",
        )
    scores_N = scores(part.rows_ND)
    return auroc(scores_N, positive_N), d_prime(scores_N, positive_N)


def _smallest_side(examples: Examples) -> int:
    """Groups on the smaller side."""
    sides = (examples.is_positive_N, ~examples.is_positive_N)
    return min(len(np.unique(examples.groups_N[side_N].numpy())) for side_N in sides)
