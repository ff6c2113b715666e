"""The processes that share one piece of work, and the collectives by which they talk.

A process alone is a `Distributed` whose collectives return what they are given. Of several, every
one must make the same calls in the same order, as always in torch.distributed.
"""

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ...kernels.optimizer import SquareSums, gradient_norm
from ...kernels.process_group import ProcessGroup
from ...sae.common.errors import InputError

P = ParamSpec("P")
T = TypeVar("T")


class Agreement:
    """What ranks agree on at the end of a block, see `Distributed.errors_on_all_ranks`.

    Attributes:
        asked: after the block, whether `asks` of any rank said yes.
    """

    asked = False


def no() -> bool:
    """False."""
    return False


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
        """The device that the user named, for this rank: `auto` and `cuda` give each rank of a
        machine a GPU of its own, as far as it sees several.

        Raises InputError for a numbered GPU where a machine has several ranks: all would take it.
        """
        if self.local_world_size > 1 and name.startswith("cuda:"):
            raise InputError(
                f"device is {name}, which all {self.local_world_size} processes of this machine "
                "would share; give cuda, and each takes one of its own",
                field="device",
            )
        if self.world_size == 1 or name not in ("auto", "cuda") or not torch.cuda.is_available():
            return name
        # A launcher may let each process see one GPU alone, which then is cuda:0 to all of them.
        return f"cuda:{self.local_rank % torch.cuda.device_count()}"

    def require_own_device(self, device: torch.device) -> None:
        """Raise an InputError where two ranks have the same GPU, which NCCL cannot serve; every
        rank calls this."""
        if device.type != "cuda":
            return
        cuda: Any = torch.cuda  # untyped
        gpus = self.all_gather_object(str(cuda.get_device_properties(device).uuid))
        if len(set(gpus)) < len(gpus):
            raise InputError(
                f"{len(gpus)} processes have {len(set(gpus))} GPUs; start one for each GPU with "
                "torchrun --nproc-per-node"
            )

    # Objects and flags of the host, over all ranks.

    def all_gather_object(self, value: T) -> list[T]:
        """The values of all ranks, in the order of the ranks."""
        return [value]

    def broadcast_object(self, value: T) -> T:
        """The value of rank 0."""
        return value

    @contextmanager
    def errors_on_all_ranks(self, asks: Callable[[], bool] = no) -> Generator[Agreement]:
        """A barrier at the end of the block, where every rank raises the exception of any rank.

        Without it an exception of one rank would leave the others waiting for it in their next
        collective. Where several ranks have one, each raises its own, and the others that of the
        lowest such rank. The block itself must call no collective.

        Args:
            asks: called at the end of the block; what it says is agreed on in the same collective.
        """
        agreement = Agreement()
        yield agreement
        agreement.asked = asks()

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

        Differentiable; the gradient is passed on unchanged, see `data_parallel`.
        """
        return value

    def all_reduce_means(self, *values: Float[Tensor, ""]) -> tuple[Float[Tensor, ""], ...]:
        """`all_reduce_mean` of several scalars in one collective."""
        return values

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

    # The optimizer's moments.

    def moment_rows(self, weights: Float[Tensor, "..."]) -> slice | None:
        """Rows of the weights that this rank's optimizer updates and has the moments of; None: all
        weights."""
        return None

    def all_gather_rows(self, weights: Float[Tensor, "..."]) -> None:
        """Write the rows that other ranks' optimizers have updated to the weights."""

    def gather_moments(self, module: nn.Module, moments: dict[str, Tensor]) -> dict[str, Tensor]:
        """On rank 0 the whole moments, in main memory, of those parameters of which no rank has all
        rows; every rank calls this.

        Args:
            module: whose parameters they are of.
            moments: this rank's, by the names that `Adam.state` gives.
        """
        return {}

    def scatter_moments(
        self, module: nn.Module, moments: dict[str, Tensor], whole: dict[str, Tensor]
    ) -> None:
        """Write to each rank's moments its rows of those of which no rank has all, the opposite of
        `gather_moments`; every rank calls this.

        Args:
            module: whose parameters they are of.
            moments: this rank's, by the names that `Adam.state` gives.
            whole: on rank 0 what `gather_moments` gave.
        """

    def gather_shards(self, shard: dict[str, Tensor], full: dict[str, Tensor]) -> None:
        """Write the tensors of all shards, concatenated, to those of the same names in `full`,
        which only rank 0 gives. Does nothing where the latents are not sharded."""
