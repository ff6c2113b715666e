"""What torchrun tells each process that it starts, and which of them reports an error.

    torchrun --nproc-per-node 4 -m sparsteer.cli train ...

Imports no torch.
"""

import os
from typing import TypeVar

from ...sae.common.errors import InputError

E = TypeVar("E", bound=BaseException)

_SET_BY_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")
_ON_ALL_RANKS = "raised on all ranks"


def under_torchrun() -> bool:
    """Whether torchrun started this process."""
    return all(name in os.environ for name in _SET_BY_TORCHRUN)


def is_main_process() -> bool:
    """Whether this process has rank 0, or is the only one."""
    return not under_torchrun() or os.environ["RANK"] == "0"


def local_world_size() -> int:
    """How many processes torchrun started on this machine; 1 without torchrun."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if under_torchrun() else 1


def raised_on_all_ranks(error: E) -> E:
    """The error, with a note that every rank raises it at this point, so that rank 0 reports it."""
    error.add_note(_ON_ALL_RANKS)
    return error


def is_reported_by_main_process(error: BaseException) -> bool:
    """Whether rank 0 reports the error, so that this process need not.

    It does where every rank has the error: one with the note of `raised_on_all_ranks`, a signal,
    which torchrun sends to all, and a fault in the user's input, which all ranks find.
    """
    on_all = isinstance(error, KeyboardInterrupt | InputError) or (
        _ON_ALL_RANKS in getattr(error, "__notes__", ())
    )
    return on_all and not is_main_process()
