"""Maps of single coordinates between two sets of samples: linear transport and its relatives.

Every map sends a coordinate z to w z + b. The samples are unpaired; each coordinate is taken for
itself, as if it were independent of the others.
"""

from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

_SMALLEST_DEVIATION = 1e-4
"""Of the Gaussian map: coordinates that vary less in either set stay as they are."""


@dataclass(frozen=True, eq=False)
class AffineMap:
    """z -> w z + b for each coordinate; with `low` and `high` only for z within them."""

    w_D: Float[Tensor, "D"]
    b_D: Float[Tensor, "D"]
    low_D: Float[Tensor, "D"] | None = None
    high_D: Float[Tensor, "D"] | None = None

    def __call__(self, z: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """The mapped values, in the dtype of z."""
        w_D, b_D = self.w_D.to(z), self.b_D.to(z)
        return torch.where(self.reaches(z), w_D * z + b_D, z)

    def reaches(self, z: Float[Tensor, "*B D"]) -> Tensor:
        """Which values are within the support, and not merely mapped to themselves: bool, as z."""
        moves = ((self.w_D != 1) | (self.b_D != 0)).to(z.device)
        if self.low_D is None or self.high_D is None:
            return moves.expand(z.shape)
        return moves & (z >= self.low_D.to(z)) & (z <= self.high_D.to(z))

    def tensors(self) -> dict[str, Tensor]:
        """As the tensors of a fitted `diagonal` edit."""
        found = {"w": self.w_D, "b": self.b_D}
        if self.low_D is not None and self.high_D is not None:
            found |= {"low": self.low_D, "high": self.high_D}
        return found


@cache
def matched_ranks(n: int, m: int) -> tuple[Int[Tensor, "K"], Int[Tensor, "K"], Float[Tensor, "K"]]:
    """How two sorted samples of n and m values face each other in one-dimensional transport.

    Both stand for a mass of 1, spread evenly. The result is the only coupling that keeps order: for
    n = m rank i faces rank i, else a value may face several.

    Returns:
        Ranks in the first and in the second sample, and the mass of each pair, float64, in all 1.
    """
    of_both = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n])
    ends = torch.tensor(sorted(set(map(int, of_both))))
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    return starts // m, starts // n, (ends - starts).double() / (n * m)


def linear_map(source_ND: Float[Tensor, "N D"], target_MD: Float[Tensor, "M D"]) -> AffineMap:
    """Lin-AcT (arXiv 2410.23054): the least-squares line through the sorted samples.

    w = sum x~ y~ / sum x~^2 over sorted and centered samples, b = mean y - w mean x. w is never
    negative. With unequal numbers of samples, quantiles face each other. A coordinate that is
    constant in the source is shifted only (w = 1), where the authors' code adds noise.
    """
    x_KD, y_KD, mass_K = facing(source_ND.double(), target_MD.double())
    mass_K1 = mass_K[:, None]
    mean_x_D, mean_y_D = source_ND.double().mean(0), target_MD.double().mean(0)
    x_KD, y_KD = x_KD - mean_x_D, y_KD - mean_y_D
    spread_D = (mass_K1 * x_KD.square()).sum(0)
    # Of equal values rounding leaves a spread that means nothing.
    varies_D = spread_D > (1e-14 * mean_x_D).square()
    slope_D = (mass_K1 * x_KD * y_KD).sum(0) / torch.where(varies_D, spread_D, 1)
    w_D = torch.where(varies_D, slope_D.clamp(min=0), 1)
    return AffineMap(w_D, mean_y_D - w_D * mean_x_D)


def mean_map(source_ND: Float[Tensor, "N D"], target_MD: Float[Tensor, "M D"]) -> AffineMap:
    """Mean-AcT: the shift by the difference of the means, which is difference-of-means steering."""
    shift_D = target_MD.double().mean(0) - source_ND.double().mean(0)
    return AffineMap(torch.ones_like(shift_D), shift_D)


def gaussian_map(source_ND: Float[Tensor, "N D"], target_MD: Float[Tensor, "M D"]) -> AffineMap:
    """The transport between normal distributions: w is the ratio of the standard deviations.

    A coordinate whose deviation is below 1e-4 in either set stays as it is.
    """
    source_ND, target_MD = source_ND.double(), target_MD.double()
    deviation_x_D = source_ND.std(0, correction=0)
    deviation_y_D = target_MD.std(0, correction=0)
    varies_D = (deviation_x_D >= _SMALLEST_DEVIATION) & (deviation_y_D >= _SMALLEST_DEVIATION)
    w_D = torch.where(varies_D, deviation_y_D / torch.where(varies_D, deviation_x_D, 1), 1)
    return AffineMap(w_D, torch.where(varies_D, target_MD.mean(0) - w_D * source_ND.mean(0), 0))


def aura_map(source_ND: Float[Tensor, "N D"], target_MD: Float[Tensor, "M D"]) -> AffineMap:
    """AurA (arXiv 2407.12824): coordinates are damped by how well they detect the source.

    w = 1 - 2 (AUROC - 0.5) where the AUROC of a coordinate, source against target, is above 0.5;
    else the coordinate stays. The samples are the maxima over each text.
    """
    w_D = 1 - 2 * (aurocs(source_ND, target_MD) - 0.5).clamp(min=0)
    return AffineMap(w_D, torch.zeros_like(w_D))


def with_support(fitted: AffineMap, source_ND: Tensor, quantile: float) -> AffineMap:
    """The map where a coordinate lies from this quantile of the source to 1 minus it."""
    low_D, high_D = (torch.quantile(source_ND.double(), q, dim=0) for q in (quantile, 1 - quantile))
    return AffineMap(fitted.w_D, fitted.b_D, low_D, high_D)


def facing(
    source_ND: Float[Tensor, "N D"], target_MD: Float[Tensor, "M D"]
) -> tuple[Float[Tensor, "K D"], Float[Tensor, "K D"], Float[Tensor, "K"]]:
    """Each coordinate's sorted values of both samples as they face each other, and their mass.

    Gradients flow through the sorted values; which value has which rank counts as fixed.
    """
    of_source_K, of_target_K, mass_K = matched_ranks(len(source_ND), len(target_MD))
    x_KD = source_ND.sort(dim=0).values[of_source_K.to(source_ND.device)]
    y_KD = target_MD.sort(dim=0).values[of_target_K.to(target_MD.device)]
    return x_KD, y_KD, mass_K.to(source_ND)


def transport_cost(
    source_ND: Float[Tensor, "N D"], target_MD: Float[Tensor, "M D"]
) -> Float[Tensor, "D"]:
    """The squared 2-Wasserstein distance between the samples of each coordinate: for equally many
    (1/n) sum_i (x_(i) - y_(i))^2 over the sorted values."""
    x_KD, y_KD, mass_K = facing(source_ND, target_MD)
    return mass_K @ (x_KD - y_KD).square()


def aurocs(positive_ND: Tensor, negative_MD: Tensor) -> Float[Tensor, "D"]:
    """For each coordinate the chance that a positive sample is above a negative one, ties half."""
    negative_DM = negative_MD.double().T.sort(dim=1).values.contiguous()
    positive_DN = positive_ND.double().T.contiguous()
    below = [torch.searchsorted(negative_DM, positive_DN, right=right) for right in (False, True)]
    return (below[0] + below[1]).double().mean(1) / (2 * len(negative_MD))
