"""Which slots of a batch of codes are used, and the codes of a block of rows as a dense tensor."""

from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor

from .numerics import ceil_div
from .policy import Backend, lists_used_slots


class UsedSlots(NamedTuple):
    """The used slots of a batch, row by row."""

    slots: Int[Tensor, "N"]
    """Where each is among the B * M."""
    offsets: Int[Tensor, "B"]
    """How many come before each row."""


def used_slots(used_BM: Bool[Tensor, "B M"], backend: Backend) -> UsedSlots | None:
    """The used slots on a CPU; None where nearly all are used, or on a GPU.

    On a GPU listing them would wait for the device.
    """
    if backend.triton or not backend.on_cpu:
        return None
    if not lists_used_slots(int(used_BM.count_nonzero()), used_BM.numel()):
        return None
    counts_B = used_BM.sum(1)
    return UsedSlots(used_BM.flatten().nonzero()[:, 0], counts_B.cumsum(0) - counts_B)


def slots_per_row(used: UsedSlots | None, n_rows: int, width: int) -> int:
    """Slots of a row: the width, or where they were listed the mean, rounded up."""
    return width if used is None else ceil_div(len(used.slots), max(1, n_rows))


def dense_block(
    indices_BM: Int[Tensor, "B M"], values_BM: Float[Tensor, "B M"], n_latents: int
) -> Float[Tensor, "B F"]:
    """The slots of a block of rows as a dense [B, F] tensor."""
    dense_BF = values_BM.new_zeros(len(values_BM), n_latents)
    return dense_BF.scatter_add_(-1, indices_BM, values_BM)
