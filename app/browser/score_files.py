"""The files of scored rows that the selection page can open, each by a number."""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from weakref import WeakKeyDictionary

from ...sae.common.errors import NotFound
from ...steering.loading import LoadedRun
from ...steering.selection.explaining import Explainer
from ...steering.selection.scored_file import ScoredFile
from .session import Session

_ENDING = ".scoring"
_PATTERNS = (f"*{_ENDING}", f"*/*{_ENDING}")
_KEPT = 4


class ScoreFiles:
    """The files named when the server began, and those in and beside the run's folder.

    A number stays that of its file while the server runs, so that a page never gives a path.
    """

    def __init__(self, session: Session) -> None:
        """Take what is open; files are looked for when they are asked for."""
        self._run, self._named = session.run.resolve(), session.config.scores
        self._paths: dict[Path, int] = {}
        self._opened: OrderedDict[Path, tuple[object, ScoredFile]] = OrderedDict()
        self._explainers: OrderedDict[Path, tuple[ScoredFile, Explainer]] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def of(cls, session: Session) -> "ScoreFiles":
        """Those of a session, the same ones each time."""
        with _LOCK:
            return _OF.setdefault(session, cls(session))

    def listed(self) -> dict[int, Path]:
        """The files that are there now, by their numbers."""
        with self._lock:
            for path in self._found():
                self._paths.setdefault(path, len(self._paths) + 1)
            return {number: path for path, number in self._paths.items() if path.exists()}

    def open(self, number: int) -> ScoredFile:
        """The file of a number, read again if it has changed.

        Raises:
            InputError: there is no such number, or the file cannot be read.
        """
        path = self.listed().get(number)
        if path is None:
            raise NotFound(f"there is no file of scores number {number}; choose one of the list")
        seen = _signature(path)
        with self._lock:
            if path in self._opened and self._opened[path][0] == seen:
                self._opened.move_to_end(path)
                return self._opened[path][1]
            scored = ScoredFile.open(path)
            self._opened[path] = (seen, scored)
            while len(self._opened) > _KEPT:
                self._opened.popitem(last=False)
            return scored

    def explainer(self, number: int, loaded: LoadedRun) -> Explainer:
        """What explains the file's rows with what `session.using_model()` gives.

        Raises:
            InputError: as `Explainer`.
        """
        scored = self.open(number)
        known = self._explainers.get(scored.path)
        if known is not None and known[0] is scored:
            return known[1]
        explainer = Explainer(scored, loaded)
        self._explainers[scored.path] = (scored, explainer)
        while len(self._explainers) > _KEPT:
            self._explainers.popitem(last=False)
        return explainer

    def _found(self) -> Iterator[Path]:
        for name in self._named:
            yield Path(name).resolve()
        for folder in (self._run, self._run.parent):
            for pattern in _PATTERNS:
                for record in sorted(folder.glob(pattern)):
                    scores = record.with_name(record.name.removesuffix(_ENDING))
                    if scores.is_file():
                        yield scores


def _signature(path: Path) -> object:
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino


_OF: WeakKeyDictionary[Session, ScoreFiles] = WeakKeyDictionary()
_LOCK = threading.Lock()
