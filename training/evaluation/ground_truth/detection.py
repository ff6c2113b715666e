"""How well the firing of latents tells that features are active: precision, recall and F1."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ....kernels.codes import Codes


class Detection:
    """Counts over rows of one latent and one feature each, over any number of batches.

    A latent may have no feature, -1, and then detects nothing.
    """

    def __init__(self, feature_of: Int[Tensor, "F"], n_features: int) -> None:
        """Take each latent's feature, and the number of features."""
        self._n_features = n_features
        self._feature_of_F = feature_of.cpu()
        self._fired_F = torch.zeros(len(feature_of), dtype=torch.int64)
        self._both_F = torch.zeros_like(self._fired_F)
        self._active_N = torch.zeros(n_features, dtype=torch.int64)

    def update(self, codes: Codes, rows: Int[Tensor, "M"], features: Int[Tensor, "M"]) -> None:
        """Add a batch: the latents that fired, and which features were active on which of its
        rows."""
        row_K, slot_K = (codes.values > 0).nonzero(as_tuple=True)
        latent_K = codes.indices[row_K, slot_K].cpu()
        feature_K, row_K = self._feature_of_F[latent_K], row_K.cpu()
        rows, features = rows.cpu(), features.cpu()
        places_K = row_K * self._n_features + feature_K
        right_K = torch.isin(places_K, rows * self._n_features + features) & (feature_K >= 0)
        n_latents = len(self._fired_F)
        self._fired_F += torch.bincount(latent_K, minlength=n_latents)
        self._both_F += torch.bincount(latent_K[right_K], minlength=n_latents)
        self._active_N += torch.bincount(features, minlength=self._n_features)

    def precision(self) -> Float[Tensor, "F"]:
        """Of the rows on which each latent fired, the fraction on which its feature was active; 0
        where it never fired; float64."""
        return self._both_F / self._fired_F.clamp(min=1).double()

    def recall(self) -> Float[Tensor, "F"]:
        """Of the rows on which its feature was active, the fraction on which each latent fired; 0
        where it never was; float64."""
        return self._both_F / self._active_F.clamp(min=1).double()

    def f1(self) -> Float[Tensor, "F"]:
        """The harmonic mean of the two; 0 where neither ever was; float64."""
        return 2 * self._both_F / (self._fired_F + self._active_F).clamp(min=1).double()

    @property
    def _active_F(self) -> Int[Tensor, "F"]:
        """Rows on which each latent's feature was active; 0 for a latent without one."""
        has_one_F = self._feature_of_F >= 0
        return self._active_N[self._feature_of_F.clamp(min=0)] * has_one_F
