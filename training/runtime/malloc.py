"""Keep freed memory in the process: a step on a CPU takes the same large blocks each time."""

import ctypes
import sys
from functools import cache

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_LARGEST = (1 << 31) - 1
_LARGEST_EVERYWHERE = 32 << 20  # older glibc refuses more for the first of them


@cache
def keep_freed_memory() -> bool:
    """Let glibc's malloc reuse large blocks instead of returning them to the system.

    By default every gradient and block of pre-activations comes from the system anew, and its
    pages are zeroed at the first touch: a fifth of a step's time. The process holds on to its peak
    of memory instead: this holds for the whole process, whatever runs in it, so only the process
    itself calls it: `sparsteer train` and `sparsteer demo` do, and so may a program in Python.

    Returns:
        Whether this malloc could be told; where it could not, nothing changes.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    reused = mallopt(_M_MMAP_THRESHOLD, _LARGEST) or mallopt(_M_MMAP_THRESHOLD, _LARGEST_EVERYWHERE)
    kept = mallopt(_M_TRIM_THRESHOLD, _LARGEST)
    return bool(reused and kept)
