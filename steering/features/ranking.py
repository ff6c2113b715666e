"""How well each latent tells two sets of texts apart, from sparse pooled activations."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .pooling import Pooled


class AUROC:
    """Areas under the ROC curve of F latents over N texts, for any labels of the texts.

    The area is the chance that a random positive text has a larger value than a random negative
    one, half of it where they are equal: the Mann-Whitney statistic U / (P * N) with average ranks.
    Pairs that are not listed have value 0, the smallest, and all of them share a rank.
    """

    def __init__(self, pooled: Pooled, n_texts: int, n_latents: int) -> None:
        """Rank the texts of every latent: two sorts over all pairs."""
        order = pooled.values.argsort(stable=True)
        order = order[pooled.latents[order].argsort(stable=True)]
        self._latents = pooled.latents[order]
        self._texts = pooled.texts[order]
        self._n_latents = n_latents
        values = pooled.values[order]
        fired_F = torch.bincount(self._latents, minlength=n_latents)
        self._zeros_F = n_texts - fired_F
        starts_F = fired_F.cumsum(0) - fired_F
        numbers_E = torch.arange(len(order), device=order.device)
        is_new_E = torch.ones(len(order), dtype=torch.bool, device=order.device)
        is_new_E[1:] = (values[1:] != values[:-1]) | (self._latents[1:] != self._latents[:-1])
        # Average rank of equal values: the middle of the first and the last of their run.
        run_E = is_new_E.cumsum(0) - 1
        first_G = numbers_E[is_new_E]
        last_G = torch.cat([first_G[1:], numbers_E.new_full((min(len(order), 1),), len(order))]) - 1
        middle_E = (first_G + last_G).double()[run_E] / 2
        self._ranks_E = middle_E - starts_F[self._latents] + 1 + self._zeros_F[self._latents]

    def areas(self, is_positive_N: Bool[Tensor, "N"]) -> Float[Tensor, "F"]:
        """The area of every latent, float64; 0.5 for one that never fires.

        Raises:
            ValueError: there is no positive, or no negative text.
        """
        n_positive = int(is_positive_N.sum())
        n_negative = len(is_positive_N) - n_positive
        if not n_positive or not n_negative:
            raise ValueError("areas need at least one positive and one negative text")
        positive_E = is_positive_N[self._texts].double()
        zero = torch.zeros(self._n_latents, dtype=torch.float64, device=positive_E.device)
        ranks_F = zero.index_add(0, self._latents, self._ranks_E * positive_E)
        fired_F = zero.index_add(0, self._latents, positive_E)
        ranks_F += (n_positive - fired_F) * (self._zeros_F + 1) / 2
        return (ranks_F - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)


def area(values_N: Float[Tensor, "N"], is_positive_N: Bool[Tensor, "N"]) -> float:
    """The area under the ROC curve of one positive number for each text.

    Raises:
        ValueError: as `AUROC.areas`.
    """
    texts_N = torch.arange(len(values_N))
    pooled = Pooled(torch.zeros_like(texts_N), texts_N, values_N)
    return float(AUROC(pooled, len(values_N), 1).areas(is_positive_N))


def mean_over(pooled: Pooled, chosen_N: Bool[Tensor, "N"], n_latents: int) -> Float[Tensor, "F"]:
    """The mean of every latent over the chosen texts, float64; where it does not fire it is 0."""
    chosen_E = chosen_N[pooled.texts]
    sums_F = torch.zeros(n_latents, dtype=torch.float64)
    sums_F.index_add_(0, pooled.latents[chosen_E], pooled.values[chosen_E].double())
    return sums_F / chosen_N.sum()
