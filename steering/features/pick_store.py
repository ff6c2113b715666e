"""The picks of a run: changed by several at once without loss, with a history that can be undone.

`RUN/picks.json` holds the picks. It is written atomically with each change, and an edit of it by
hand, an older file or its removal is taken for a change like any other. `RUN/picks.sqlite` beside
it holds the history. A change writes the file and then commits, both while no other process may
write; killed in between, the file is ahead, and is taken in as an edit.
"""

import dataclasses
import errno
import functools
import hashlib
import sqlite3
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ...sae.common.errors import InputError, NotFound
from ...sae.common.locks import PATIENCE, hold
from .pick_database import DATABASE, PickDatabase
from .pick_history import CannotUndo, Step, undone
from .pick_journal import (
    adopt,
    known_picks,
    last_step,
    latest_steps,
    record,
    record_file,
    recorded_file,
)
from .picks import FILE, Pick, Picks
from .run_folder import run_path
from .saved_searches import SavedSearches

COMMAND = "command"
_BY_HAND = "file"
_CHANGEABLE = {field.name for field in dataclasses.fields(Pick)} - {"feature"}
_REMEDY = "give the same command again when it has ended"


class PickStore:
    """The picks of one run, for any number of threads and processes.

    Attributes:
        run: the run folder.  sae: fingerprint of its autoencoder.  n_latents: how many features it
            has.  searches: the searches that a person saved.
    """

    def __init__(
        self,
        run: str | Path,
        *,
        sae: str | None = None,
        n_latents: int | None = None,
        patience: float = PATIENCE,
    ) -> None:
        """Open the picks of a run; nothing is written before the first change.

        Args:
            run: the run folder, or the name of a dictionary that comes with this package.
            sae, n_latents: fingerprint (`sae_fingerprint`) and number of latents of its
                autoencoder; by default that is loaded and asked.
            patience: seconds to wait for another process that writes.

        Raises:
            InputError: there is no run, or its picks.json is damaged or of another autoencoder.
        """
        self.run = run_path(run)
        if sae is None or n_latents is None:
            sae, n_latents = _autoencoder_of(self.run)
        self.sae, self.n_latents = sae, n_latents
        self._patience = patience
        self._one_writer = threading.Lock()
        self._database = PickDatabase(self.run / DATABASE, patience=patience)
        self.searches = SavedSearches(self._database)
        self._read: tuple[tuple[int, ...] | None, Picks, str] | None = None
        self.picks()

    def __enter__(self) -> "PickStore":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the database; the next change opens it again."""
        self._database.close()

    def picks(self) -> Picks:
        """The picks as they are now, those of a file that was just edited by hand included.

        Raises:
            InputError: picks.json is damaged or of another autoencoder.
        """
        return self._content()[0]

    @property
    def revision(self) -> str:
        """A text that is another one after every change, whoever made it."""
        return self._content()[1][:16]

    def get(self, feature: int) -> Pick | None:
        """The pick of a feature; None if it is not picked."""
        return self.picks().get(feature)

    def change(
        self, features: int | Iterable[int], *, author: str = COMMAND, **given: Any
    ) -> Step | None:
        """Pick features, or change what is given of those that are picked and keep the rest.

        Args:
            features: the number of one, or of several.
            author: who does it, for the history.
            given: fields of `Pick` but for `feature`. A label is a person's unless `label_source`
                says otherwise; a machine's label does not replace that of a person.

        Returns:
            The step of the history; None if everything was so before.

        Raises:
            InputError: there is no such feature or field, or a value is wrong; then nothing has
                changed.
        """
        numbers = [features] if isinstance(features, int) else list(dict.fromkeys(features))
        if "label" in given:
            given = {"label_source": "person", **given}
        if unknown := given.keys() - _CHANGEABLE:
            raise InputError(
                f"there is no {sorted(unknown)[0]!r} of a pick to change; there are "
                f"{', '.join(sorted(_CHANGEABLE))}"
            )

        def changed(picks: Picks) -> Picks:
            for number in numbers:
                self.require_feature(number)
                old = picks.get(number) or Pick(feature=number)
                _require_weaker_label(old, given)
                picks = picks.add(dataclasses.replace(old, **given))
            return picks

        return self._change(changed, author)

    def remove(self, features: int | Iterable[int], *, author: str = COMMAND) -> Step | None:
        """Take features out of the picks.

        Raises:
            InputError: one is not picked; then nothing has changed.
        """

        def changed(picks: Picks) -> Picks:
            for number in [features] if isinstance(features, int) else dict.fromkeys(features):
                picks = picks.remove(number)
            return picks

        return self._change(changed, author)

    def replace(self, picks: Picks, *, author: str = COMMAND, merge: bool = False) -> Step | None:
        """Put others in the place of all picks, in one step that can be undone.

        Args:
            picks: the others.
            author: who does it.
            merge: keep those that the others do not have.

        Raises:
            InputError: they are of another autoencoder, or name a feature that it does not have.
        """
        if picks.sae != self.sae:
            raise InputError("these picks are of another autoencoder, whose features differ")
        for pick in picks.picks:
            self.require_feature(pick.feature)

        def changed(old: Picks) -> Picks:
            return functools.reduce(Picks.add, picks.picks, old) if merge else picks

        return self._change(changed, author)

    def undo(self, *, author: str | None = None, by: str = COMMAND) -> Step:
        """Undo the last change that is not undone; what others have changed since is kept.

        Args:
            author: whose last change; by default anybody's.
            by: who undoes it, for the history.

        Returns:
            The new step, whose `undoes` is the number of the one undone.

        Raises:
            CannotUndo: there is none, or others have changed the same fields since.
        """
        with self._writing() as connection:
            step = last_step(connection, self.sae, author)
            if step is None:
                whose = f" by {author}" if author else ""
                raise CannotUndo(f"there is no change of the picks{whose} left to undo")
            before = picks = self.picks()
            for change in step.changes:
                pick = undone(change, picks.get(change.feature))
                picks = picks.put(change.feature, pick, change.place)
            return self._save(connection, before, picks, by, undoes=step.step)

    def history(self, limit: int = 50) -> list[Step]:
        """The last changes, the latest first."""
        with self._database.reading() as connection:
            return [] if connection is None else latest_steps(connection, self.sae, limit)

    def progress(self) -> dict[str, int]:
        """How many features are picked, reviewed (starred, judged or labeled by a person), starred,
        kept, rejected and labeled, and how many there are in all."""
        picks = self.picks().picks
        return {
            "features": self.n_latents,
            "picked": len(picks),
            "reviewed": sum(pick.reviewed for pick in picks),
            "starred": sum(pick.starred for pick in picks),
            "kept": sum(pick.verdict == "keep" for pick in picks),
            "rejected": sum(pick.verdict == "reject" for pick in picks),
            "labeled": sum(bool(pick.label) for pick in picks),
        }

    def require_feature(self, number: int) -> None:
        """Raise an InputError unless the autoencoder has a feature of that number."""
        if not 0 <= number < self.n_latents:
            raise NotFound(
                f"there is no feature {number}; this autoencoder has features 0 to "
                f"{self.n_latents - 1}"
            )

    def _change(self, changed: Callable[[Picks], Picks], author: str) -> Step | None:
        with self._writing() as connection:
            before = self.picks()
            after = changed(before)
            return None if after == before else self._save(connection, before, after, author)

    def _save(
        self,
        connection: sqlite3.Connection,
        before: Picks,
        after: Picks,
        author: str,
        undoes: int | None = None,
    ) -> Step:
        step = record(connection, before, after, author, undoes)
        after.save(self.run)
        record_file(connection, self.sae, _digest(self.run / FILE))
        return step

    @contextmanager
    def _writing(self) -> Generator[sqlite3.Connection]:
        """Keep all others from writing; file and database change together or not at all."""
        path = self.run / FILE
        with self._one_writer, hold(path, patience=self._patience, remedy=_REMEDY):
            before = self.picks()
            try:
                with self._database.transaction() as connection:
                    self._take_in(connection)
                    yield connection
            except BaseException:
                with suppress(OSError, InputError):  # else it is taken in as an edit
                    if self.picks() != before:
                        before.save(self.run)
                raise

    def _take_in(self, connection: sqlite3.Connection) -> None:
        """Record what has been done to the file since it was last written here."""
        now, digest = self._content()
        recorded = recorded_file(connection, self.sae)
        if recorded is None:
            adopt(connection, now)
        elif recorded != digest:
            record(connection, known_picks(connection, self.sae), now, _BY_HAND)
        if recorded != digest:
            record_file(connection, self.sae, digest)

    def _content(self) -> tuple[Picks, str]:
        """The picks in the file, and the digest of its content."""
        path = self.run / FILE
        # Taken before the content: what is written in between is read again the next time.
        seen = _signature(path)
        if self._read is None or self._read[0] != seen:
            if seen is not None:
                self._read = (seen, Picks.load(self.run, sae=self.sae), _digest(path))
            elif path.is_symlink():
                raise InputError(f"{path} is a symbolic link to nothing; mend it, or remove it")
            else:
                self._read = (seen, Picks(self.sae), "")
        return self._read[1:]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _signature(path: Path) -> tuple[int, ...] | None:
    """What differs between one content of a file and the next; None if there is no file."""
    try:
        status = path.stat()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):
            return None
        raise
    return (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _require_weaker_label(old: Pick, given: dict[str, Any]) -> None:
    """Raise an InputError if a machine's label would replace that of a person."""
    if old.label and old.label_source == "person" and given.get("label_source") == "machine":
        raise InputError(
            f"feature {old.feature} has a label that a person wrote, which no machine's replaces"
        )


def _autoencoder_of(run: Path) -> tuple[str, int]:
    """Fingerprint and number of latents."""
    from ...sae.autoencoder import SparseAutoencoder
    from ...sae.fingerprint import sae_fingerprint

    sae = SparseAutoencoder.load(run / "sae")
    return sae_fingerprint(sae), sae.config.n_latents
