"""Results of the playground, each a file of the run with all that repeats it."""

import re
import secrets
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ...sae.common.checksums import read_checked_json, write_checked_json
from ...sae.common.errors import InputError, NotFound
from ...sae.common.wording import utc_now

FOLDER = "playground"
_FORMAT = "sparsteer-playground-result"
_VERSION = 2
_ID = re.compile("[0-9a-f]{16}")
_LISTED = 200
_REMEDY = "run it again and save it anew, or remove the file"
_LIBRARIES = ("sparsteer", "torch", "transformers")


class SavedResults:
    """The results in RUN/playground/, a file ID.json for each; an id is made here alone."""

    def __init__(self, run: Path) -> None:
        """Take the run's folder; nothing is made before the first result."""
        self.folder = run / FOLDER

    def save(self, values: dict[str, Any]) -> str:
        """Write a result with its time and the versions of what made it, and give its new id.

        The file appears whole, with its checksum. Raises InputError for NaN and infinite
        numbers, and OSError as the file system does.
        """
        id_ = secrets.token_hex(8)
        made = {
            "format": _FORMAT,
            "version": _VERSION,
            "id": id_,
            "created": utc_now(),
            "versions": {name: version(name) for name in _LIBRARIES},
        }
        try:
            write_checked_json(self.folder / f"{id_}.json", {**made, **values})
        except ValueError:
            raise InputError(
                "the result has NaN or an infinite number, which JSON does not have; leave it out"
            ) from None
        return id_

    def read(self, id_: str) -> dict[str, Any]:
        """The result of this id.

        Raises:
            InputError: there is none, or its file is not as it was written.
        """
        if not _ID.fullmatch(id_) or not (path := self.folder / f"{id_}.json").is_file():
            raise NotFound("there is no saved result of this id; choose one of the list")
        values = read_checked_json(path, "saved result", remedy=_REMEDY)
        if values.get("format") != _FORMAT or values.get("version") != _VERSION:
            raise InputError(f"{path} is no result that this sparsteer reads; {_REMEDY}")
        return values

    def listed(self) -> list[dict[str, Any]]:
        """Id, time, title and prompt of the newest 200, the newest first; of a damaged one its
        id and what is wrong."""
        paths = [path for path in self.folder.glob("*.json") if _ID.fullmatch(path.stem)]
        paths.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        found: list[dict[str, Any]] = []
        for path in paths[:_LISTED]:
            try:
                values = self.read(path.stem)
            except InputError as error:
                found.append({"id": path.stem, "problem": str(error)})
            else:
                found.append({name: values.get(name) for name in ("id", "created", "title")})
        return found
