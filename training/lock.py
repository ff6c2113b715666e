"""One writer for a folder at a time."""

from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from ..sae.errors import InputError

LOCK = ".lock"
"""The file that is locked; it stays."""


def lock_folder(folder: Path) -> BaseFileLock:
    """Hold a folder, which exists, until the lock is released or the process ends.

    Raises InputError if another process holds it.
    """
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"another process is writing {folder}; wait for it, or give another --out"
        ) from None
    return lock
