"""What a step leaves for its second half, and for the next one."""

from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..kernels.capacity import SlotCapacity
from ..kernels.firing import FiringCounts
from .objective import Losses
from .runtime.transfers import PendingHostCopy


class ForwardHalf(NamedTuple):
    """The first half of a step, up to the loss."""

    target: Float[Tensor, "B D"]
    """What is predicted, in scaled units: of an autoencoder the rows."""
    losses: Losses
    fired: Bool[Tensor, "F"]
    """Which latents fired in the batch, in any process."""
    counted: FiringCounts


class PendingCheck(NamedTuple):
    """What a step computed on the device and the host must know before the next step."""

    batch: list[Tensor]
    """The rows and, of a transcoder, the target."""
    batch_versions: list[int]
    """How often each had been changed in place."""
    numbers: PendingHostCopy
    """Whether the loss is finite, and the number of latents that are dead after the step."""
    dead: Int[Tensor, "F"] | None
    """On a GPU those latents, then the others."""
    counts_version: int
    """Version of `tokens_since_fired` from which the dead latents were counted."""
    capacity: SlotCapacity | None
    """What the codes' width was taken for granted to be, or was found to need."""


class KnownDead(NamedTuple):
    """The dead latents, of which the host knows how many there are."""

    latents: Int[Tensor, "N"]
    counts_version: int
    """Version of `tokens_since_fired` from which they were counted."""


def in_place_versions(tensors: list[Tensor]) -> list[int]:
    """How often each was changed in place; of tensors of inference mode nobody counts it."""
    return [
        0 if tensor.is_inference() else tensor._version  # pyright: ignore[reportPrivateUsage] - documented
        for tensor in tensors
    ]
