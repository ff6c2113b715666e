"""Joining the processes that torchrun started, and leaving them."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch.distributed as torch_dist

from ...sae.common.text import first_line
from .collectives import Distributed
from .data_parallel import DataParallel
from .torchrun import under_torchrun

_HOST_PATIENCE = timedelta(days=1)
"""How long a rank waits for what another one does alone, as evaluating; gloo notices at once a rank
that ended."""
_GPU_PATIENCE = timedelta(minutes=10)
"""How long it waits in a collective on GPUs, which no rank enters much before the others: NCCL does
not notice itself that a rank ended."""


class ProcessLost(ConnectionError):
    """Another process ended before the work was done."""


@contextmanager
def init_distributed() -> Generator[Distributed]:
    """Join the processes that torchrun started, or work alone without torchrun.

    They exchange objects and tensors in main memory by gloo, tensors on GPUs by nccl. A process
    group that is initialized already is used and left as it is.

    A rank waits a day for what another one does alone, which it does by gloo, and ten minutes in a
    collective of nccl, which raises nothing by itself where a rank ended.

    Raises:
        ProcessLost: another process ended in the middle of the work.
    """
    if not under_torchrun() or os.environ["WORLD_SIZE"] == "1":
        yield Distributed()
        return
    # Its functions have the process group of the moment of its import as a default: imported later,
    # by a part of torch, it would keep a group's threads alive until they abort the exit.
    import torch.distributed.nn.functional  # pyright: ignore[reportUnusedImport] - see above

    on_gpus = torch.cuda.is_available()
    initialized_here = not torch_dist.is_initialized()
    if initialized_here:
        backend = "cpu:gloo,cuda:nccl" if on_gpus else "gloo"
        torch_dist.init_process_group(backend, timeout=_GPU_PATIENCE if on_gpus else _HOST_PATIENCE)
    host: Any = None
    if on_gpus:
        host = torch_dist.new_group(backend="gloo", timeout=_HOST_PATIENCE)  # pyright: ignore[reportUnknownMemberType] - untyped
    try:
        yield DataParallel(host_group=host)
    except RuntimeError as error:
        if "gloo/transport" in str(error) or isinstance(error, torch_dist.DistBackendError):
            raise ProcessLost(
                "another process of this run ended first, killed or for a reason that it said "
                "itself, or cannot be reached; the same command goes on from what is saved "
                f"({first_line(error)})"
            ) from error
        raise
    finally:
        if initialized_here:
            torch_dist.destroy_process_group()
        elif host is not None:
            torch_dist.destroy_process_group(host)
