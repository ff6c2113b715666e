"""Results of the benchmark on disk, seed by seed; imports no torch."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ....sae.common.errors import InputError
from ....sae.common.files import json_text, read_json, write_json
from ....sae.common.locks import hold


class SavedSeeds:
    """A file of results, in which what was measured of the same settings is found again."""

    def __init__(self, path: Path | None, common: dict[str, Any]) -> None:
        """Take the file, None for none, and what must be equal in it."""
        self._path = path
        self._common = common

    @contextmanager
    def held(self) -> Generator[None]:
        """Within, no other process writes the file; its folder is made if missing.

        Raises AnotherWriter if one does, and OSError if nothing can be written there.
        """
        if self._path is None:
            yield
            return
        with hold(self._path):
            yield

    def seeds(self, most: int) -> list[dict[str, float | int]]:
        """The measures of the first seeds, at most so many, that the file has.

        Raises:
            InputError: it is no such file, or of other settings.
        """
        if self._path is None or not self._path.exists():
            return []
        found = read_json(self._path, "file of results", remedy="delete it, or name another --out")
        common: dict[str, Any] = json.loads(json_text(self._common))
        for name, value in common.items():
            if found.get(name) != value:
                raise InputError(
                    f"out is {self._path}, which has results of another {name} than is asked for; "
                    "name another file, or delete it",
                    field="out",
                )
        return list(found["seeds"])[:most]

    def write(self, results: dict[str, Any]) -> None:
        """Replace the file by these results."""
        if self._path is not None:
            write_json(self._path, results)
