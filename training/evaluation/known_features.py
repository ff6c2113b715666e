"""Activations made of features that are known, and how well an autoencoder recovers these."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from ...sae.autoencoder import SparseAutoencoder
from ...sae.common.errors import InputError
from ...sae.common.validation import require_positive_integer

_ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class KnownFeatures:
    """G features: a row is the sum of the active ones' directions, each times its strength."""

    directions: Float[Tensor, "G D"]
    """Unit rows."""
    rates: Float[Tensor, "G"]
    """The fraction of rows on which each is active, independently of the others."""

    @classmethod
    def make(
        cls, d_model: int, n_features: int, *, active: float, seed: int = 0
    ) -> "KnownFeatures":
        """Random directions, and rates that fall with the root of the rank.

        Args:
            active: features active on a row, on average: the L0 to be recovered.

        Raises:
            InputError: a size is below 1, or so many cannot be active (no rate may exceed 1/2).
        """
        require_positive_integer("d_model", d_model)
        require_positive_integer("n_features", n_features)
        rates_G = torch.arange(1, n_features + 1).float().rsqrt()
        rates_G *= active / rates_G.sum()
        if not 0 < float(rates_G.amax()) <= 0.5:
            raise InputError(
                f"active is {active}, which {n_features} features cannot be; lower it above 0, or "
                "give more features"
            )
        generator = torch.Generator().manual_seed(seed)
        directions_GD = torch.randn(n_features, d_model, generator=generator)
        return cls(torch.nn.functional.normalize(directions_GD, dim=-1), rates_G)

    def sample(
        self, n_rows: int, *, seed: int
    ) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N G"]]:
        """Rows, and the strengths of the features in them: uniform in [0.5, 1.5), or 0."""
        generator = torch.Generator().manual_seed(seed)
        shape = (n_rows, len(self.rates))
        active_NG = torch.rand(shape, generator=generator) < self.rates
        strengths_NG = active_NG * (0.5 + torch.rand(shape, generator=generator))
        return strengths_NG @ self.directions, strengths_NG

    def batches(self, batch_size: int, *, seed: int = 0) -> Iterator[Float[Tensor, "B D"]]:
        """Fresh rows without end; batch i depends on `seed` and i alone."""
        number = 0
        while True:
            yield self.sample(batch_size, seed=seed * 2**32 + number)[0]
            number += 1


@torch.no_grad()
def recovery(
    sae: SparseAutoencoder, known: KnownFeatures, *, rows: int = 16_384, seed: int = 1
) -> dict[str, float]:
    """How well the latents are the features, one latent for each.

    Latents are given to features so that the sum of |cosine| is largest. A feature without a latent
    counts as 0 everywhere.

    Args:
        rows: fresh rows on which firing is compared.

    Returns:
        `mcc`, the mean of these |cosines| (mean correlation coefficient); and means over features
        of `precision`, `recall` and `f1` of "the latent fires" for "the feature is active".
    """
    directions_GD = known.directions.to(sae.W_dec)
    cosine_GF = (directions_GD @ torch.nn.functional.normalize(sae.W_dec, dim=-1).T).abs()
    latent_of = best_assignment(cosine_GF.double().cpu().numpy())
    matched = torch.as_tensor(np.flatnonzero(latent_of >= 0))
    latents = torch.as_tensor(latent_of)[matched]
    n_features = len(latent_of)
    feature_of_F = torch.full((sae.config.n_latents,), n_features)
    feature_of_F[latents] = matched
    both_G, fired_G, active_G = (torch.zeros(n_features, dtype=torch.float64) for _ in range(3))
    x_ND, strengths_NG = known.sample(rows, seed=seed)
    parts = (torch.split(tensor, _ROWS_AT_ONCE) for tensor in (x_ND, strengths_NG))
    for x_BD, strengths_BG in zip(*parts, strict=True):
        codes = sae.encode(x_BD.to(sae.W_dec.device))
        row, slot = (codes.values > 0).nonzero(as_tuple=True)
        fires_BG = torch.zeros(len(x_BD), n_features + 1, dtype=torch.bool)
        fires_BG[row.cpu(), feature_of_F[codes.indices[row, slot].cpu()]] = True
        fires_BG = fires_BG[:, :n_features]
        is_active_BG = strengths_BG > 0
        both_G += (fires_BG & is_active_BG).sum(0)
        fired_G += fires_BG.sum(0)
        active_G += is_active_BG.sum(0)
    return {
        "mcc": float(cosine_GF.cpu()[matched, latents].double().sum()) / n_features,
        "precision": float((both_G / fired_G.clamp(min=1)).mean()),
        "recall": float((both_G / active_G.clamp(min=1)).mean()),
        "f1": float((2 * both_G / (fired_G + active_G).clamp(min=1)).mean()),
    }


def best_assignment(gain: Float[np.ndarray, "R C"]) -> Int[np.ndarray, "R"]:
    """For each row a column of its own, so that the sum of gains is largest; -1 for none.

    The Hungarian method with potentials, O(R^2 C).
    """
    n_rows, n_columns = gain.shape
    if n_rows > n_columns:
        row_of = best_assignment(gain.T)
        column_of = np.full(n_rows, -1)
        column_of[row_of] = np.arange(n_columns)
        return column_of
    # Column 0 stands for the row that looks for a column; rows and columns count from 1.
    of_row, of_column = np.zeros(n_rows + 1), np.zeros(n_columns + 1)
    row_at = np.zeros(n_columns + 1, dtype=np.int64)
    for row in range(1, n_rows + 1):
        row_at[0] = row
        way = _shortest_way(-gain, of_row, of_column, row_at)
        column, before = way[0], way[1]
        while column:
            row_at[column] = row_at[before[column]]
            column = before[column]
    column_of = np.empty(n_rows, dtype=np.int64)
    taken = np.flatnonzero(row_at[1:])
    column_of[row_at[1:][taken] - 1] = taken
    return column_of


def _shortest_way(
    cost: Float[np.ndarray, "R C"],
    of_row: Shaped[np.ndarray, "_"],
    of_column: Shaped[np.ndarray, "_"],
    row_at: Shaped[np.ndarray, "_"],
) -> tuple[int, Int[np.ndarray, "_"]]:
    """The free column that is reached most cheaply, and the column before each; potentials move."""
    used = np.zeros(len(of_column), dtype=bool)
    least = np.full(len(of_column), np.inf)
    before = np.zeros(len(of_column), dtype=np.int64)
    column = 0
    while True:
        used[column] = True
        row = row_at[column]
        reduced = cost[row - 1] - of_row[row] - of_column[1:]
        better = ~used[1:] & (reduced < least[1:])
        least[1:][better] = reduced[better]
        before[1:][better] = column
        nearest = int(np.where(used, np.inf, least)[1:].argmin()) + 1
        step = least[nearest]
        of_row[row_at[used]] += step
        of_column[used] -= step
        least[~used] -= step
        column = nearest
        if not row_at[column]:
            return column, before
