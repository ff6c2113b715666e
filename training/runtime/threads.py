"""How many threads torch gets.

The last bits of a result may depend on their number: MKL cuts a small product into as many pieces,
and rows at the edge of a piece are summed in another order. So what goes on after a kill takes as
many as it was begun with, and what is new as many as torch has: the command gives it
`default_threads`, in Python `torch.set_num_threads` does.
"""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from ...sae.common.errors import InputError
from ..distributed.torchrun import local_world_size

_MOST_THREADS = 1024
"""Beyond, the system refuses to start them, and OpenMP ends the process without a word of ours."""


def default_threads() -> int:
    """As many as there are cores that this process may use, at least 1.

    Looks at the process's affinity and its control group's quota, and not at what else runs, so
    that the same command has the same number whenever it begins. Processes that torchrun started
    share the cores of their machine. The environment variable SPARSTEER_THREADS, a whole number of
    at least 1, overrides it all.

    Raises:
        InputError: SPARSTEER_THREADS is no such number, or more than any machine can use.
    """
    if asked := os.environ.get("SPARSTEER_THREADS"):
        return _asked_threads(asked)
    cores = allowed_cores()
    return max(1, min(cores, int(_quota() or cores)) // local_world_size())


def allowed_cores() -> int:
    """Cores that this process may run on, idle or not."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def use_threads(n_threads: int) -> Generator[None]:
    """Let torch use so many threads within the context, and as many as before after it."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _asked_threads(asked: str) -> int:
    plain = asked.isascii() and asked.isdecimal() and len(asked) < 10
    if not plain or not 1 <= int(asked) <= _MOST_THREADS:
        raise InputError(
            f"SPARSTEER_THREADS is {asked!r}, but must be a whole number from 1 to {_MOST_THREADS}"
        )
    return int(asked)


def _quota() -> float | None:
    """Cores' worth of time that the control group allows, None if it sets no limit."""
    try:
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if limit == "max" else max(1.0, float(limit) / float(period))
    except (OSError, ValueError):
        return None
