"""Files that are whole or not there; JSON, checksums, and the nearest right word for an error."""

import ctypes
import difflib
import errno
import filecmp
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, cast

from .errors import InputError
from .paths import require_regular_file

TEMPORARY_PREFIX = ".tmp-"
"""Every temporary name begins with this, so that a reader or a person can tell it from content."""

TEMPORARY_NAME = re.escape(TEMPORARY_PREFIX) + "[0-9a-f]{12}"
"""Regular expression for what stands before a dash and the final name."""


@contextmanager
def atomic_file(path: str | Path, *, replace: bool = True) -> Generator[Path]:
    """Give a temporary path to write to; on success it becomes `path`, on an exception it is gone.

    The temporary path lies in the same folder (made if missing) and keeps the suffix of `path`.
    Content reaches the disk before the rename, so a crash leaves the old file or the new one.
    Whoever wrote it, the file has the permissions that the process gives to new files.
    Raises OSError as the file system does (a full disk is ENOSPC) and leaves `path` as it was; with
    `replace` false also InputError if it exists with other content.
    """
    path = Path(path)
    temporary = temporary_for(path)
    try:
        permissions = _of_a_new_file(temporary)
        yield temporary
        temporary.chmod(permissions)
        if not replace:
            _require_same(path, temporary)
        _fsync(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _fsync(path.parent)


@contextmanager
def atomic_folder(path: str | Path, *, replace: bool = True) -> Generator[Path]:
    """Give a temporary folder to fill; on success it becomes `path`, on an exception it is gone.

    An existing folder at `path` is wholly replaced, and kept until the new one is complete. On
    Linux the two are exchanged in one step; where the file system cannot do that, the old one is
    moved aside first, and moved back if the new one cannot take its place. Whoever wrote them, the
    files have the permissions that the process gives to new files. Raises OSError as the file
    system does and leaves `path` as it was; with `replace` false also InputError if it exists with
    other content and is not empty.
    """
    path = Path(path)
    temporary = temporary_for(path)
    temporary.mkdir()
    try:
        permissions = _of_a_new_file(temporary / "new")
        yield temporary
        if not replace:
            _require_same(path, temporary)
        for item in temporary.rglob("*"):
            if item.is_symlink():
                continue
            if item.is_file():
                item.chmod(permissions)
            _fsync(item)
        _fsync(temporary)
        if path.exists():
            _exchange(temporary, path)
        else:
            os.rename(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _fsync(path.parent)
    shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(folder: str | Path, name: str) -> None:
    """Remove temporary files and folders that a killed process left in `folder`.

    `name` is the final name that they were made for. Only for a caller that is the one writer of
    that name: a living writer's temporary file looks the same.
    """
    wanted = re.compile(f"(?:{TEMPORARY_NAME}-)+{re.escape(name)}")
    for item in Path(folder).iterdir():
        if wanted.fullmatch(item.name):
            if item.is_dir() and not item.is_symlink():
                shutil.rmtree(item)
            else:
                item.unlink(missing_ok=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder of ours; killed in between, what is left has a temporary name."""
    temporary = temporary_for(folder)
    os.rename(folder, temporary)
    shutil.rmtree(temporary)


def same_content(one: Path, other: Path) -> bool:
    """Whether two files have the same bytes, or two folders the same files with the same bytes."""
    if one.is_dir() and other.is_dir():
        names = {item.name for item in one.iterdir()}
        return names == {item.name for item in other.iterdir()} and all(
            same_content(one / name, other / name) for name in names
        )
    return one.is_file() and other.is_file() and filecmp.cmp(one, other, shallow=False)


def write_json(path: str | Path, value: object) -> None:
    """Write `value` as indented UTF-8 JSON, atomically; raise ValueError for NaN or infinity."""
    with atomic_file(path) as temporary:
        temporary.write_text(json_text(value), encoding="utf-8")


def json_text(value: object) -> str:
    """The text that `write_json` writes; raise ValueError for NaN or infinity."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_json(
    path: str | Path, what: str, *, remedy: str = "restore it or write it again"
) -> dict[str, Any]:
    """The JSON object in the file at `path`.

    In an error `what` names the file ("SAE configuration"), and `remedy` is what mends its content.
    Raises InputError if the file is missing, unreadable, not JSON (NaN is not), or not an object.
    """
    path = Path(path)
    require_regular_file(path, what)
    try:
        value: object = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except FileNotFoundError:
        raise InputError(f"there is no {what} at {path}; check the path") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(
            f"the {what} {path} cannot be read ({reason}); check the path and its permissions"
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"the {what} {path} is not valid JSON ({error}); {remedy}") from None
    if not isinstance(value, dict):
        raise InputError(
            f"the {what} {path} holds a JSON {type(value).__name__} where an object {{...}} is "
            f"needed; {remedy}"
        )
    return cast(dict[str, Any], value)


def nearest(word: str, choices: Iterable[str]) -> list[str]:
    """Up to three of `choices` that look most like `word`, best first; empty if none does."""
    return difflib.get_close_matches(word, list(choices), n=3, cutoff=0.5)


def sha256_file(path: str | Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _require_same(path: Path, new: Path) -> None:
    """Raise InputError if something is there that is not as the new file or folder."""
    empty = path.is_dir() and new.is_dir() and not any(path.iterdir())
    if os.path.lexists(path) and not empty and not same_content(path, new):
        raise other_content(path)


def other_content(path: Path) -> InputError:
    """The error about a file or folder that is not replaced unless that is asked for."""
    return InputError(
        f"{path} exists with other content; give another --out, or --force to replace it"
    )


def temporary_for(path: Path) -> Path:
    """A new temporary path for a file or folder of that name, beside it; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}-{path.name}"


def _of_a_new_file(path: Path) -> int:
    """The permissions that a file made here and now gets; there is none at the path afterwards."""
    path.touch(exist_ok=False)
    mode = path.stat().st_mode
    path.unlink()
    return mode


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _exchange(new: Path, path: Path) -> None:
    """Put `new` in the place of `path` and the old content at `new`."""
    if _rename_exchange(new, path):
        return
    aside = temporary_for(path)
    os.rename(path, aside)
    try:
        os.rename(new, path)
    except BaseException:
        os.rename(aside, path)
        raise
    os.rename(aside, new)


def _rename_exchange(one: Path, other: Path) -> bool:
    """Exchange two paths in one step; False where the system has no such call."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE in Linux's headers
    if renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(other))


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def free_disk(path: str | Path) -> int:
    """Bytes free on the disk where the path is, or would be made."""
    absolute = Path(path).absolute()
    there = next(folder for folder in (absolute, *absolute.parents) if folder.exists())
    return shutil.disk_usage(there).free
