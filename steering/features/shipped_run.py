"""A dictionary that comes with this package, as a run in this user's cache, which is written to."""

from pathlib import Path

from ...sae.common.checksums import read_checked_json, record_of, write_checked_json
from ...sae.common.files import atomic_folder
from ...sae.common.locks import hold
from ...sae.common.shipped import PACKED_INDEX, RECORD, SAE_FOLDER, shipped_folder
from ...sae.fetching.fetch import cache_folder
from .layout import FOLDER, MANIFEST
from .packing import unpack_index

_COPY = "install sparsteer again"
_REMOVE = "remove it, and it will be made again"
_UNPACKED = "unpacked.json"
"""In the run: which index was unpacked there."""


def shipped_run(name: str) -> Path:
    """The run of a dictionary by its name: its autoencoder and its unpacked feature index.

    The folder is `dictionaries/NAME-...` in this user's cache, made the first time. Picks, labels
    and whatever else is written into a run stay there, apart from those of another version of the
    dictionary, whose features are others. An index that was built there stays until an installation
    brings another one of the same autoencoder.

    Raises:
        InputError: this installation does not hold the dictionary, or it is damaged.
    """
    folder = shipped_folder(name)
    record = read_checked_json(folder / RECORD, "dictionary's record", remedy=_COPY)
    run = cache_folder() / "dictionaries" / f"{name}-{record['sae'][:12]}"
    index = dict(record_of(record, PACKED_INDEX) or {})
    if _is_whole(run, index):
        return run
    with hold(run, patience=-1.0):
        if not (run / SAE_FOLDER).exists():
            with atomic_folder(run / SAE_FOLDER) as temporary:
                for file in (folder / SAE_FOLDER).iterdir():
                    (temporary / file.name).write_bytes(file.read_bytes())
        if not _is_whole(run, index):
            unpack_index(folder / PACKED_INDEX, run / FOLDER)
            write_checked_json(run / _UNPACKED, {"name": name, "index": index})
    return run


def name_of_shipped(run: Path) -> str | None:
    """The name of the dictionary whose run this is; None for any other run."""
    if not (run / _UNPACKED).is_file():
        return None
    return read_checked_json(run / _UNPACKED, "record of a dictionary", remedy=_REMOVE)["name"]


def _is_whole(run: Path, index: dict[str, object]) -> bool:
    """Whether the run has its autoencoder and, by size and checksum of what was unpacked, this
    index or one that was built in its place."""
    there = (run / SAE_FOLDER).is_dir() and (run / FOLDER / MANIFEST).is_file()
    if not there or not (run / _UNPACKED).is_file():
        return False
    unpacked = read_checked_json(run / _UNPACKED, "record of a dictionary", remedy=_REMOVE)
    return unpacked.get("index") == index
