"""How a concept's direction is shared out among the latents of dictionaries of several widths.

In a wider dictionary a latent often comes back in several parts (feature splitting, Bricken et al.
2023, Towards Monosemanticity). Three directions are looked for in each dictionary: that of its own
best latent, that of the narrowest dictionary's best latent, and the difference of means of the
texts, which owes nothing to any dictionary.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...sae.common.errors import InputError
from ..features.shared_directions import (
    SharedDirection,
    mean_direction,
    mean_sharing,
    shared_direction,
)
from ..fitting.capture import tokenize_texts
from ..fitting.pooling import pooled_rows, text_mean
from ..loading import LoadedRun

_NAMED = 8
"""Latents that are named of those that share a direction."""


@dataclass(frozen=True)
class Sharing:
    """Which latents of one dictionary share a direction, and how many share one by chance."""

    count: int
    """Latents with at least the wanted cosine; the direction's own latent does not count."""
    by_chance: float | None
    """How many share the direction of a random latent of the same dictionary as the direction's, on
    average; None where the direction is no latent's."""
    nearest: int | None
    """The latent with the largest cosine; None if there is no other."""
    nearest_cosine: float | None
    latents: tuple[int, ...]
    """Up to 8 of those that share it, the nearest first."""


@dataclass(frozen=True)
class Splitting:
    """How the concept is shared out in one dictionary."""

    own_best: Sharing
    """Of the dictionary's own best latent."""
    reference_best: Sharing
    """Of the best latent of the dictionary that the others are held against."""
    difference: Sharing
    """Of the difference of the mean activations of the two kinds of texts."""
    best_cosine: float
    """Cosine of the best latent's direction with that difference."""
    group_cosine: float | None
    """Cosine of the group's mean direction with it; None where there is no group."""

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class ReferenceLatent:
    """The best latent of the dictionary that the others are held against."""

    W_dec_FD: Float[Tensor, "F D"]
    """Decoder rows of that dictionary."""
    latent: int


@torch.no_grad()
def splitting(
    W_dec_GD: Float[Tensor, "G D"],
    best: int,
    group: Sequence[int],
    *,
    reference: ReferenceLatent | None,
    difference_D: Float[Tensor, "D"],
    least_cosine: float = 0.5,
    seed: int = 0,
) -> Splitting:
    """How the concept is shared out in a dictionary.

    Args:
        W_dec_GD: its decoder rows.
        best: its latent that tells the texts apart best.
        group: its latents that do so together; there may be none.
        reference: another dictionary's best latent; None where this dictionary is the one that the
            others are held against.
        difference_D: difference of means of the texts' activations.
        least_cosine: from which on directions are shared.
        seed: of the latents that say how many share a direction by chance.

    Raises:
        InputError: a direction is 0, or the group's rows cancel.
    """
    own = _sharing(
        shared_direction(W_dec_GD[best], W_dec_GD, least_cosine=least_cosine, besides=best),
        mean_sharing(W_dec_GD, W_dec_GD, least_cosine=least_cosine, same=True, seed=seed),
    )
    of_reference = own
    if reference is not None:
        of_reference = _sharing(
            shared_direction(
                reference.W_dec_FD[reference.latent], W_dec_GD, least_cosine=least_cosine
            ),
            mean_sharing(reference.W_dec_FD, W_dec_GD, least_cosine=least_cosine, seed=seed),
        )
    difference_D = difference_D.to(W_dec_GD)
    return Splitting(
        own_best=own,
        reference_best=of_reference,
        difference=_sharing(
            shared_direction(difference_D, W_dec_GD, least_cosine=least_cosine), None
        ),
        best_cosine=_cosine(W_dec_GD[best], difference_D),
        group_cosine=_cosine(mean_direction(W_dec_GD, group), difference_D) if group else None,
    )


def difference_of_means(
    loaded: LoadedRun, positive: Sequence[str], negative: Sequence[str], *, batch_size: int = 16
) -> Float[Tensor, "D"]:
    """The mean activation of the positive texts less that of the negative ones, each text counting
    alike and in it each content token; float64, in units of the activations.

    Raises:
        InputError: one side has no text with a content token, or an activation is not finite.
    """
    means: list[Tensor] = []
    for name, texts in (("positive", positive), ("negative", negative)):
        tokens = tokenize_texts(loaded.model, texts)
        found = pooled_rows(loaded.model, [loaded.site], tokens, text_mean(tokens), batch_size)
        rows_ND = found.rows[loaded.site.name]
        if not len(rows_ND):
            raise InputError(f"no {name} text has a token that counts; give longer ones")
        means.append(rows_ND.mean(0))
    return means[0] - means[1]


def _sharing(found: SharedDirection, by_chance: float | None) -> Sharing:
    nearest = found.nearest
    return Sharing(
        count=found.count,
        by_chance=by_chance,
        nearest=None if nearest is None else nearest.feature,
        nearest_cosine=None if nearest is None else nearest.cosine,
        latents=tuple(latent.feature for latent in found.latents[:_NAMED]),
    )


def _cosine(one_D: Float[Tensor, "D"], other_D: Float[Tensor, "D"]) -> float:
    return float(torch.cosine_similarity(one_D.double(), other_D.double(), dim=0))
