"""Losses that are not finite: which row of the batch, or else what else, is the cause."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..sae.common.wording import counted
from .distributed.collectives import Distributed
from .distributed.torchrun import raised_on_all_ranks


class NonFiniteLoss(ArithmeticError):
    """The loss was NaN or infinite; the update was not made."""


def non_finite_loss(
    step: int, batch: list[Float[Tensor, "B D"]], dist: Distributed
) -> NonFiniteLoss:
    """The error that names the step, and the first bad row of the rows or, of a transcoder, of the
    target, or else the remedy; every rank makes it, for all know the loss of the whole batch."""
    where = "the batch is finite, so the weights diverged: lower the learning rate"
    for name, rows in reversed(list(zip(("batch", "target"), batch, strict=False))):
        if len(bad := _bad_rows(rows, dist)):
            many = counted(len(bad), "such row")
            where = f"row {int(bad[0])} of its {name} is not finite ({many})"
    return raised_on_all_ranks(NonFiniteLoss(f"the loss of step {step} is not finite: {where}"))


def any_rank_has_bad(batch: list[Float[Tensor, "B D"]], dist: Distributed) -> bool:
    """Whether rows of some rank are not finite; every rank calls this."""
    bad = torch.stack([~rows.isfinite().all() for rows in batch])
    return bool(dist.all_reduce_any(bad).any())


def _bad_rows(x: Float[Tensor, "B D"], dist: Distributed) -> Int[Tensor, "N"]:
    """Numbers of the rows of the whole batch, those of all ranks, that are not finite."""
    bad_B = ~x.isfinite().all(-1)
    all_bad = bad_B.new_zeros(len(x) * dist.data_size)
    all_bad[dist.local_rows(len(all_bad))] = bad_B
    return dist.all_reduce_any(all_bad).nonzero()[:, 0]
