"""Which of the ranked features say the same as a better one, by direction or by firing."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..encoding import EncodedText


@dataclass(frozen=True)
class Duplicate:
    """A feature that was left out, since a better one says the same."""

    feature: int
    of: int
    """The better feature."""
    by: Literal["cosine", "cofiring"]
    """Whether the decoder directions are alike, or the tokens on which both fire are the same."""
    value: float
    """The cosine; or the tokens on which both fire as a fraction of those on which either does."""


class FiringTokens:
    """On which tokens of the texts every latent fires, noted while the texts are read.

    It takes 8 bytes for each code of a text.
    """

    def __init__(self) -> None:
        """Nothing is noted yet."""
        self._latents: list[Tensor] = []
        self._tokens: list[Tensor] = []
        self._n_tokens = 0
        self._by_latent: tuple[Tensor, Tensor] | None = None

    def noted(self, encoded: Iterable[EncodedText]) -> Iterator[EncodedText]:
        """The texts as they come, noted."""
        for text in encoded:
            used_CM = text.codes.values > 0
            rows_E = used_CM.nonzero()[:, 0]
            self._latents.append(text.codes.indices[used_CM].int())
            self._tokens.append((rows_E + self._n_tokens).int())
            self._n_tokens += len(used_CM)
            yield text

    def of(self, latent: int) -> Int[Tensor, "N"]:
        """int32: the tokens on which a latent fires, in order; all texts must be noted before."""
        if self._by_latent is None:
            none = torch.empty(0, dtype=torch.int32)
            latents_E = torch.cat([none, *self._latents])
            latents_E, order = latents_E.sort(stable=True)
            self._by_latent = latents_E, torch.cat([none, *self._tokens])[order]
            self._latents, self._tokens = [], []
        latents_E, tokens_E = self._by_latent
        ends = torch.searchsorted(latents_E, torch.tensor([latent, latent + 1], dtype=torch.int32))
        return tokens_E[int(ends[0]) : int(ends[1])]

    def jaccard(self, latent: int, others: list[int]) -> Float[Tensor, "O"]:
        """Of each other latent the tokens on which both fire as a fraction of those on which either
        does, float64; 0 where neither fires."""
        own_N = torch.zeros(self._n_tokens, dtype=torch.bool)
        own = self.of(latent)
        own_N[own.long()] = True
        values: list[float] = []
        for other in others:
            tokens = self.of(other).long()
            both = int(own_N[tokens].sum())
            values.append(both / max(len(own) + len(tokens) - both, 1))
        return torch.tensor(values, dtype=torch.float64)


def without_duplicates(
    order_C: Int[Tensor, "C"],
    wanted: int,
    W_dec_FD: Float[Tensor, "F D"],
    *,
    max_cosine: float | None = None,
    firing: FiringTokens | None = None,
    max_cofiring: float | None = None,
) -> tuple[list[int], list[Duplicate]]:
    """The first features of a ranking that are no duplicate of one before them.

    Each feature is compared with those kept so far, best first; the first one that it is too much
    like is named.

    Args:
        order_C: features, best first.
        wanted: how many to keep, at most; the ranking is followed no further.
        W_dec_FD: decoder rows of all features.
        max_cosine: a larger cosine of decoder rows makes a duplicate; None compares none.
        firing: on which tokens features fire.
        max_cofiring: a larger fraction of tokens in common makes a duplicate; None compares none.

    Returns:
        The features kept, and the duplicates among those that were passed.
    """
    if max_cosine is None and max_cofiring is None:
        return [int(feature) for feature in order_C[:wanted]], []
    kept: list[int] = []
    dropped: list[Duplicate] = []
    rows_FD = W_dec_FD.detach()
    unit_KD = rows_FD.new_empty(0, rows_FD.shape[1], dtype=torch.float64)
    for feature in map(int, order_C):
        if len(kept) >= wanted:
            break
        unit_D = torch.nn.functional.normalize(rows_FD[feature].double(), dim=-1)
        found = None
        if max_cosine is not None:
            found = _first_above((unit_KD @ unit_D).clamp(max=1), max_cosine)
        by: Literal["cosine", "cofiring"] = "cosine"
        if found is None and firing is not None and max_cofiring is not None:
            found, by = _first_above(firing.jaccard(feature, kept), max_cofiring), "cofiring"
        if found is not None:
            dropped.append(Duplicate(feature, kept[found[0]], by, found[1]))
            continue
        kept.append(feature)
        unit_KD = torch.cat([unit_KD, unit_D[None]])
    return kept, dropped


def _first_above(values_K: Float[Tensor, "K"], limit: float) -> tuple[int, float] | None:
    above = (values_K > limit).nonzero()[:, 0]
    return (int(above[0]), float(values_K[above[0]])) if len(above) else None
