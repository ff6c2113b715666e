"""What is measured of a training step."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..sae.loss_registry import OWN_TERMS
from ..sae.losses import own_variance
from .distributed.collectives import Distributed
from .objective import Losses
from .runtime.transfers import host_numbers


class StepMetrics(NamedTuple):
    """What one update saw: 0-d tensors on the training device, detached."""

    loss: Float[Tensor, ""]
    mse: Float[Tensor, ""]
    terms: dict[str, Tensor]
    """Every further term of the loss, unweighted, by name; see `Losses.terms`."""
    fvu: Float[Tensor, ""]
    """Fraction of the batch's variance unexplained, before the update; 1 where it has none."""
    l0: Float[Tensor, ""]
    """Mean active latents of a row."""
    dead_fraction: Float[Tensor, ""]
    """Fraction of latents that have not fired for `dead_after_tokens` rows."""
    gradient_norm: Float[Tensor, ""]
    """Of all gradients together, before clipping."""

    def figures(self) -> dict[str, float]:
        """All of it as numbers, the terms among them: of this package's terms those that the
        configuration does not have are 0. Waits for the device, once."""
        own = {name: value for name, value in self._asdict().items() if name != "terms"}
        numbers = host_numbers(own | self.terms)
        names = ["loss", "mse", *(dict.fromkeys(OWN_TERMS) | self.terms), *own]
        return {name: numbers.get(name, 0.0) for name in names}


@torch.no_grad()
def measure_step(
    losses: Losses,
    target_BD: Float[Tensor, "B D"],
    dead_fraction: float,
    gradient_norm: Float[Tensor, ""],
    dist: Distributed,
) -> StepMetrics:
    """The metrics of a step over the rows of all ranks; every rank calls this.

    Args:
        losses: this rank's.
        target_BD: what is predicted, in scaled units: of an autoencoder its rows.
        dead_fraction: of this rank's latents.
        gradient_norm: of all gradients, before clipping.
        dist: the processes that share the batch.
    """
    spread, l0, dead = dist.all_reduce_means(
        own_variance(target_BD, dist.all_reduce_mean),
        (losses.codes.values > 0).sum(-1).to(target_BD.dtype).mean(),
        target_BD.new_full((), dead_fraction),
    )
    return StepMetrics(
        loss=losses.total.detach(),
        mse=losses.mse.detach(),
        terms={name: value.detach() for name, value in losses.terms.items()},
        fvu=torch.where(spread > 0, losses.mse.detach() / spread, 1.0),
        l0=l0 * dist.n_shards,
        dead_fraction=dead,
        gradient_norm=gradient_norm,
    )
