"""Files that show damage: checksums of files, of JSON objects within themselves, and of lines.

A JSON object with a checksum has `"version": 2` or higher and `"sha256"`, the SHA-256 of the rest
of it as JSON with sorted keys, without spaces and in ASCII. `"files"`, where it has that, gives the
size and the SHA-256 of files beside it. Version 1, or none, is of before there were checksums: such
a file is taken as it stands.
"""

import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from .errors import InputError
from .files import read_json, sha256_file, write_json
from .old_names import with_new_names
from .paths import require_regular_file

VERSION = 2
"""Of a format that has had checksums since its second version."""

SUMS_FILE = "SHA256SUMS"
"""Checksums beside files in another toolkit's layout, as `sha256sum --check` reads them."""

_CHECKSUM = "sha256"
_OF_A_LINE = "crc32"


def write_checked_json(path: str | Path, values: Mapping[str, Any]) -> None:
    """Write a JSON object with its checksum, atomically; `version` is added where it has none."""
    write_json(path, with_checksum(values))


def read_checked_json(
    path: str | Path, what: str, *, remedy: str = "restore it or write it again"
) -> dict[str, Any]:
    """The JSON object in the file at `path`, without its checksum, with the keys of today.

    Raises InputError as `read_json` does, and where the content is not what was written.
    """
    values = read_json(path, what, remedy=remedy)
    require_checksum(values, f"the {what} {path}", remedy)
    return with_new_names(values)


def with_checksum(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with their version, by default 2, and their checksum."""
    versioned = dict(values) if "version" in values else {"version": VERSION, **values}
    return {**versioned, _CHECKSUM: _digest(versioned)}


def require_checksum(values: dict[str, Any], what: str, remedy: str) -> None:
    """Take the checksum out of values that were read, and compare it; version 1 has none.

    Raises InputError if it differs or is missing; `what` names the file.
    """
    recorded = values.pop(_CHECKSUM, None)
    if recorded is None and not is_checked(values):
        return
    try:
        right = recorded == _digest(values)
    except (ValueError, TypeError, RecursionError):
        right = False
    if not right:
        raise InputError(
            f"{what} has changed since it was written (its content is not that of its checksum); "
            f"{remedy}"
        )


def is_checked(values: Mapping[str, Any]) -> bool:
    """Whether an object that was read must have a checksum, by its version."""
    version = values.get("version", 1)
    return _CHECKSUM in values or (type(version) is int and version != 1)


def recorded_files(folder: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of files of a folder, for the `files` of the JSON object beside them."""
    return {
        name: {"bytes": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)}
        for name in sorted(names)
    }


def require_as_written(path: Path, record: Mapping[str, Any] | None, remedy: str) -> None:
    """Raise InputError unless the file is as its record says; without a record only if it cannot be
    opened."""
    if path.exists():
        require_regular_file(path, "file", remedy)
    try:
        size = path.stat().st_size
        if record is None:
            with path.open("rb"):
                return
        right = size == record.get("bytes") and sha256_file(path) == record.get("sha256")
    except FileNotFoundError:
        raise InputError(f"{path} is missing; {remedy}") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(
            f"{path} cannot be read ({reason}); check the path and its permissions"
        ) from None
    if size != record.get("bytes"):
        raise InputError(f"{path} has {size:,} bytes, not as many as were written; {remedy}")
    if not right:
        raise InputError(
            f"{path} has changed since it was written (its checksum differs); {remedy}"
        )


def require_sizes(folder: Path, values: Mapping[str, Any], remedy: str) -> None:
    """Raise InputError unless every file that the JSON object beside them records is there with its
    size; of version 1 none is recorded."""
    files: object = values.get("files") if is_checked(values) else None
    for name in cast(dict[str, Any], files) if isinstance(files, dict) else ():
        path, record = folder / name, record_of(values, name) or {}
        if not path.is_file():
            raise InputError(f"{path} is missing; {remedy}")
        if (size := path.stat().st_size) != record.get("bytes"):
            raise InputError(f"{path} has {size:,} bytes, not as many as were written; {remedy}")


def record_of(values: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """What a JSON object of version 2 or higher records of a file; None if it is of version 1.

    The record of a file that is not listed is empty, which no file is like.
    """
    if not is_checked(values):
        return None
    files = values.get("files")
    record: object = cast(dict[str, Any], files).get(name) if isinstance(files, dict) else None
    return cast(dict[str, Any], record) if isinstance(record, dict) else {}


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS for all files of a folder, those of its subfolders aside."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    lines = [f"{sha256_file(path)}  {path.name}\n" for path in files]
    (folder / SUMS_FILE).write_text("".join(lines), encoding="utf-8")


def read_sums(path: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of each file in SHA256SUMS, which does not have the size: that of the file.

    Raises InputError if it is broken.
    """
    try:
        lines = [line.split("  ", 1) for line in path.read_text(encoding="utf-8").splitlines()]
        found = {Path(name).name: digest for digest, name in lines}
    except ValueError:
        raise InputError(f"{path} is broken; write the folder again") from None
    return {
        name: {"bytes": file.stat().st_size if file.is_file() else 0, "sha256": digest}
        for name, digest in found.items()
        for file in [path.parent / name]
    }


def checked_line(values: Mapping[str, Any]) -> str:
    """A line of JSON Lines, its end included, with the CRC-32 of the rest as `crc32`."""
    text = _line(values)
    return f"{_line({**values, _OF_A_LINE: _crc(text)})}\n"


def read_line(line: str) -> dict[str, Any]:
    """The values of a line without their checksum; a line without one is taken as it stands.

    Raises ValueError if it is not JSON, no object, or not what was written.
    """
    values: object = json.loads(line)
    if not isinstance(values, dict):
        raise ValueError("it is no JSON object")
    found = cast(dict[str, Any], values)
    recorded = found.pop(_OF_A_LINE, None)
    if recorded is not None and recorded != _crc(_line(found)):
        raise ValueError("its content is not that of its checksum")
    return found


def _digest(values: Mapping[str, Any]) -> str:
    # Through JSON once, so that what was written and what is read have keys and numbers alike.
    plain = json.loads(json.dumps(values))
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _line(values: Mapping[str, Any]) -> str:
    return json.dumps(values, allow_nan=False)


def _crc(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"
