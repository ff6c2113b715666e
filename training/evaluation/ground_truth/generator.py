"""Rows with known features: superposed, of uneven rates, active together, and in trees.

Written from the description of SynthSAEBench (arXiv 2602.14687). Equal in distribution to its
generator, not in numbers: those come from another order of random draws.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ....kernels.codes import COOEntries, pack_entries
from ....kernels.decode import decode
from .config import FeatureSettings
from .directions import pushed_apart
from .rates import drawn_rates, levels, rates_left, wanted_rates

_MOST_SHARED = 0.99
"""Of a feature's variance, at most so much comes from the factors that it shares with others."""
_PURPOSES = ("features", "training", "first rows", "measuring")

Purpose = Literal["features", "training", "first rows", "measuring"]


@dataclass(frozen=True)
class SyntheticFeatures:
    """N features with unit directions, and how rows are made of them; all on one device."""

    settings: FeatureSettings
    directions: Float[Tensor, "N D"]
    """Unit rows."""
    bias: Float[Tensor, "D"]
    """Added to every row."""
    drawn_rates: Float[Tensor, "N"]
    """Fraction of rows on which each is drawn, of a child of those where its parent is active, and
    before it is compared with its siblings."""
    factors: Float[Tensor, "N R"]
    """Weights of each on the hidden factors."""
    mean_strengths: Float[Tensor, "N"]
    spreads: Float[Tensor, "N"]
    """Standard deviation of each one's strength; below 0 it is not active."""

    @classmethod
    def make(
        cls, settings: FeatureSettings, device: str | torch.device = "cpu"
    ) -> "SyntheticFeatures":
        """The features of the settings' seed, the same on every device up to rounding."""
        generator = _seeded(settings.seed, "features", torch.device("cpu"))
        n, d = settings.n_features, settings.d_model
        directions_ND = torch.randn(n, d, generator=generator)
        bias_D = torch.nn.functional.normalize(torch.randn(d, generator=generator), dim=0)
        factors_NR = torch.randn(n, settings.correlation_rank, generator=generator)
        factors_NR *= settings.correlation_scale
        most = float(factors_NR.square().sum(-1).amax())
        if most >= 1:
            factors_NR *= (_MOST_SHARED / most) ** 0.5
        spread = settings.strength_spread
        spreads_N = (spread + spread * torch.randn(n, generator=generator)).abs()
        apart_ND = pushed_apart(
            directions_ND.to(device), steps=settings.orthogonal_steps, lr=settings.orthogonal_lr
        )
        return cls(
            settings,
            apart_ND,
            (settings.bias_norm * bias_D).to(device),
            drawn_rates(settings, wanted_rates(settings)).to(device),
            factors_NR.to(device),
            torch.linspace(settings.first_strength, settings.last_strength, n).to(device),
            spreads_N.to(device),
        )

    @torch.no_grad()
    def sample(
        self, n_rows: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "B D"], COOEntries]:
        """Rows, and the strengths of the features in them, the positive entries of a [B, N] matrix.

        A row is the sum of the directions, each times its strength, and of the bias.
        """
        active = self._active(n_rows, generator)
        return decode(pack_entries(*active, n_rows), self.directions, self.bias), active

    def generator(self, seed: int, purpose: Purpose) -> torch.Generator:
        """What to draw rows with: those of two seeds or purposes are independent.

        A CPU and a GPU draw other numbers.
        """
        return _seeded(seed, purpose, self.directions.device)

    def expected_rates(self) -> Float[Tensor, "N"]:
        """Fraction of rows on which each feature is active, were they not correlated; float64."""
        in_spreads_N = self.mean_strengths.double() / self.spreads.double()
        positive_N = torch.erfc(-in_spreads_N / math.sqrt(2)) / 2
        return rates_left(self.settings, self.drawn_rates.double() * positive_N)

    def _active(self, n_rows: int, generator: torch.Generator) -> COOEntries:
        """Draw what is active, by a Gaussian copula: a feature is where a normal variable, which is
        correlated with those of others through the hidden factors, exceeds its threshold.

        Of the trees the roots are drawn first, and children where their parent is active alone.
        """
        device, n_factors = self.directions.device, self.factors.shape[1]
        hidden_BR = torch.randn(n_rows, n_factors, generator=generator, device=device)
        first_I = self._without_parent
        normal_BI = torch.randn(n_rows, len(first_I), generator=generator, device=device)
        normal_BI *= self._own_part[first_I]
        normal_BI += hidden_BR @ self.factors[first_I].T
        rows_M, column_M = (normal_BI > self._thresholds[first_I]).nonzero(as_tuple=True)
        found = self._with_strengths(rows_M, first_I[column_M], generator)
        parts = [found]
        for parents, children in levels(self.settings):
            is_parent_M = (found.columns >= parents.start) & (found.columns < parents.stop)
            found = self._children(
                COOEntries(*(part[is_parent_M] for part in found)),
                children.start - parents.start * self.settings.branching,
                hidden_BR,
                generator,
            )
            parts.append(found)
        rows, features, strengths = (torch.cat(part) for part in zip(*parts, strict=True))
        order = torch.argsort(rows, stable=True)
        return COOEntries(rows[order], features[order], strengths[order])

    def _children(
        self,
        parents: COOEntries,
        offset: int,
        hidden_BR: Float[Tensor, "B R"],
        generator: torch.Generator,
    ) -> COOEntries:
        """Of the children of each active parent one of the active ones, each equally likely; its
        strength is multiplied by the parent's, over the parent's mean.

        Args:
            offset: the first child of feature p has the number offset + p * branching.
        """
        branching, device = self.settings.branching, hidden_BR.device
        first_P1 = offset + parents.columns[:, None] * branching
        features_PC = first_P1 + torch.arange(branching, device=device)
        shape = features_PC.shape
        shared_PC = torch.einsum("pr,pcr->pc", hidden_BR[parents.rows], self.factors[features_PC])
        normal_PC = torch.randn(shape, generator=generator, device=device)
        normal_PC = normal_PC * self._own_part[features_PC] + shared_PC
        noise_PC = torch.randn(shape, generator=generator, device=device)
        strengths_PC = self.mean_strengths[features_PC] + self.spreads[features_PC] * noise_PC
        active_PC = (normal_PC > self._thresholds[features_PC]) & (strengths_PC > 0)
        lots_PC = torch.rand(shape, generator=generator, device=device)
        winner_P1 = lots_PC.masked_fill(~active_PC, -1.0).argmax(-1, keepdim=True)
        scale_P = parents.values / self.mean_strengths[parents.columns]
        has_one_P = active_PC.any(-1)
        return COOEntries(
            parents.rows[has_one_P],
            features_PC.gather(1, winner_P1)[has_one_P, 0],
            (strengths_PC.gather(1, winner_P1)[:, 0] * scale_P)[has_one_P],
        )

    def _with_strengths(
        self, rows_M: Int[Tensor, "M"], features_M: Int[Tensor, "M"], generator: torch.Generator
    ) -> COOEntries:
        """Those drawn that have a positive strength."""
        noise_M = torch.randn(len(rows_M), generator=generator, device=rows_M.device)
        strengths_M = self.mean_strengths[features_M] + self.spreads[features_M] * noise_M
        positive_M = strengths_M > 0
        return COOEntries(rows_M[positive_M], features_M[positive_M], strengths_M[positive_M])

    @cached_property
    def _without_parent(self) -> Int[Tensor, "I"]:
        """The roots and the free features."""
        roots, free = self.settings.n_roots, self.settings.n_in_trees
        numbers_N = torch.arange(self.settings.n_features, device=self.directions.device)
        return numbers_N[(numbers_N < roots) | (numbers_N >= free)]

    @cached_property
    def _own_part(self) -> Float[Tensor, "N"]:
        """The standard deviation that the factors leave to each feature alone."""
        return (1 - self.factors.square().sum(-1)).sqrt()

    @cached_property
    def _thresholds(self) -> Float[Tensor, "N"]:
        """What a standard normal variable exceeds at the drawn rates."""
        return (math.sqrt(2) * torch.erfinv(1 - 2 * self.drawn_rates.double())).float()


def _seeded(seed: int, purpose: Purpose, device: torch.device) -> torch.Generator:
    """A generator of its own for each seed and purpose, which are mixed into one number of 32 bits:
    that of a CPU takes no more."""
    mixed = np.random.SeedSequence((seed, _PURPOSES.index(purpose))).generate_state(1)
    return torch.Generator(device).manual_seed(int(mixed[0]))
