"""Scores saved part by part, so that an interrupted run goes on where it stopped."""

import math
from pathlib import Path
from typing import Any

from ...sae.common.checksums import read_checked_json, write_checked_json
from ...sae.common.errors import InputError
from ...sae.common.files import remove_folder
from ...sae.common.locks import is_leftover, tidy
from .read_rows import RowScore
from .record import another

_MANIFEST = "manifest.json"


class Parts:
    """A folder of parts, the first rows in the first one; it is gone when the scores are written.

    A part is a small JSON file of scores, not of codes, so that the folder stays far smaller than
    the rows.
    """

    def __init__(self, folder: Path, *, force: bool = False) -> None:
        """Look at what is in the folder; only for who holds the scores' file.

        With `force`, parts of another identity do no harm: `begin` removes them. Raises InputError
        if the folder is something else.
        """
        self.folder = folder
        self._force = force
        self._n_parts = 0
        if (
            folder.exists()
            and not self._manifest.exists()
            and not all(map(is_leftover, folder.iterdir()))
        ):
            raise InputError(f"{folder} is not of a scoring; give another --out or move it")

    def require_same(self, identity: dict[str, Any]) -> None:
        """Raise InputError, naming what differs, if parts of another identity are there and will
        not be removed. A part of the identity may be given."""
        if self._force or not self._manifest.exists():
            return
        found = self._found()
        for name, value in identity.items():
            if found.get(name) != value:
                raise InputError(
                    f"{self.folder} holds scores of an interrupted run with {another(name)}; give "
                    "another --out, or --force to score anew"
                )

    def begin(self, identity: dict[str, Any]) -> None:
        """Make the folder, or go on with that of a run of the same identity."""
        if self._manifest.exists():
            if (found := self._found()) == identity:
                tidy(self.folder)
                return
            self.require_same(dict.fromkeys(found) | identity)
            self.remove()
        tidy(self.folder)
        write_checked_json(self._manifest, identity)

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
    def _manifest(self) -> Path:
        return self.folder / _MANIFEST

    def _found(self) -> dict[str, Any]:
        """The identity of the parts that are there."""
        found = self._read(self._manifest, "manifest of scored parts")
        found.pop("version", None)
        return found

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
        (score is None or (type(score) is float and math.isfinite(score)))
        and type(status) is str
        and (tokens is None or (type(tokens) is int and tokens >= 0))
    )
    if not possible:
        raise ValueError("no score of a row")
    return RowScore(score, status, tokens)
