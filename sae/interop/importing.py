"""Autoencoders of other libraries in a folder of this package, which every verb takes as a run."""

import hashlib
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ..autoencoder import SparseAutoencoder
from ..common.errors import InputError
from ..common.files import atomic_folder, write_json
from ..common.locks import hold
from ..common.paths import require_no_file_at
from ..fetching.fetch import cache_folder
from .hub import PATTERNS
from .layouts import Found, find, read_found
from .sources import resolved

RECORD = "import.json"
"""Beside the autoencoder: where it came from, and what its check found."""
SAE_FOLDER = "sae"


def write_import(
    sae: SparseAutoencoder, out: str | Path, record: Mapping[str, Any], *, force: bool = False
) -> None:
    """Write OUT/sae/ and OUT/import.json, which appear whole or not at all.

    Args:
        sae: what was read.
        out: a folder, not there yet or empty, or with an import and nothing else.
        record: what import.json says.
        force: whether another import there is replaced.

    Raises:
        InputError: the folder has other content, or another process is writing there.
    """
    out = Path(out)
    require_place(out)
    with hold(out), atomic_folder(out, replace=force) as folder:
        sae.save(folder / SAE_FOLDER)
        write_json(folder / RECORD, dict(record))
        require_place(out)


def require_place(out: Path) -> None:
    """Raise an InputError where no import may be written: at a file, below one, or at a folder with
    more than an import."""
    require_no_file_at(out)
    if out.exists() and not {item.name for item in out.iterdir()} <= {SAE_FOLDER, RECORD}:
        raise InputError(f"{out} holds more than an import; choose another --out")


def describe(found: Found, source: str) -> dict[str, Any]:
    """What import.json says of the source."""
    return {
        "source": resolved(source),
        "pinned": found.located.pinned,
        "layout": found.layout,
    }


def imported_run(source: str) -> Path:
    """The folder in this user's cache in which a source is kept as a run, for verbs that write
    beside an autoencoder: its feature index and picks. It is made the first time.

    Raises:
        InputError: there is no such source, or its files are damaged.
    """
    found = find(source)
    folder = cache_folder() / "imports" / _name_of(found)
    if not (folder / RECORD).is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_import(
            read_found(found), folder, {**describe(found, source), "check": None}, force=True
        )
    return folder


def _name_of(found: Found) -> str:
    """A name that says which source it is, however that is written, and is another one when its
    files are others."""
    path = found.located.path.resolve()
    if pinned := found.located.pinned:
        identity, called = pinned, pinned.partition("@")[0]
    else:
        files = [path] if path.is_file() else sorted(filter(_is_part, path.iterdir()))
        states = [(str(file.resolve()), file.stat()) for file in files]
        identity = [(name, state.st_size, state.st_mtime_ns) for name, state in states]
        called = str(path)
    digest = hashlib.sha256(repr(identity).encode()).hexdigest()[:12]
    readable = re.sub(r"[^\w.-]+", "-", called).strip("-.")[-60:]
    return f"{readable}-{digest}"


def _is_part(file: Path) -> bool:
    """Whether a file may be one of an autoencoder's, by its name."""
    return file.is_file() and any(fnmatchcase(file.name, pattern) for pattern in PATTERNS)
