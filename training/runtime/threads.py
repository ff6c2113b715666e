"""How many threads torch gets: the cores that are really free, not those that exist.

Two compute threads that share a core with other work run many times slower than one, because every
parallel region waits for its slowest thread.

The last bits of a result may depend on their number: MKL cuts a small product into as many pieces,
and rows at the edge of a piece are summed in another order. So what goes on after a kill takes as
many as it was begun with.
"""

import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from ...sae.common.errors import InputError
from ..distributed.processes import Processes

_LOOK_SECONDS = 0.2
_MOST_THREADS = 1024
"""Beyond, the system refuses to start them, and OpenMP ends the process without a word of ours."""


def free_cores(shared_by: int = 1) -> int:
    """Cores that this process may use and that are idle now; at least 1.

    Looks at the process's affinity, its control group's quota and, where /proc/stat exists, how
    busy those cores are over a fifth of a second. The environment variable SPARSTEER_THREADS, a
    whole number of at least 1, overrides it all.

    Args:
        shared_by: processes on this machine that do the same; each gets its part of the cores.

    Raises:
        InputError: SPARSTEER_THREADS is no such number, or more than any machine can use.
    """
    if asked := os.environ.get("SPARSTEER_THREADS"):
        return _asked_threads(asked)
    allowed = _allowed()
    idle = _idle_cores(allowed)
    return max(1, min(round(idle), int(_quota() or len(allowed))) // shared_by)


def allowed_cores() -> int:
    """Cores that this process may use, idle or not."""
    return len(_allowed())


def use_free_cores(team: Processes | None = None, begun_with: int | None = None) -> int:
    """Set torch's thread count to `free_cores()` and return it.

    Processes that work together share their machine's cores, and all take as many threads as the
    one that gets the fewest, so that their results have the same bits.

    Args:
        begun_with: threads of the work that goes on here, taken in place of the free cores.
    """
    import torch

    team = team or Processes()
    threads = begun_with or min(team.gather(free_cores(shared_by=team.local_size)))
    torch.set_num_threads(threads)
    return threads


@contextmanager
def use_threads(n_threads: int) -> Generator[None]:
    """Let torch use so many threads, which the last bits of a model's activations depend on."""
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


def _allowed() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _quota() -> float | None:
    """Cores' worth of time that the control group allows, None if it sets no limit."""
    try:
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if limit == "max" else max(1.0, float(limit) / float(period))
    except (OSError, ValueError):
        return None


def _idle_cores(allowed: set[int]) -> float:
    before = _core_times(allowed)
    if before is None:
        return len(allowed)
    time.sleep(_LOOK_SECONDS)
    after = _core_times(allowed) or before
    idle = 0.0
    for core, (idle_after, total_after) in after.items():
        idle_before, total_before = before[core]
        passed = total_after - total_before
        idle += (idle_after - idle_before) / passed if passed else 1.0
    return idle


def _core_times(allowed: set[int]) -> dict[int, tuple[int, int]] | None:
    """(idle, total) clock ticks since boot of each allowed core, None where unknown."""
    try:
        lines = Path("/proc/stat").read_text().splitlines()
    except OSError:
        return None
    times: dict[int, tuple[int, int]] = {}
    for line in lines:
        name, *fields = line.split()
        core = name.removeprefix("cpu")
        if name.startswith("cpu") and core.isdecimal() and int(core) in allowed:
            ticks = [int(field) for field in fields[:8]]
            times[int(core)] = (ticks[3] + ticks[4], sum(ticks))
    return times or None
