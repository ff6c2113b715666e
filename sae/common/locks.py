"""One writer at a time for a file or a folder, and nothing left of one that was killed.

What appears whole is held by a lock beside it, `.lock-NAME`; a folder that is written file by file
by one inside it, `.lock`. A lock is gone when it is released. A killed writer leaves its own, which
holds nothing any more, until the next one comes.
"""

import errno
import re
import warnings
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import InputError
from .files import TEMPORARY_NAME, remove_leftovers, temporary_for
from .paths import refuse_special_file

LOCK = ".lock"

PATIENCE = 10.0
"""Seconds to wait for a writer that takes milliseconds."""

_MOMENT = 0.3
_LEFTOVER = re.compile(rf"(?:(?:{TEMPORARY_NAME}-)+|{re.escape(LOCK)}-)(.+)", re.DOTALL)


class AnotherWriter(InputError):
    """Another process holds what was to be written."""


@contextmanager
def hold(
    path: str | Path,
    *,
    patience: float = _MOMENT,
    remedy: str = "wait for it, or give another --out",
) -> Generator[None]:
    """Hold a file or a folder that appears whole at `path` against other writers of that name.

    Temporary files that a killed writer of that name left beside it are removed, nothing else. The
    parent folder is made if missing, and then gone again if it stays empty.

    Args:
        path: what will be written; it need not exist.
        patience: seconds to wait for another writer; negative is without end.
        remedy: what the user may do about one, for the sentence that says so.

    Raises AnotherWriter if another process holds it for longer.
    """
    path = Path(path)
    with _made(path.parent), _locked(path.parent / f"{LOCK}-{path.name}", path, patience, remedy):
        remove_leftovers(path.parent, path.name)
        remove_leftovers(path.parent, LOCK)  # of who was killed while asking for one
        yield


@contextmanager
def hold_folder(folder: str | Path, *, patience: float = _MOMENT) -> Generator[None]:
    """Hold a folder that is written file by file, made if missing, against other writers.

    Whatever killed writers left in it is removed, but for what belongs to a living holder of one of
    its names. If it was made and stays empty, it is gone again.

    Raises AnotherWriter if another process holds it for longer than `patience`, in seconds.
    """
    folder = Path(folder)
    with _made(folder):
        remedy = "wait for it, or give another --out"
        with _locked(folder / LOCK, folder, patience, remedy):
            names = {match[1] for item in folder.iterdir() if (match := _leftover(item))}
            for name in names:
                with suppress(AnotherWriter), hold(folder / name, patience=0.0):
                    pass
            yield


def tidy(folder: str | Path) -> None:
    """Remove what killed writers left in a folder of ours, unless one is at work there."""
    if Path(folder).is_dir():
        with suppress(AnotherWriter), hold_folder(folder, patience=0.0):
            pass


def is_leftover(path: Path) -> bool:
    """Whether the name is that of a lock or of a temporary file, which are no content."""
    return path.name == LOCK or _leftover(path) is not None


def _leftover(path: Path) -> re.Match[str] | None:
    return _LEFTOVER.fullmatch(path.name)


@contextmanager
def _locked(file: Path, what: Path, patience: float, remedy: str) -> Generator[None]:
    _require_writable(file.parent)
    refuse_special_file(file, "lock")
    lock = FileLock(file)
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            lock.acquire(timeout=patience)  # warns where it locks by the file's being there
    except Timeout:
        raise AnotherWriter(f"another process is writing {what}; {remedy}") from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
            raise
        with suppress(OSError):
            file.unlink()
        raise InputError(
            f"the file system of {file.parent} cannot lock files; write to another disk"
        ) from None
    try:
        yield
    finally:
        with suppress(OSError):
            file.unlink()  # while it is held: who waits for it then sees that it is gone
        lock.release()


def _require_writable(folder: Path) -> None:
    """Raise the OSError if no file can be made in a folder, such as /proc, which FileLock would
    take for one that is held."""
    # Not by a file of the lock's name, whose being there is the lock where there is no flock.
    probe = temporary_for(folder / LOCK)
    probe.touch()
    probe.unlink(missing_ok=True)


@contextmanager
def _made(folder: Path) -> Generator[None]:
    """Make a folder and its parents; at the end those that were made are gone if empty."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with suppress(OSError):  # the first that holds something ends it
            for path in missing:
                path.rmdir()
