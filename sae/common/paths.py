"""Paths as users give them: what they may be, and files that can be read to their end."""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from .errors import InputError

FilePath = Annotated[str, "path"]
"""Type of an option that names a file or folder; the command line expands `~` in it."""

AnyText = Annotated[str, "any text"]
"""Type of an option whose text need not be UTF-8: bytes that are not are read as question marks."""

_LONGEST_NAME = 255
_LONGEST_PATH = 4095
"""Bytes that Linux and macOS take; what is longer cannot be a file."""

_MOST_FILES = 300_000
"""In a folder and those within; what holds more was hardly meant, such as /."""

WRONG_PATH: dict[int, str] = {
    errno.EACCES: "change its permissions, or give another path",
    errno.EPERM: "change its permissions, or give another path",
    errno.EROFS: "give a path on another disk",
    errno.EEXIST: "move away what is there, or give another path",
    errno.EISDIR: "give a file",
    errno.ENOTDIR: "give a path whose folders are folders",
    errno.ELOOP: "mend the symbolic link, or give another path",
    errno.ENAMETOOLONG: "give a shorter one",
    errno.EINVAL: "give another path",
    errno.ENXIO: "give a regular file",
}
"""Errors of the file system that a wrong path has caused, with what mends it."""


def files_within(folder: Path, *, hidden: bool = True) -> Iterator[Path]:
    """The files of a folder and of those within, in no order; hidden ones may be left out.

    Folders that cannot be read, or are gone before they are, count as empty.

    Raises:
        InputError: there are too many to have been meant.
    """
    n_files = 0
    for parent, folders, names in os.walk(folder):
        if not hidden:
            folders[:] = [name for name in folders if not name.startswith(".")]
            names = [name for name in names if not name.startswith(".")]
        n_files += len(names)
        if n_files > _MOST_FILES:
            raise InputError(
                f"the folder {folder} holds more than {_MOST_FILES:,} files; give a folder in it, "
                "or of data a quoted pattern such as 'FOLDER/*.txt'"
            )
        yield from (Path(parent, name) for name in names)


def expanded_path(name: str, text: str) -> str:
    """The path that the option `name` is given, with `~` and `~user` expanded.

    Raises:
        InputError: it is empty, no file can have such a name, or it is there and neither a file nor
            a folder.
    """
    if not text.strip():
        raise InputError(f"{name} is empty; give a path")
    require_utf8(name, text)
    path = os.path.expanduser(text)
    if path.startswith("~"):
        raise InputError(
            f"{name} is {text!r}, but there is no such user; write ./{text} if need be"
        )
    parts = [part.encode() for part in path.split(os.sep)]
    longest = max(map(len, parts))
    if longest > _LONGEST_NAME or len(path.encode()) > _LONGEST_PATH:
        raise InputError(
            f"{name} is {text!r}, but a name has at most {_LONGEST_NAME} bytes and a path "
            f"{_LONGEST_PATH}; give a shorter one"
        )
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        if remedy := WRONG_PATH.get(error.errno or 0):
            reason = (error.strerror or "").lower()
            raise InputError(f"{name} is {text!r}, which is no path ({reason}); {remedy}") from None
        return path
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InputError(
            f"{name} is {text!r}, which is a {_kind(mode)}; give a regular file or folder"
        )
    return path


def require_utf8(name: str, text: str) -> None:
    """Raise an InputError that names the option if its text is not UTF-8 or holds a NUL."""
    if "\0" in text:
        raise InputError(f"{name} is {text!r}, which holds a NUL character; leave it out")
    if any(0xD800 <= ord(character) < 0xE000 for character in text):
        raise InputError(f"{name} is {text!r}, which is not UTF-8; rename it or write it in UTF-8")


def require_regular_file(path: str | Path, what: str, remedy: str = "check the path") -> None:
    """Raise an InputError unless the path is a file that can be opened and read to its end.

    A pipe would wait for a writer, and some devices never end. `what` names the file in the error
    ("recipe"), which ends with the remedy.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise InputError(f"there is no {what} at {path}; {remedy}") from None
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise InputError(f"the {what} {path} cannot be read ({reason}); {remedy}") from None
    if not stat.S_ISREG(mode):
        raise _not_regular(path, mode, what, remedy)
    if not os.access(path, os.R_OK):
        raise InputError(
            f"the {what} {path} cannot be read (permission denied); change its permissions"
        )


def require_no_file_at(out: Path) -> None:
    """Raise an InputError if a folder to write is a file, or lies below one."""
    if file := next((path for path in (out, *out.parents) if path.is_file()), None):
        raise InputError(f"{file} is a file, not a folder; choose another --out")


def refuse_special_file(
    path: str | Path, what: str, remedy: str = "remove it, or give another path"
) -> None:
    """Raise an InputError if a pipe, a socket or a device is at the path, where opening it may wait
    for ever; nothing, a file or a folder is none. The arguments are those of
    `require_regular_file`."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return  # whoever opens it is told
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise _not_regular(path, mode, what, remedy)


def _not_regular(path: str | Path, mode: int, what: str, remedy: str) -> InputError:
    return InputError(
        f"the {what} {path} cannot be read (it is a {_kind(mode)}, not a regular file); {remedy}"
    )


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "folder"
    return "pipe" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"
