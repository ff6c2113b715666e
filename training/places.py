"""Where the windows of a stream begin, kept in a file so that a run that goes on need not count."""

import json
from pathlib import Path
from typing import NamedTuple

from ..sae.files import atomic_file


class Place(NamedTuple):
    """Where a window begins."""

    row: int
    """Training rows of the stream before it."""
    epoch: int
    document: int
    """Documents of the epoch before it."""


class Places:
    """The places that are known for one seed; what is in the file was found with the same data.

    Args:
        path: JSON Lines, made with the first place; a line cut short by a kill is removed.
    """

    def __init__(self, path: Path, seed: int) -> None:
        self._path = path
        self._seed = seed
        self._known: list[Place] = []
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        kept = text[: text.rfind("\n") + 1]
        if kept != text:
            with atomic_file(path) as temporary:
                temporary.write_text(kept, encoding="utf-8")
        for line in map(json.loads, kept.splitlines()):
            if line["seed"] == seed:
                self._known.append(Place(line["row"], line["epoch"], line["document"]))

    def last_before(self, row: int) -> Place:
        """The last place at or before the row that is known."""
        return max((place for place in self._known if place.row <= row), default=Place(0, 0, 0))

    def add(self, place: Place) -> None:
        """Keep one that is further on than all others; an earlier one is known or of no use."""
        if self._known and place <= self._known[-1]:
            return
        self._known.append(place)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"seed": self._seed, **place._asdict()}) + "\n")
