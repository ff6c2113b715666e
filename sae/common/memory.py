"""Memory: whether this machine can hold what the user asks for, and how much of it is free."""

import os
import re
from pathlib import Path

from .errors import InputError


def require_memory(n_bytes: int, needs: str, remedy: str, *, field: str | None = None) -> None:
    """Raise an InputError if so many bytes are more than the memory of the machine.

    Where a system does not tell its memory, no size is refused.

    Args:
        n_bytes: what is needed at least.
        needs: the beginning of the sentence, such as "n_latents is 10, whose weights take".
        remedy: its end.
        field: the setting that it begins with.
    """
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return
    if n_bytes > memory > 0:
        raise InputError(
            f"{needs} {n_bytes / 1e9:,.0f} GB, more than the {memory / 1e9:,.0f} GB of this "
            f"machine's memory; {remedy}",
            field=field,
        )


def available_memory() -> float:
    """Bytes that this machine, or the control group of this process, can still give without moving
    anything out of memory, infinite where the system does not tell (it is Linux that does)."""
    try:
        told = Path("/proc/meminfo").read_text()
    except OSError:
        return float("inf")
    found = re.search(r"^MemAvailable:\s+(\d+) kB", told, re.MULTILINE)
    of_machine = float("inf") if found is None else 1024.0 * int(found[1])
    return min(of_machine, _left_to_group(Path("/sys/fs/cgroup")))


def _left_to_group(root: Path) -> float:
    """Bytes below the limit of this process's control group (version 2), infinite without one."""
    try:
        group = re.search(r"^0::/(.*)$", Path("/proc/self/cgroup").read_text(), re.MULTILINE)
        folder = root / ("" if group is None else group[1])
        folder = folder if (folder / "memory.max").exists() else root  # within a container
        limit, used = (
            (folder / name).read_text().strip() for name in ("memory.max", "memory.current")
        )
        return float("inf") if limit == "max" else max(0.0, float(limit) - float(used))
    except (OSError, ValueError):
        return float("inf")
