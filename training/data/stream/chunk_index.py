"""Where the chunks of a stream begin, kept in a file so that a run that goes on need not count."""

from pathlib import Path
from typing import NamedTuple

from ....sae.common.checksums import checked_line, read_line
from ....sae.common.files import atomic_file
from ....sae.common.paths import refuse_special_file

CHUNK_INDEX = "stream.jsonl"
"""File of a run folder that says where chunks began."""


class ChunkStart(NamedTuple):
    """Where a chunk begins."""

    row: int
    """Training rows of the stream before it."""
    epoch: int
    document: int
    """Documents of the epoch before it."""
    token: int = 0
    """Tokens of the next document before it."""


class ChunkIndex:
    """The known chunk starts of one seed; those in the file were found with the same data.

    Args:
        path: JSON Lines, a chunk start each. The first line that is not as it was written, such as
            one cut short by a kill, is removed with all behind it.
    """

    def __init__(self, path: Path, seed: int) -> None:
        self._path = path
        self._seed = seed
        refuse_special_file(path, "record of the stream")
        self._known: list[ChunkStart] = []
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        kept = ""
        for line in text.splitlines(keepends=True):
            try:
                values = read_line(line)
                if values.keys() != {"seed", *ChunkStart._fields} or checked_line(values) != line:
                    break
                of_this = values.pop("seed") == seed
                start = ChunkStart(**values)
            except ValueError:
                break
            if not line.endswith("\n"):
                break
            kept += line
            if of_this:
                self._known.append(start)
        if kept != text:
            with atomic_file(path) as temporary:
                temporary.write_text(kept, encoding="utf-8")

    def last_before(self, row: int) -> ChunkStart:
        """The last known start at or before the row."""
        return max(
            (start for start in self._known if start.row <= row), default=ChunkStart(0, 0, 0)
        )

    def add(self, start: ChunkStart) -> None:
        """Keep a start that is further on than all others; an earlier one is known or of no use."""
        if self._known and start <= self._known[-1]:
            return
        self._known.append(start)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(checked_line({"seed": self._seed, **start._asdict()}))
