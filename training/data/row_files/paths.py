"""The files that a path, a folder or a pattern stands for."""

import glob
import re
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from ....sae.common.errors import InputError
from ....sae.common.files import nearest
from ....sae.common.paths import files_within
from .formats import endings, file_format

_NO_TEXT = (
    "dataset_info.json",
    "dataset_infos.json",
    "dataset_dict.json",
    "state.json",
    "cache-*.arrow",
    "readme*",
    "licen[sc]e*",
    "copying*",
    "notice*",
)
"""Names, in small letters, of files in a folder of data that are about it and not of it."""

_SPLITS = {
    "train": ("train", "training"),
    "test": ("test", "testing", "eval", "evaluation"),
    "validation": ("validation", "valid", "val", "dev"),
}
"""Splits, and the words in names that stand for them."""

_NAMED = 3


class FoundFiles(NamedTuple):
    """What a name stands for."""

    files: list[Path]
    folder: Path | None
    """The folder, if it is one."""

    @property
    def names(self) -> tuple[str, ...]:
        """The files, in a folder by their paths in it."""
        return tuple(str(f.relative_to(self.folder) if self.folder else f) for f in self.files)


def find_files(
    name: str,
    *,
    what: str = "",
    split: str | None = None,
    say: Callable[[str], None] = lambda sentence: None,
) -> FoundFiles:
    """The files of a file, a folder or a pattern; none where there is nothing of that name.

    What exists is no pattern, whatever characters it has. Of a folder the files of other splits
    than `split`, if one is given, are left out, which is said; a file is of a split if a word of
    its path says so (test.jsonl, validation/part-0.parquet), else of train. Hidden files and those
    about the data (README, LICENSE, dataset_info.json and the like) are not read. `what` names the
    option, for an error.

    Raises:
        InputError: the folder has no file to read, or the name leads to another kind of file.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return FoundFiles(_in_folder(path, split, say), path)
    files = [path] if path.exists() else sorted(map(Path, glob.glob(str(path), recursive=True)))
    for file in files:
        if file_format(file) is None or not file.is_file():
            raise InputError(f"{what}{file} is not a file ending in {endings()}; give one of these")
    return FoundFiles(files, None)


def missing(name: str, what: str = "") -> InputError:
    """The error about a path that is not there; `what` names its option."""
    near = _did_you_mean(Path(name).expanduser())
    return InputError(f"{what}{name} is not there; {near}")


def _in_folder(folder: Path, split: str | None, say: Callable[[str], None]) -> list[Path]:
    found = sorted(item for item in files_within(folder, hidden=False) if _is_text(item))
    if not found:
        raise InputError(
            f"the folder {folder} has no file to read, none that ends in {endings()}; add some"
        )
    if split is None:
        return found
    splits = {item: _split_of(item.relative_to(folder)) for item in found}
    wanted = (split, None) if split == "train" else (split,)
    own = [item for item in found if splits[item] in wanted]
    if not own:
        there = ", ".join(sorted({name for name in splits.values() if name}))
        raise InputError(
            f"the folder {folder} has no file of the split {split!r} (it has {there or 'none'}); "
            "choose with --split, or give a file or a quoted pattern"
        )
    others = [str(item.relative_to(folder)) for item in found if splits[item] not in wanted]
    if others:
        more = f" and {len(others) - _NAMED:,} more" if len(others) > _NAMED else ""
        say(
            f"of {folder} {len(own):,} of {len(found):,} files are read; "
            f"{', '.join(others[:_NAMED])}{more}, of other splits, are not"
        )
    return own


def _is_text(item: Path) -> bool:
    """Whether a file in a folder is part of the data."""
    return (
        file_format(item) is not None
        and not any(fnmatch(item.name.lower(), pattern) for pattern in _NO_TEXT)
        and item.is_file()
    )


def _split_of(path: Path) -> str | None:
    """The split that a word of the path names; the last one counts."""
    words = re.findall(r"[a-z]+", str(path).lower())
    for word in reversed(words):
        for split, names in _SPLITS.items():
            if word in names:
                return split
    return None


def _did_you_mean(path: Path) -> str:
    """The remedy for a path that is not there."""
    parent = path.parent
    if not parent.is_dir():
        return f"there is no folder {parent} either; check the path"
    near = nearest(path.name, (item.name for item in parent.iterdir()))
    return f"did you mean {' or '.join(near)}?" if near else "check the path"
