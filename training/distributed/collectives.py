"""The processes that share one piece of work, and the collectives by which they talk.

A process alone is a `Distributed` whose collectives return what they are given. Of several, every
one must make the same calls in the same order, as always in torch.distributed.

`DataParallel` trains on its own rows of every batch, with the same weights on every rank. Means
over rows are taken over all ranks in the forward pass already, so that each rank knows the loss of
the whole batch, also where that is not the mean of its rows' losses. The gradient of such a mean is
passed on unchanged: with m the mean of the ranks' m_r, the sum over ranks of
1/data_size * dL/dm * dm_r/dw is dL/dw. So the loss is divided by the number of ranks and the
gradients are summed.
"""

import os
import pickle
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar, cast

import torch
import torch.distributed as torch_dist
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ...kernels.optimizer import SquareSums, gradient_norm
from ...kernels.process_group import ProcessGroup
from .torchrun import raised_on_all_ranks, under_torchrun

P = ParamSpec("P")
T = TypeVar("T")

_TIMEOUT = timedelta(days=1)
"""How long a rank waits for what another one does alone; a rank that ended is noticed at once."""
_FEW_ROWS = 0.3
"""Fraction of a gradient's rows; if fewer are not zero, finding and sending these is faster."""


class ProcessLost(ConnectionError):
    """Another process ended before the work was done."""


