"""What the processes of a training run exchange in a step; a process alone exchanges nothing.

Every process has as many rows of the batch as the others, and the same weights. All means over
rows are taken over all processes in the forward pass already, so that each knows the loss of the
whole batch, also where that is no mean of its rows' losses. Such a mean passes its gradient on as
it came: with m the mean of the processes' m_r, the sum over processes of 1/size * dL/dm * dm_r/dw
is dL/dw. So the loss is divided by the number of processes and the gradients are added up.
"""

from collections.abc import Iterable
from typing import Any, cast

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ...kernels import process_group
from ...kernels.optimizer import gradient_norm

_FEW_ROWS = 0.3  # of a gradient; if fewer are not zero, finding and sending these alone is faster


class Parallel:
    """One process that has all rows: everything stays as it is.

    Attributes:
        rank: which process this is, from 0.
        size: how many share a batch.
        shards: parts of the dictionary, of which a process has one.
        topk_group: the ranks among whose rows batch_topk chooses; None where it is this one alone.
    """

    rank = 0
    size = 1
    shards = 1
    topk_group: process_group.ProcessGroup | None = None

    def rows(self, batch_size: int) -> slice:
        """Which rows of a batch are this process's."""
        n_rows = batch_size // self.size
        return slice(self.rank * n_rows, (self.rank + 1) * n_rows)

    def mean(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The mean over all rows, from the mean over the own ones; the gradient passes as it is."""
        return value

    def least(self, value: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """The smallest of the processes' values."""
        return value

    def any(self, mask: Bool[Tensor, "N"]) -> Bool[Tensor, "N"]:
        """Where any process's mask is true."""
        return mask

    def gradient_norm(self, gradients: dict[str, Tensor]) -> Float[Tensor, ""]:
        """The norm of all gradients together, of which these are the process's."""
        return gradient_norm(gradients.values())

    def gather(self, own: dict[str, Tensor], whole: dict[str, Tensor]) -> None:
        """Put the shards' tensors together in `whole`, in the first process; alone nothing."""

    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Let the tensors have the first process's values, in place."""

    def backward(
        self, loss: Float[Tensor, ""], module: nn.Module, touched_F: Bool[Tensor, "F"]
    ) -> None:
        """Gradients of the loss of the whole batch, the same bits in every process.

        Args:
            loss: made with `mean`.
            module: whose parameters get them.
            touched_F: which rows of its matrices probably have one.
        """
        torch.autograd.backward(loss)


class DataParallel(Parallel):
    """A process of several, each of which has its rows of every batch.

    Every process must make the same calls in the same order.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        """With the processes of the group; by default all."""
        self._group = group
        self.rank = dist.get_rank(group)
        self.size = dist.get_world_size(group)
        self.topk_group = process_group.ProcessGroup(self.rank, self.size, self._total)

    def mean(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return cast(Tensor, _Mean.apply(value, self._group, self.size))  # pyright: ignore[reportUnknownMemberType] - autograd.Function is untyped

    def least(self, value: Float[Tensor, ""]) -> Float[Tensor, ""]:
        return self._reduced(value.clone(), dist.ReduceOp.MIN)

    def any(self, mask: Bool[Tensor, "N"]) -> Bool[Tensor, "N"]:
        return self._reduced(mask.to(torch.uint8), dist.ReduceOp.MAX) > 0

    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            dist.broadcast(tensor, group=self._group, group_src=0)

    def backward(
        self, loss: Float[Tensor, ""], module: nn.Module, touched_F: Bool[Tensor, "F"]
    ) -> None:
        torch.autograd.backward(loss / self.size)
        # On a GPU this would wait for it, and links between GPUs are fast.
        few = not touched_F.is_cuda and touched_F.sum() < _FEW_ROWS * len(touched_F)
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        matrices = [gradient for gradient in gradients if gradient.ndim > 1]
        vectors = [gradient for gradient in gradients if gradient.ndim <= 1]
        for gradient in matrices:
            if few:
                self._add_touched_rows(gradient)
            else:
                self._total(gradient)
        together = self._total(torch.cat(vectors))
        for vector, part in zip(
            vectors, torch.split(together, list(map(len, vectors))), strict=True
        ):
            vector.copy_(part)

    def _add_touched_rows(self, gradient: Tensor) -> None:
        rows = self.any(gradient.any(-1)).nonzero()[:, 0]
        gradient[rows] = self._total(gradient[rows])

    def _total(self, value: Tensor) -> Tensor:
        """The sum over processes, in place."""
        return self._reduced(value, dist.ReduceOp.SUM)

    def _reduced(self, value: Tensor, operation: Any) -> Tensor:
        dist.all_reduce(value, operation, group=self._group)  # pyright: ignore[reportUnknownMemberType] - untyped
        return value


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, group: dist.ProcessGroup | None, size: int) -> Tensor:
        total = value.clone()
        dist.all_reduce(total, group=group)  # pyright: ignore[reportUnknownMemberType] - untyped
        return total.div_(size)

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - one gradient
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor, None, None]:
        return gradient, None, None
