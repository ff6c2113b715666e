"""Whether files are as they were written: in any folder that sparsteer writes, down to the last.

What has checksums says so itself: JSON objects of version 2, which may vouch for files beside them
(the record `OUT.scoring` of a scoring is one),
the manifest of an activation cache, a run's config.yaml, JSON Lines of which each has a checksum,
the record of what was fetched, and SHA256SUMS.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ..sae.common.checksums import (
    SUMS_FILE,
    checked_line,
    is_checked,
    read_checked_json,
    read_line,
    read_sums,
    require_as_written,
    with_checksum,
)
from ..sae.common.errors import InputError
from ..sae.common.files import json_text
from ..sae.common.locks import is_leftover
from ..sae.common.paths import files_within, require_regular_file
from ..sae.common.shipped import is_shipped, shipped_folder
from ..sae.fetching.fetch import RECORD, fetched_files
from .data.cache.manifest import FORMAT, CacheManifest, ShardEntry, read_manifest
from .data.cache.reader import shard_problem
from .data.stream.chunk_index import CHUNK_INDEX
from .run import METRICS, SETTINGS, checked_yaml, is_cut_short, read_checked_yaml

State = Literal["whole", "damaged", "unchecked"]

_JSON = (".json", ".scoring")
"""Endings of the JSON objects that sparsteer writes."""

_BESIDE = {
    "config.json": ("sae.safetensors",),
    "manifest.json": ("shard-*.safetensors", "statistics.parquet", "part-*.json"),
    "config.yaml": ("sae/sae.safetensors", "checkpoints", "metrics.jsonl"),
    "dictionary.json": ("features.zip", "sae/sae.safetensors"),
    "environment.json": ("config.yaml", "sae/sae.safetensors", "checkpoints"),
    "tracking.json": ("config.yaml", "sae/sae.safetensors", "checkpoints"),
    "picks.json": ("sae/sae.safetensors", "stages"),
    "progress.json": ("trainer.safetensors",),
    "part-*.json": ("manifest.json",),
    "stages/*.json": ("fetch.json",),
    "fetched.json": ("*",),
    "*.scoring": ("*",),
}
"""Names of what sparsteer writes, and files of which one at least stands beside it: by these it is
known where its content no longer tells it."""

_PASSED_OVER = ("picks.sqlite", "picks.sqlite-wal", "picks.sqlite-shm")
"""The history of the picks, which SQLite changes in place; the picks themselves are in picks.json,
which has a checksum."""

_OWN_KEYS = {b"out", b"site", b"activation", b"trainer"}
"""Of a run's config.yaml, in its first half."""

_DIGITS = 64
"""Of a SHA-256 in hexadecimal."""

_REMEDY = "restore it, or make it again"
_Check = Callable[[], State]


@dataclass(frozen=True)
class Found:
    """What became of one file."""

    path: Path
    state: State
    """Whole, every byte is as it was written; damaged; or unchecked, it has no checksum."""
    problem: str = ""
    """A sentence on a damaged file."""