class Distributed:
    """One process that works alone: every collective returns what it is given.

    Attributes:
        rank: this process's rank, from 0.
        world_size: number of processes.
        local_rank: its rank among the processes on its machine.
        local_world_size: number of processes on its machine.
        data_rank: which part of every batch it has, from 0.
        data_size: number of parts of a batch.
        n_shards: number of parts into which the latents are divided; each rank has one.
        topk_group: the ranks among whose rows batch_topk chooses; None where it is this one alone.
    """

    rank = 0
    world_size = 1
    local_rank = 0
    local_world_size = 1
    data_rank = 0
    data_size = 1
    n_shards = 1
    topk_group: ProcessGroup | None = None
    square_sums: SquareSums | None = None

    def __init__(self) -> None:
        # With other processes' gradients to come, sums of squares of one's own would say nothing.
        self.square_sums = SquareSums()

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which alone writes files and reports."""
        return self.rank == 0

    def device(self, name: str) -> str:
        """The device that the user named, for this rank: where a machine has several GPUs, `auto`
        and `cuda` give each of its ranks one of its own."""
        shared = self.world_size == 1 or name not in ("auto", "cuda")
        return name if shared or not torch.cuda.is_available() else f"cuda:{self.local_rank}"

    # Objects and flags of the host, over all ranks.

    def all_gather_object(self, value: T) -> list[T]:
        """The values of all ranks, in the order of the ranks."""
        return [value]

    def broadcast_object(self, value: T) -> T:
        """The value of rank 0."""
        return value

    def any_rank(self, flag: bool) -> bool:
        """Whether the flag of any rank is true."""
        return flag

    @contextmanager
    def errors_on_all_ranks(self) -> Generator[None]:
        """A barrier at the end of the block, where every rank raises the exception of any rank.

        Without it an exception of one rank would leave the others waiting for it in their next
        collective. Where several ranks have one, each raises its own, and the others that of the
        lowest such rank. The block itself must call no collective.
        """
        yield

    def run_on_main(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `work` on rank 0 alone; every rank returns its result, or raises its exception."""
        result = cast(T, None)
        with self.errors_on_all_ranks():
            if self.is_main:
                result = work(*args, **kwargs)
        return self.broadcast_object(result)

    # Tensors of a training step.

    def local_rows(self, batch_size: int) -> slice:
        """Which rows of a batch this rank has."""
        n_rows = batch_size // self.data_size
        return slice(self.data_rank * n_rows, (self.data_rank + 1) * n_rows)

    def all_reduce_mean(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The mean of a value over ranks: of means over equally many rows, that over all rows.

        Differentiable; the gradient is passed on unchanged, see the module's docstring.
        """
        return value

    def all_reduce_min(self, value: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """The smallest of the ranks' values."""
        return value

    def all_reduce_any(self, mask: Bool[Tensor, "N"]) -> Bool[Tensor, "N"]:
        """Where the mask of any rank is true."""
        return mask

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite the tensors with those of rank 0."""

    def backward(
        self, loss: Float[Tensor, ""], module: nn.Module, touched_F: Bool[Tensor, "F"]
    ) -> None:
        """Gradients of the loss of the whole batch, bit for bit the same on every rank.

        Args:
            loss: made with `all_reduce_mean`.
            module: whose parameters get the gradients.
            touched_F: [F] rows of the weight matrices whose gradient is probably not zero. Only a
                hint, by which is decided whether to send whole matrices.
        """
        torch.autograd.backward(loss)

    def gradient_norm(self, gradients: dict[str, Tensor]) -> Float[Tensor, ""]:
        """The norm of all gradients of the autoencoder together, from this rank's by name."""
        return gradient_norm(gradients.values(), self.square_sums)

    def gather_shards(self, shard: dict[str, Tensor], full: dict[str, Tensor]) -> None:
        """Write the tensors of all shards, concatenated, to those of the same names in `full`,
        which only rank 0 gives. Does nothing where the latents are not sharded."""


class DataParallel(Distributed):
    """One of several ranks, each of which has its rows of every batch and all latents."""

    def __init__(self, group: torch_dist.ProcessGroup | None = None) -> None:
        """With the ranks of the group sharing the batch; by default all. They must be joined, see
        `init_distributed`."""
        self.rank = torch_dist.get_rank()
        self.world_size = torch_dist.get_world_size()
        self.local_rank = int(os.environ.get("LOCAL_RANK", self.rank))
        self.local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", self.world_size))
        self._data_group = group
        self.data_rank = torch_dist.get_rank(group)
        self.data_size = torch_dist.get_world_size(group)
        self.topk_group = ProcessGroup(self.data_rank, self.data_size, self._all_reduce_sum)

    def all_gather_object(self, value: T) -> list[T]:
        values: list[Any] = [None] * self.world_size
        torch_dist.all_gather_object(values, value)  # pyright: ignore[reportUnknownMemberType] - untyped
        return values

    def broadcast_object(self, value: T) -> T:
        values = [value]
        torch_dist.broadcast_object_list(values, src=0)
        return values[0]

    def any_rank(self, flag: bool) -> bool:
        flags = torch.tensor([flag], dtype=torch.uint8)
        torch_dist.all_reduce(flags, torch_dist.ReduceOp.MAX)  # pyright: ignore[reportUnknownMemberType] - untyped
        return bool(flags)

    @contextmanager
    def errors_on_all_ranks(self) -> Generator[None]:
        error: Exception | None = None
        try:
            yield
        except Exception as raised:
            error = raised
        if not self.any_rank(error is not None):
            return
        errors = [e for e in self.all_gather_object(_picklable(error)) if e is not None]
        raise raised_on_all_ranks(errors[0] if error is None else error)

    def all_reduce_mean(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return cast(Tensor, _Mean.apply(value, self._data_group, self.data_size))  # pyright: ignore[reportUnknownMemberType] - autograd.Function is untyped

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
        # On a GPU this would wait for it, and links between GPUs are fast.
        few = not touched_F.is_cuda and touched_F.sum() < _FEW_ROWS * len(touched_F)
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        matrices = [gradient for gradient in gradients if gradient.ndim > 1]
        vectors = [gradient for gradient in gradients if gradient.ndim <= 1]
        for gradient in matrices:
            if few:
                self._all_reduce_rows(gradient)
            else:
                self._all_reduce_sum(gradient)
        flat = self._all_reduce_sum(torch.cat(vectors))
        for vector, total in zip(vectors, torch.split(flat, list(map(len, vectors))), strict=True):
            vector.copy_(total)

    def _all_reduce_rows(self, gradient: Tensor) -> None:
        """Sum a gradient over ranks in place, sending the rows that are not zero on some rank."""
        rows = self.all_reduce_any(gradient.any(-1)).nonzero()[:, 0]
        gradient[rows] = self._all_reduce_sum(gradient[rows])

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


@contextmanager
def init_distributed() -> Generator[Distributed]:
    """Join the processes that torchrun started, or work alone without torchrun.

    They exchange objects and tensors in main memory by gloo, tensors on GPUs by nccl. A process
    group that is initialized already is used and left as it is.

    Raises:
        ProcessLost: another process ended in the middle of the work.
    """
    if not under_torchrun() or os.environ["WORLD_SIZE"] == "1":
        yield Distributed()
        return
    # Its functions have the process group of the moment of its import as a default: imported later,
    # by a part of torch, it would keep a group's threads alive until they abort the exit.
    import torch.distributed.nn.functional  # pyright: ignore[reportUnusedImport] - see above

    initialized_here = not torch_dist.is_initialized()
    if initialized_here:
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        torch_dist.init_process_group(backend, timeout=_TIMEOUT)
    try:
        yield DataParallel()
    except RuntimeError as error:
        if "gloo/transport" in str(error) or isinstance(error, torch_dist.DistBackendError):
            raise ProcessLost(
                "another process of this run ended first, killed or for a reason that it said "
                "itself; the same command goes on from what is saved"
            ) from error
        raise
    finally:
        if initialized_here:
            torch_dist.destroy_process_group()
