"""Activations made of features that are known, and how well an autoencoder recovers these."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...sae.autoencoder import SparseAutoencoder
from ...sae.common.errors import InputError
from ...sae.common.validation import require_positive_integer
from .ground_truth.detection import Detection
from .ground_truth.matching import absolute_cosines, best_assignment

_ROWS_AT_ONCE = 4096
_MIXER = 0x9E3779B1  # odd, near 2^32 over the golden ratio: batches of small seeds lie far apart


@dataclass(frozen=True)
class KnownFeatures:
    """G features: a row is the sum of the active ones' directions, each times its strength.

    Independent of each other and few; `ground_truth.generator` has those of a published benchmark.
    """

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
            # A generator takes 32 bits of a seed, into which both numbers are mixed.
            yield self.sample(batch_size, seed=(seed * _MIXER + number) % 2**32)[0]
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
    cosine_GF = absolute_cosines(known.directions.to(sae.W_dec), sae.W_dec)
    latent_of = best_assignment(cosine_GF.double().cpu().numpy())
    matched = torch.as_tensor(np.flatnonzero(latent_of >= 0))
    latents = torch.as_tensor(latent_of)[matched]
    n_features = len(latent_of)
    feature_of_F = torch.full((sae.config.n_latents,), -1)
    feature_of_F[latents] = matched
    detection = Detection(feature_of_F, n_features)
    x_ND, strengths_NG = known.sample(rows, seed=seed)
    parts = (torch.split(tensor, _ROWS_AT_ONCE) for tensor in (x_ND, strengths_NG))
    for x_BD, strengths_BG in zip(*parts, strict=True):
        codes = sae.encode(x_BD.to(sae.W_dec.device))
        detection.update(codes, *strengths_BG.nonzero(as_tuple=True))
    scores = {
        "precision": detection.precision(),
        "recall": detection.recall(),
        "f1": detection.f1(),
    }
    return {
        "mcc": float(cosine_GF.cpu()[matched, latents].double().sum()) / n_features,
        **{name: float(of_F[latents].sum()) / n_features for name, of_F in scores.items()},
    }
