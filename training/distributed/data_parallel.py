"""Training in which every process has its own rows of each batch, and the same weights.

Means over rows are taken over all ranks in the forward pass already, so that each rank knows the
loss of the whole batch, also where that is not the mean of its rows' losses. The gradient of such a
mean is passed on unchanged: with m the mean of the ranks' m_r, the sum over ranks of
1/data_size * dL/dm * dm_r/dw is dL/dw. So the loss is divided by the number of ranks and the
gradients are summed.
"""

import os
import pickle
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
import torch.distributed as torch_dist
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ...kernels.process_group import ProcessGroup
from .collectives import Agreement, Distributed, no
from .torchrun import raised_on_all_ranks

T = TypeVar("T")

_FEW_ROWS = 0.3
"""Fraction of a gradient's rows; if fewer are not zero, finding and sending these is faster."""


class DataParallel(Distributed):
    """One of several ranks, each of which has its rows of every batch and all latents."""

    def __init__(
        self,
        group: torch_dist.ProcessGroup | None = None,
        *,
        host_group: torch_dist.ProcessGroup | None = None,
    ) -> None:
        """The ranks must be joined, see `init_distributed`.

        Args:
            group: the ranks that share the batch; by default all.
            host_group: all ranks, with gloo and more patience than the default group, which
                exchange the objects and flags of the host by it; the default group if None.
        """
        self.rank = torch_dist.get_rank()
        self.world_size = torch_dist.get_world_size()
        self.local_rank = int(os.environ.get("LOCAL_RANK", self.rank))
        self.local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", self.world_size))
        self.host_group = host_group
        self._data_group = group
        self.data_rank = torch_dist.get_rank(group)
        self.data_size = torch_dist.get_world_size(group)
        self.topk_group = ProcessGroup(self.data_rank, self.data_size, self._all_reduce_sum)

    def all_gather_object(self, value: T) -> list[T]:
        values: list[Any] = [None] * self.world_size
        torch_dist.all_gather_object(values, value, group=self.host_group)  # pyright: ignore[reportUnknownMemberType] - untyped
        return values

    def broadcast_object(self, value: T) -> T:
        values = [value]
        torch_dist.broadcast_object_list(values, src=0, group=self.host_group)
        return values[0]

    def sum_of_ranks(self, number: int) -> int:
        """The sum of a number that the host of every rank knows, over all ranks."""
        total = torch.tensor([number])
        torch_dist.all_reduce(total, group=self.host_group)  # pyright: ignore[reportUnknownMemberType] - untyped
        return int(total)

    @contextmanager
    def errors_on_all_ranks(self, asks: Callable[[], bool] = no) -> Generator[Agreement]:
        error, agreement = None, Agreement()
        try:
            yield agreement
        except Exception as raised:
            error = raised
        flags = torch.tensor([error is not None, error is None and asks()], dtype=torch.uint8)
        torch_dist.all_reduce(flags, torch_dist.ReduceOp.MAX, group=self.host_group)  # pyright: ignore[reportUnknownMemberType] - untyped
        agreement.asked = bool(flags[1])
        if not flags[0]:
            return
        errors = [e for e in self.all_gather_object(_picklable(error)) if e is not None]
        raise raised_on_all_ranks(errors[0] if error is None else error)

    def all_reduce_mean(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return cast(Tensor, _Mean.apply(value, self._data_group, self.data_size))  # pyright: ignore[reportUnknownMemberType] - autograd.Function is untyped

    def all_reduce_means(self, *values: Float[Tensor, ""]) -> tuple[Float[Tensor, ""], ...]:
        return self.all_reduce_mean(torch.stack(values)).unbind()

    def all_reduce_min(self, value: Float[Tensor, ""]) -> Float[Tensor, ""]:
        return self._all_reduce(value.clone(), torch_dist.ReduceOp.MIN)

    def all_reduce_any(self, mask: Bool[Tensor, "N"]) -> Bool[Tensor, "N"]:
        return self._all_reduce(mask.to(torch.uint8), torch_dist.ReduceOp.MAX) > 0

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            torch_dist.broadcast(tensor, group=self._data_group, group_src=0)

    def backward(
        self, loss: Float[Tensor, ""], module: nn.Module, touched_F: Bool[Tensor, "F"]
    ) -> None:
        torch.autograd.backward(loss / self.data_size)
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        matrices = [gradient for gradient in gradients if gradient.ndim > 1]
        vectors = [gradient for gradient in gradients if gradient.ndim <= 1]
        if self._few_rows(touched_F):
            self._all_reduce_rows(matrices, vectors)
            return
        for gradient in matrices:
            self._sum_matrix(gradient)
        self._all_reduce_together(vectors)

    def _few_rows(self, touched_F: Bool[Tensor, "F"]) -> bool:
        """Whether to send only the rows of matrices that have a gradient."""
        # On a GPU this would wait for it, and links between GPUs are fast.
        return not touched_F.is_cuda and bool(touched_F.sum() < _FEW_ROWS * len(touched_F))

    def _sum_matrix(self, gradient: Tensor) -> None:
        """Sum over ranks, in place, the rows of a gradient that this rank's optimizer needs."""
        self._all_reduce_sum(gradient)

    def _all_reduce_rows(self, matrices: list[Tensor], vectors: list[Tensor]) -> None:
        """Sum gradients over ranks in place; of matrices send the rows that are not zero on some
        rank."""
        own = torch.cat([gradient.any(-1) for gradient in matrices])
        masks = torch.split(self.all_reduce_any(own), [len(gradient) for gradient in matrices])
        rows = [mask.nonzero()[:, 0] for mask in masks]
        sent = [gradient[at] for gradient, at in zip(matrices, rows, strict=True)]
        self._all_reduce_together([*sent, *vectors])
        for gradient, at, total in zip(matrices, rows, sent, strict=True):
            gradient[at] = total

    def _all_reduce_together(self, tensors: list[Tensor]) -> None:
        """The sums over ranks of several tensors of one dtype, in place, by one collective."""
        flat = self._all_reduce_sum(torch.cat([tensor.flatten() for tensor in tensors]))
        totals = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, total in zip(tensors, totals, strict=True):
            tensor.copy_(total.view_as(tensor))

    def _all_reduce_sum(self, value: Tensor) -> Tensor:
        """The sum over ranks, in place."""
        return self._all_reduce(value, torch_dist.ReduceOp.SUM)

    def _all_reduce(self, value: Tensor, operation: Any) -> Tensor:
        torch_dist.all_reduce(value, operation, group=self._data_group)  # pyright: ignore[reportUnknownMemberType] - untyped
        return value


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, value: Tensor, group: torch_dist.ProcessGroup | None, size: int
    ) -> Tensor:
        total = value.clone()
        torch_dist.all_reduce(total, group=group)  # pyright: ignore[reportUnknownMemberType] - untyped
        return total.div_(size)

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - one gradient
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor, None, None]:
        return gradient, None, None


def _picklable(error: Exception | None) -> Exception | None:
    """The error, or one with the same message where it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
