"""How every latent differs between two sets of texts, for any labels of the texts."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .find_config import ContrastRanking
from .pooling import Pooled, PooledTexts
from .ranking import AUROC, mean_over

_SHUFFLES = 20

Columns = dict[str, Float[Tensor, "F"]]
"""The measures of `FoundFeature`, float64, for every latent."""


class Measures:
    """Both sets joined and ranked once, to be measured under any labels."""

    def __init__(self, positive: PooledTexts, negative: PooledTexts, n_latents: int) -> None:
        """Texts are numbered through: the positive ones first."""
        n_positive = len(positive.lengths)
        self.n_texts = n_positive + len(negative.lengths)
        self.n_latents = n_latents
        self.is_positive_N = torch.arange(self.n_texts) < n_positive
        self.mean = _joined(positive.mean, negative.mean, n_positive)
        self.largest = _joined(positive.largest, negative.largest, n_positive)
        self._auroc_mean = AUROC(self.mean, self.n_texts, n_latents)
        self._auroc_max = AUROC(self.largest, self.n_texts, n_latents)

    def pooled_for(self, rank_by: ContrastRanking) -> Pooled:
        """What a ranking compares of each text: the largest activation, or the mean."""
        return self.largest if rank_by == "auroc_max" else self.mean

    def columns(self, is_positive_N: Bool[Tensor, "N"]) -> Columns:
        """The measures of all latents where the texts have these labels."""
        fired = self.mean._replace(values=torch.ones_like(self.mean.values))
        means, rates = (
            [
                mean_over(pooled, side_N, self.n_latents)
                for side_N in (is_positive_N, ~is_positive_N)
            ]
            for pooled in (self.mean, fired)
        )
        return {
            "auroc_mean": self._auroc_mean.areas(is_positive_N),
            "auroc_max": self._auroc_max.areas(is_positive_N),
            "difference": means[0] - means[1],
            "mean_positive": means[0],
            "mean_negative": means[1],
            "firing_positive": rates[0],
            "firing_negative": rates[1],
        }


class Eligible(NamedTuple):
    """Which features are ranked at all."""

    min_firing: float
    """Fraction of the positive texts in which a feature must fire."""
    allowed_F: Bool[Tensor, "F"] | None = None
    """Which features may be ranked; None for all."""

    def of(self, columns: Columns) -> Bool[Tensor, "F"]:
        """Which features are, with these measures."""
        enough_F = columns["firing_positive"] >= self.min_firing
        return enough_F if self.allowed_F is None else enough_F & self.allowed_F


def ranked(columns: Columns, rank_by: ContrastRanking, eligible: Eligible) -> Int[Tensor, "C"]:
    """The eligible features, best first; of equal ones the first."""
    candidates_C = eligible.of(columns).nonzero()[:, 0]
    scores_C = columns[rank_by][candidates_C]
    return candidates_C[scores_C.argsort(descending=True, stable=True)]


def best_by_chance(
    measures: Measures, rank_by: ContrastRanking, eligible: Eligible, seed: int
) -> float:
    """The mean over 20 shuffles of the labels of the best score; 0 if no feature is eligible."""
    generator = torch.Generator().manual_seed(seed)
    best: list[float] = []
    for _ in range(_SHUFFLES):
        order_N = torch.randperm(len(measures.is_positive_N), generator=generator)
        columns = measures.columns(measures.is_positive_N[order_N])
        best += [float(columns[rank_by][f]) for f in ranked(columns, rank_by, eligible)[:1]]
    return sum(best) / max(len(best), 1)


def _joined(positive: Pooled, negative: Pooled, n_positive: int) -> Pooled:
    return Pooled(
        torch.cat([positive.latents, negative.latents]),
        torch.cat([positive.texts, negative.texts + n_positive]),
        torch.cat([positive.values, negative.values]),
    )