def verify(
    path: str | Path, *, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[Found]:
    """Compare a file, or every file in a folder and in those within, with its checksum.

    Args:
        path: anything that sparsteer wrote, a folder of such things, or the name of a dictionary
            that comes with it.
        progress: told bytes read and bytes in all.

    Returns:
        An entry for each file that is there or should be, by name; locks, the history of picks and
        what a killed process left half-written are passed over.

    Raises:
        InputError: there is nothing at the path, or a folder of more files than can be meant.
    """
    path = shipped_folder(str(path)) if is_shipped(path) else Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist; give a folder or a file that sparsteer wrote")
    folder = path if path.is_dir() else path.parent
    there = [
        item
        for item in sorted(files_within(path) if path.is_dir() else folder.iterdir())
        if item.is_file()
        and item.name not in _PASSED_OVER
        and not any(is_leftover(Path(p)) for p in item.relative_to(folder).parts)
    ]
    # What a file beside it vouches for is not asked itself.
    checks = {item: _own_check(item) for item in there}
    for record in there:
        checks |= dict(_vouched(record))
    if not path.is_dir():
        checks = {path: checks.get(path, lambda: "unchecked")}  # a lock is passed over
    sizes = {item: item.stat().st_size for item in checks if item.is_file()}
    total, done = sum(sizes.values()), 0
    found: list[Found] = []
    for item, check in sorted(checks.items()):
        try:
            found.append(Found(item, check()))
        except InputError as error:
            found.append(Found(item, "damaged", str(error)))
        done += sizes.get(item, 0)
        progress(done, total)
    return found


def _own_check(path: Path) -> _Check:
    """How a file is checked by itself."""
    if path.name == SETTINGS:
        return lambda: _settings(path)
    if path.name == SUMS_FILE:
        return lambda: "whole" if read_sums(path) else "damaged"
    if path.name in (METRICS, CHUNK_INDEX):
        return lambda: _lines(path)
    if path.suffix in _JSON:
        return lambda: _json(path)
    return lambda: "unchecked"


def _vouched(record: Path) -> Iterator[tuple[Path, _Check]]:
    """How files are checked that a file vouches for; none where it is damaged, which it tells
    itself."""
    folder = record.parent
    try:
        if record.name == SUMS_FILE:
            yield from _recorded(folder, read_sums(record))
        elif record.name == RECORD:
            yield from _recorded(folder, fetched_files(folder))
        elif record.suffix in _JSON:
            values = read_checked_json(record, "file")
            if values.get("format") == FORMAT:
                yield from _shards(folder)
            elif is_checked(values):
                yield from _recorded(folder, values.get("files", {}))
    except (InputError, KeyError, TypeError, AttributeError):
        return


def _recorded(
    folder: Path, files: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[Path, _Check]]:
    for name, record in files.items():
        yield folder / name, partial(_file, folder / name, record)


def _shards(folder: Path) -> Iterator[tuple[Path, _Check]]:
    manifest = read_manifest(folder)
    for entry in manifest.shards:
        yield folder / entry.file, partial(_shard, folder, manifest, entry)


def _file(path: Path, record: Mapping[str, Any]) -> State:
    require_as_written(path, record, _REMEDY)
    return "whole"


def _shard(folder: Path, manifest: CacheManifest, entry: ShardEntry) -> State:
    if problem := shard_problem(folder, manifest, entry):
        raise InputError(problem)
    return "whole"


def _json(path: Path) -> State:
    require_regular_file(path, "file", _REMEDY)
    if _is_rows(path) or not _is_own_json(path):
        return "unchecked"
    values = read_checked_json(path, "file", remedy=_REMEDY)
    if values.get("format") == FORMAT:
        read_manifest(path.parent)  # an old one, too, must not contradict itself
    if not is_checked(values):
        return "unchecked"
    return _state_of_text(path, json_text(with_checksum(values)))


def _is_rows(path: Path) -> bool:
    """Whether it is a JSON array or JSON Lines, which users have and `select` writes."""
    try:
        text = path.read_bytes()
        first, _, others = text.partition(b"\n")
        if not text.startswith(b"["):
            text = first if others.strip() else b""
        return isinstance(json.loads(text), list | dict)
    except (OSError, ValueError, RecursionError):
        return False


def _is_own_json(path: Path) -> bool:
    """Whether sparsteer wrote a JSON object, as far as one can tell where its checksum, its format
    or its end is gone."""
    if _is_beside_ours(path):
        return True
    text = path.read_bytes()
    try:
        values: dict[str, Any] = dict(json.loads(text))
    except (ValueError, TypeError, RecursionError):
        return b'"format": "sparsteer' in text or b'\n  "sha256": ' in text
    if str(values.get("format")).startswith("sparsteer"):
        return True
    return isinstance(values.get("version"), int) and len(str(values.get("sha256"))) == _DIGITS


def _is_beside_ours(path: Path) -> bool:
    return any(
        path.match(name) and any(any(path.parent.glob(each)) for each in beside)
        for name, beside in _BESIDE.items()
    )


def _settings(path: Path) -> State:
    require_regular_file(path, "file", _REMEDY)
    if not _is_own_yaml(path):
        return "unchecked"
    values = read_checked_yaml(path)
    if is_checked(values):
        return _state_of_text(path, checked_yaml(values))
    if not {key.decode() for key in _OWN_KEYS} <= values.keys():
        raise InputError(f"{path} lacks settings that every run has; {_REMEDY}")
    return "unchecked"


def _is_own_yaml(path: Path) -> bool:
    """Whether a config.yaml is of a run."""
    lines = (line.partition(b":") for line in path.read_bytes().splitlines())
    values = {key: value.strip() for key, _, value in lines}
    if b"version" in values and len(values.get(b"sha256", b"")) == _DIGITS:
        return True
    return values.keys() >= _OWN_KEYS or _is_beside_ours(path)


def _state_of_text(path: Path, written: str) -> State:
    """Whole if the file is this very text: 1E-05 means what 1e-05 does, but was not written."""
    if path.read_bytes() != written.encode():
        raise InputError(f"{path} has changed since it was written, if not in meaning; {_REMEDY}")
    return "whole"


def _lines(path: Path) -> State:
    """JSON Lines, the last of which a kill may have cut short."""
    content = path.read_bytes()
    if b'"crc32"' not in content:
        if b"\n" not in content.strip(b"\0") and (path.parent / "sae").exists():
            raise InputError(f"{path} holds no whole line, though its run is complete; {_REMEDY}")
        return "unchecked"
    lines = content.splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        try:
            text = line.decode("utf-8")
            if number == len(lines) and is_cut_short(text):
                break
            if checked_line(read_line(text)) != text:
                raise ValueError("it is written otherwise")
        except ValueError as error:
            raise InputError(
                f"line {number} of {path} is not as it was written ({error}); {_REMEDY}"
            ) from None
    return "whole"
