"""The SQLite database beside picks.json: what was picked last, every change, and saved searches.

The database is kept in write-ahead mode and every commit waits for the disk, so that a change that
was acknowledged survives a kill and a loss of power.
"""

import os
import sqlite3
import threading
from collections.abc import Generator
from contextlib import contextmanager
from errno import ENOSPC
from pathlib import Path

from ...sae.common.errors import InputError
from ...sae.common.locks import PATIENCE, AnotherWriter
from ...sae.common.paths import refuse_special_file

DATABASE = "picks.sqlite"

_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS picks (
    sae TEXT NOT NULL, feature INTEGER NOT NULL, place INTEGER NOT NULL, pick TEXT NOT NULL,
    PRIMARY KEY (sae, feature)
);
CREATE TABLE IF NOT EXISTS files (sae TEXT PRIMARY KEY, digest TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS steps (
    step INTEGER PRIMARY KEY AUTOINCREMENT, sae TEXT NOT NULL, at TEXT NOT NULL,
    author TEXT NOT NULL, undoes INTEGER
);
CREATE TABLE IF NOT EXISTS changes (
    step INTEGER NOT NULL, feature INTEGER NOT NULL, place INTEGER NOT NULL,
    before TEXT, after TEXT, PRIMARY KEY (step, feature)
);
CREATE INDEX IF NOT EXISTS undone ON steps (undoes);
CREATE TABLE IF NOT EXISTS searches (
    number INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, query TEXT NOT NULL,
    at TEXT NOT NULL
);
"""
"""A pick is the JSON of its fields; `before` and `after` are null where the feature is no pick."""


class PickDatabase:
    """One connection for all threads of a process, opened when it is first needed."""

    def __init__(self, path: Path, *, patience: float = PATIENCE) -> None:
        """Name the file, which is made with the first transaction.

        Args:
            path: the file.
            patience: seconds to wait for another process that writes.
        """
        self.path, self._patience = path, patience
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._process = 0

    @contextmanager
    def transaction(self) -> Generator[sqlite3.Connection]:
        """Hold the database alone; what is done is there at the end, or after an error not at all.

        Raises:
            InputError: the file is no such database or damaged; AnotherWriter if another process
                writes for longer than the patience.
            OSError: the disk is full or read-only.
        """
        with self._lock, self._told():
            connection = self._opened()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    @contextmanager
    def reading(self) -> Generator[sqlite3.Connection | None]:
        """The connection to read from; None while there is no database yet."""
        with self._lock, self._told():
            yield self._opened() if self.path.exists() else None

    def close(self) -> None:
        """End the connection; the next use opens another."""
        with self._lock:
            if self._connection is not None and self._process == os.getpid():
                self._connection.close()
            self._connection = None

    def _opened(self) -> sqlite3.Connection:
        if self._connection is not None and self._process == os.getpid():
            return self._connection
        refuse_special_file(self.path, "database of picks")
        connection = sqlite3.connect(
            self.path, timeout=self._patience, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > _VERSION:
                raise InputError(
                    f"{self.path} was written by a later sparsteer; use that one, or move the file "
                    "away: the picks are in picks.json, the history of changes is in it"
                )
            if version < _VERSION:
                connection.executescript(
                    f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version={_VERSION}; COMMIT;"
                )
        except BaseException:
            connection.close()
            raise
        # A forked child must not use its parent's; it is left alone there.
        self._connection, self._process = connection, os.getpid()
        return connection

    @contextmanager
    def _told(self) -> Generator[None]:
        """Errors of SQLite as those that the rest of the program knows."""
        try:
            yield
        except sqlite3.Error as error:
            code = error.sqlite_errorcode & 0xFF if hasattr(error, "sqlite_errorcode") else 0
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise AnotherWriter(
                    f"another process is writing {self.path}; give the same command again when it "
                    "has ended"
                ) from None
            if code == sqlite3.SQLITE_FULL:
                raise OSError(ENOSPC, "No space left on device", str(self.path)) from None
            if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
                raise InputError(
                    f"{self.path} cannot be written ({error}); change its permissions and those of "
                    "its folder"
                ) from None
            if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise InputError(
                    f"{self.path} is damaged ({error}); move it away: the picks are in picks.json, "
                    "only undo and saved searches begin anew"
                ) from None
            raise
