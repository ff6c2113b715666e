"""Scores saved part by part, so that an interrupted run goes on where it stopped."""

from pathlib import Path
from typing import Any

from ...sae.checksums import read_checked_json, write_checked_json
from ...sae.errors import InputError
from ...sae.files import remove_folder
from ...sae.locks import is_leftover, tidy
from .scores import RowScore

_MANIFEST = "manifest.json"


class Parts:
    """A folder of parts, the first rows in the first one; it is gone when the scores are written.

    A part is a small JSON file of scores, not of codes, so that the folder stays far smaller than
    the rows.
    """

    def __init__(self, folder: Path, identity: dict[str, Any], *, force: bool = False) -> None:
        """Make the folder, or find the one that a run of the same identity left.

        Only for who holds the scores' file. Raises InputError if the folder is of another identity,
        naming what differs, unless `force` says to begin anew then; or if it is something else.
        """
        self.folder = folder
        self._n_parts = 0
        if not (folder / _MANIFEST).exists():
            if folder.exists() and not all(map(is_leftover, folder.iterdir())):
                raise InputError(f"{folder} is not of a scoring; give another --out or move it")
            tidy(folder)
            write_checked_json(folder / _MANIFEST, identity)
        tidy(folder)
        found = self._read(folder / _MANIFEST, "manifest of scored parts")
        found.pop("version", None)
        for name in identity | found:
            if found.get(name) != identity.get(name):
                if force:
                    self.remove()
                    write_checked_json(folder / _MANIFEST, identity)
                    return
                raise InputError(
                    f"{folder} holds scores of an interrupted run with another {name}; give "
                    "another --out, or --force to score anew"
                )

    def read(self) -> list[RowScore]:
        """The scores saved before, in the order of the rows."""
        found: list[RowScore] = []
        while (path := self._path(self._n_parts)).exists():
            part = self._read(path, "scored part")
            try:
                found += [_row(*row) for row in part["rows"]]
            except (KeyError, TypeError, ValueError):
                raise InputError(f"{path} is damaged; {self._remedy}") from None
            self._n_parts += 1
        return found

    def append(self, rows: list[RowScore]) -> None:
        """Save the next rows' scores."""
        write_checked_json(self._path(self._n_parts), {"rows": rows})
        self._n_parts += 1

    def remove(self) -> None:
        """Remove the folder."""
        remove_folder(self.folder)

    def remove_if_empty(self) -> None:
        """Remove the folder if no part was saved in it."""
        if self.folder.is_dir() and not self._path(0).exists():
            self.remove()

    @property
    def _remedy(self) -> str:
        return f"remove {self.folder} to score anew"

    def _read(self, path: Path, what: str) -> dict[str, Any]:
        return read_checked_json(path, what, remedy=self._remedy)

    def _path(self, number: int) -> Path:
        return self.folder / f"part-{number:06}.json"


def _row(score: Any, status: Any, tokens: Any) -> RowScore:
    """A saved score; ValueError if it cannot be one."""
    possible = (
        (score is None or (type(score) is float and 0 <= score <= 1))
        and type(status) is str
        and (tokens is None or (type(tokens) is int and tokens >= 0))
    )
    if not possible:
        raise ValueError("no score of a row")
    return RowScore(score, status, tokens)
