"""What a method sees at one site: rows of activations, each with its score, weight and group."""

import math
from collections.abc import Set
from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...sae.common.errors import InputError
from ...training.evaluation.probing.tasks import hash_of
from ..errors import NotDefined
from .sources import Source, SourceKind

LEAST_TO_HOLD_OUT = 4
"""Texts, pairs or groups of each side of which some can be held out."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Examples:
    """N rows of activations at one site, in float64."""

    kind: SourceKind
    rows_ND: Float[Tensor, "N D"]
    scores_N: Float[Tensor, "N"]
    """1 for positive and 0 for negative ones; the scores of scored texts; 0 of plain texts."""
    groups_N: Int[Tensor, "N"]
    """Rows of one group are a pair, or belong together as the user said."""
    weights_N: Float[Tensor, "N"]
    """How much each counts, where rows do not count alike."""

    def __len__(self) -> int:
        return len(self.scores_N)

    @property
    def is_positive_N(self) -> Bool[Tensor, "N"]:
        """Which rows are of positive texts; of scored ones those above the mean score."""
        return self.scores_N > self.scores_N.mean()

    def take(self, chosen_N: Bool[Tensor, "N"]) -> "Examples":
        """Some of the rows."""
        return Examples(
            kind=self.kind,
            rows_ND=self.rows_ND[chosen_N],
            scores_N=self.scores_N[chosen_N],
            groups_N=self.groups_N[chosen_N],
            weights_N=self.weights_N[chosen_N],
        )

    def sides(self) -> tuple[Float[Tensor, "P D"], Float[Tensor, "M D"]]:
        """The rows of positive and of negative texts.

        Raises:
            NotDefined: there are none of one side.
        """
        positive_N = self.is_positive_N
        if not positive_N.any() or positive_N.all():
            raise NotDefined(
                "of the texts that are fitted to none is left on one side; give more texts with "
                "at least two tokens each"
            )
        return self.rows_ND[positive_N], self.rows_ND[~positive_N]

    def mean_difference(self) -> Float[Tensor, "D"]:
        """The weighted mean of the positive rows minus that of the negative ones.

        Raises:
            NotDefined: there are none of one side.
        """
        self.sides()
        positive_N = self.is_positive_N
        means = [
            self.weights_N[side] @ self.rows_ND[side] / self.weights_N[side].sum()
            for side in (positive_N, ~positive_N)
        ]
        return means[0] - means[1]

    def pair_differences(self) -> Float[Tensor, "P D"]:
        """The positive row of each pair minus its negative one, in the order of the pairs.

        Raises:
            ValueError: the texts are no pairs.
        """
        if self.kind != "pairs":
            raise ValueError(f"{self.kind} have no pair differences")
        order = self.groups_N.argsort(stable=True)
        positive_N = self.scores_N[order] > 0.5
        return self.rows_ND[order][positive_N] - self.rows_ND[order][~positive_N]


def held_out_groups(source: Source, fraction: float, seed: int) -> set[int]:
    """The groups of a source that are held out, by a hash of their texts: about that fraction of
    the groups of positive, and of those of negative texts.

    The order of the texts does not matter, and copies of a pair or of a group stay together.

    Raises:
        InputError: a side has too few to hold some out.
    """
    if not fraction:
        return set()
    hashes = _hashes(source, seed)
    held_out: set[int] = set()
    for side in _sides(source):
        if len(side) < LEAST_TO_HOLD_OUT:
            raise InputError(
                f"held_out is {fraction:g}, but there are only {len(side)} {_called(source)}; give "
                f"at least {LEAST_TO_HOLD_OUT}, or --held-out 0 to fit to all of them",
                field="held_out",
            )
        n_held_out = min(max(1, round(fraction * len(side))), len(side) - 2)
        held_out |= set(sorted(side, key=lambda group: hashes[group])[:n_held_out])
    return held_out


def folds(source: Source, groups: Set[int], n_folds: int, seed: int) -> list[set[int]]:
    """Groups in parts of about the same size, with about as many of each side in each, by hash."""
    hashes = _hashes(source, seed + 1)
    parts: list[set[int]] = [set() for _ in range(n_folds)]
    for side in _sides(source):
        for place, group in enumerate(sorted(side & groups, key=lambda group: hashes[group])):
            parts[place % n_folds].add(group)
    return parts


def _sides(source: Source) -> list[set[int]]:
    """The groups of positive and those of negative texts; all together where a group has both."""
    if not source.scores:
        return [set(source.groups)]
    sides: list[set[int]] = [set(), set()]
    for group, positive in zip(source.groups, source.is_positive, strict=True):
        sides[int(positive)].add(group)
    return [sides[0] | sides[1]] if sides[0] & sides[1] else sides


def _called(source: Source) -> str:
    """What is held out, in words."""
    if source.kind == "pairs":
        return "pairs"
    grouped = len(set(source.groups)) < len(source.groups)
    return "groups of texts" if grouped else "texts on one side"


def _hashes(source: Source, seed: int) -> dict[int, str]:
    """A hash of each group, of its texts in alphabetical order."""
    texts: dict[int, list[str]] = {}
    for text, group in zip(source.texts, source.groups, strict=True):
        texts.setdefault(group, []).append(text)
    return {group: hash_of("\0".join(sorted(found)), seed) for group, found in texts.items()}


def unit(v_D: Float[Tensor, "D"]) -> Float[Tensor, "D"]:
    """The vector at length 1; it must not be 0."""
    return v_D / math.sqrt(float(v_D @ v_D))
