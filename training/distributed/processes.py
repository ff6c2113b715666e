"""The processes that `torchrun` started for one piece of work; imports torch only to join them.

    torchrun --nproc-per-node 4 -m sparsteer.cli train ...

What one of them raises alone would leave the others waiting for it. So whatever may fail runs in
`together`, which ends in all processes as it ended in the worst of them.
"""

import os
import pickle
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from ...sae.common.errors import InputError

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)

_GIVEN_BY_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")
_PATIENCE = timedelta(days=1)
"""How long a process waits for what another does alone; one that has ended is noticed at once."""
_RAISED_IN_ALL = "raised in all processes"


class ProcessLost(ConnectionError):
    """Another process ended before the work was done."""


class Processes:
    """One process that works alone.

    Attributes:
        rank: which process this is, from 0.
        size: how many work together.
        local_rank: which one of its machine.
        local_size: how many are on its machine.
    """

    rank = 0
    size = 1
    local_rank = 0
    local_size = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and speaks for all."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """The values of all processes, by rank, in each."""
        return [value]

    def broadcast(self, value: T) -> T:
        """The first process's value."""
        return value

    def any(self, flag: bool) -> bool:
        """Whether any process's flag is true."""
        return flag

    def barrier(self) -> None:
        """Wait for all."""

    def device(self, name: str) -> str:
        """The device that the user named, for this process: of several on a machine with GPUs each
        has its own, unless one of these is named."""
        import torch

        shared = self.size == 1 or name not in ("auto", "cuda") or not torch.cuda.is_available()
        return name if shared else f"cuda:{self.local_rank}"

    @contextmanager
    def together(self) -> Generator[None]:
        """Within the block processes do not wait for each other; at its end an exception of one is
        raised in all, the lowest rank's where there are several."""
        yield


class _Joined(Processes):
    def __init__(self) -> None:
        import torch.distributed as dist

        self._dist = dist
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()
        self.local_rank = int(os.environ.get("LOCAL_RANK", self.rank))
        self.local_size = int(os.environ.get("LOCAL_WORLD_SIZE", self.size))

    def gather(self, value: T) -> list[T]:
        values: list[Any] = [None] * self.size
        self._dist.all_gather_object(values, value)  # pyright: ignore[reportUnknownMemberType] - untyped
        return values

    def broadcast(self, value: T) -> T:
        values = [value]
        self._dist.broadcast_object_list(values, src=0)
        return values[0]

    def any(self, flag: bool) -> bool:
        import torch

        flags = torch.tensor([flag], dtype=torch.uint8)
        self._dist.all_reduce(flags, self._dist.ReduceOp.MAX)  # pyright: ignore[reportUnknownMemberType] - untyped
        return bool(flags)

    def barrier(self) -> None:
        self.any(False)

    @contextmanager
    def together(self) -> Generator[None]:
        error: Exception | None = None
        try:
            yield
        except Exception as raised:
            error = raised
        if not self.any(error is not None):
            return
        errors = [found for found in self.gather(_sendable(error)) if found is not None]
        raise raised_in_all(errors[0] if error is None else error)


def _sendable(error: Exception | None) -> Exception | None:
    """The error, or one that says the same and can be pickled."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def raised_in_all(error: E) -> E:
    """The error, which all processes raise here alike, so that only the first need say it."""
    error.add_note(_RAISED_IN_ALL)
    return error


def is_told_by_another(error: BaseException) -> bool:
    """Whether the first process says the error, so that this one need not.

    Signals go to all, and all find the same fault in what the user gave.
    """
    alike = isinstance(error, KeyboardInterrupt | InputError)
    in_all = alike or _RAISED_IN_ALL in getattr(error, "__notes__", ())
    return in_all and not is_first_process()


def processes_of_this_machine() -> int:
    """How many of the processes that torchrun started run on this machine; 1 without torchrun."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if under_torchrun() else 1


def under_torchrun() -> bool:
    """Whether torchrun started this process."""
    return all(name in os.environ for name in _GIVEN_BY_TORCHRUN)


def is_first_process() -> bool:
    """Whether this process speaks for all that torchrun started; true for one alone."""
    return not under_torchrun() or os.environ["RANK"] == "0"


@contextmanager
def processes() -> Generator[Processes]:
    """All processes that torchrun started, or this one alone.

    They exchange objects and tensors in main memory by gloo, tensors on GPUs by nccl. Within the
    context every one must make the same calls in the same order. A process group that exists is
    used and left as it is.

    Raises:
        ProcessLost: another process ended in the middle of the work.
    """
    if not under_torchrun() or os.environ["WORLD_SIZE"] == "1":
        yield Processes()
        return
    import torch
    import torch.distributed as dist

    # Its functions have the process group of the moment of its import as a default: imported later,
    # by a part of torch, it would keep a group's threads alive until they abort the exit.
    import torch.distributed.nn.functional  # pyright: ignore[reportUnusedImport] - see above

    own = not dist.is_initialized()
    if own:
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=_PATIENCE)
    try:
        yield _Joined()
    except RuntimeError as error:
        if "gloo/transport" in str(error) or isinstance(error, dist.DistBackendError):
            raise ProcessLost(
                "another process of this run ended first, killed or for a reason that it said "
                "itself; the same command goes on from what is saved"
            ) from error
        raise
    finally:
        if own:
            dist.destroy_process_group()
