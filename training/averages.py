"""Moving averages of an autoencoder's weights over the steps of its training."""

import copy

import torch
from jaxtyping import Bool
from torch import Tensor

from ..kernels.numerics import at_least_float32
from ..kernels.optimizer import normalize_rows_
from ..sae.autoencoder import SparseAutoencoder


class WeightAverages:
    """Exponential moving averages of all parameters, at least in float32.

    Up to 1 / (1 - decay) steps they are plain means, so that the first weights, which are random,
    count no more than others.

    Attributes:
        tensors: the average of each parameter, by its name.
    """

    def __init__(self, sae: SparseAutoencoder, decay: float) -> None:
        self._sae = sae
        self._decay = decay
        self.tensors = {name: _wide(weights) for name, weights in sae.named_parameters()}

    @torch.no_grad()
    def update(self, number: int, applies: Bool[Tensor, ""] | None = None) -> None:
        """Take in the weights after step `number` (from 1).

        Args:
            applies: where false the averages stay; on their device, which need not be waited for.
        """
        share = max(1 - self._decay, 1 / number)
        for name, weights in self._sae.named_parameters():
            average = self.tensors[name]
            new_weight = share if applies is None else share * applies.to(average.dtype)
            average.lerp_(weights.to(average.dtype), new_weight)

    @torch.no_grad()
    def autoencoder(self) -> SparseAutoencoder:
        """A copy of the autoencoder with the averages for weights, its decoder rows unit again; the
        input scale and batch_topk's threshold, a moving average itself, are as they are."""
        averaged = copy.deepcopy(self._sae)
        for name, weights in averaged.named_parameters():
            weights.copy_(self.tensors[name])
        normalize_rows_(averaged.W_dec.data)
        return averaged


def _wide(weights: Tensor) -> Tensor:
    return weights.detach().to(at_least_float32(weights.dtype), copy=True)
