"""Examples by level of activation: groups of a latent's firings, and some of each from a uniform
sample.

The groups are cut in the fine histogram of all firings, so their sizes are exact. What the sample
has of a group is a uniform sample of the group.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .statistics import LatentStatistics, fine_bins
from .tables import ExampleTable

SAMPLED_FOR_EACH = 2
"""Firings sampled for each example that is wanted of a level: with 5 levels of 5 examples 50, of
which a level then has fewer than 5 with a chance of 2 %."""

_PAIRS_AT_ONCE = 1 << 23
"""Pairs of sampled firings that are compared at a time."""


@dataclass(frozen=True)
class Levels:
    """The groups of F latents, from the lowest activations to the highest."""

    bounds: Float[Tensor, "F G1"]
    counts: Int[Tensor, "F G"]
    """int64: firings in each group."""
    places: Int[Tensor, "F M"]
    """int64: which places of the sample are the examples, group by group, the largest first; -1
    where a group has no more."""
    duplicates: Int[Tensor, "F M"]
    """int32: sampled firings of the group with the same window, which are left out."""


def levels(
    sample: ExampleTable,
    statistics: LatentStatistics,
    *,
    peak: int,
    n_groups: int,
    n_examples: int,
) -> Levels:
    """Cut each latent's firings into groups of about equal size, and choose examples of each.

    Args:
        sample: a uniform sample of the firings, in random order, of n_examples or more.
        statistics: of all firings.
        peak: column of a window in which the firing itself is.
        n_groups, n_examples: groups, and examples of each.
    """
    bounds, bins_FG, counts = statistics.groups(n_groups)
    places: list[Tensor] = []
    duplicates: list[Tensor] = []
    at_once = max(1, _PAIRS_AT_ONCE // sample.scores.shape[1] ** 2)
    for first in range(0, len(bounds), at_once):
        block = slice(first, first + at_once)
        values_TS = sample.activations[block, :, peak].contiguous()
        used_TS = sample.rows[block] >= 0
        group_TS = torch.searchsorted(bins_FG[block], fine_bins(values_TS), right=True) - 1
        group_TS = group_TS.masked_fill(~used_TS, -1)
        equal_TSS = _pairs(sample.identities[block]) & _pairs(group_TS) & used_TS[:, None]
        is_again_TS = equal_TSS.tril(-1).any(2)
        more_TS = equal_TSS.triu(1).sum(2, dtype=torch.int32)
        places_TG: list[Tensor] = []
        for group in range(n_groups):
            is_one_TS = (group_TS == group) & ~is_again_TS
            is_chosen_TS = is_one_TS & (is_one_TS.cumsum(1) <= n_examples)
            # Activations are positive.
            best_TN, places_TN = (values_TS * is_chosen_TS).topk(n_examples, dim=1)
            places_TG.append(places_TN.masked_fill(best_TN <= 0, -1))
        places_TM = torch.cat(places_TG, dim=1)
        places.append(places_TM)
        more_TM = more_TS.gather(1, places_TM.clamp(min=0))
        duplicates.append(more_TM.masked_fill(places_TM < 0, 0))
    return Levels(bounds, counts, torch.cat(places), torch.cat(duplicates))


def _pairs(values_TS: Int[Tensor, "T S"]) -> Tensor:
    """Which pairs are equal, [T, S, S]."""
    return values_TS[:, :, None] == values_TS[:, None, :]
