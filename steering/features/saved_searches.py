"""Searches that a person saved, kept in the database of the picks."""

import json
import sqlite3
from dataclasses import asdict, dataclass
from typing import Any

from ...sae.common.errors import InputError
from ...sae.common.validation import require_given, require_text
from ...sae.common.wording import utc_now
from .pick_database import PickDatabase

_LONGEST_NAME = 200
_LONGEST_QUERY = 200_000
_MOST_SEARCHES = 1000


@dataclass(frozen=True)
class SavedSearch:
    """A search under a name."""

    number: int
    name: str
    query: dict[str, Any]
    """What was searched for: `kind` (text, token, logit, label, near or contrast) and its
    settings."""
    at: str
    """When it was saved, in UTC: 2026-01-31T12:00:00Z."""

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return asdict(self)


class SavedSearches:
    """The saved searches of a run."""

    def __init__(self, database: PickDatabase) -> None:
        """Keep them in a database, which is made with the first one."""
        self._database = database

    def all(self) -> list[SavedSearch]:
        """All, by name."""
        with self._database.reading() as connection:
            if connection is None:
                return []
            rows = connection.execute(
                "SELECT number, name, query, at FROM searches ORDER BY name"
            ).fetchall()
        return [_read(row) for row in rows]

    def save(self, name: str, query: dict[str, Any]) -> SavedSearch:
        """Save a search, in the place of one of the same name.

        Raises:
            InputError: the name is empty or long, the query is large or has NaN, or there are
                too many.
        """
        require_given("name", name)
        require_text("name", name)
        if len(name) > _LONGEST_NAME:
            raise InputError(
                f"name has {len(name)} characters, but at most {_LONGEST_NAME} are kept; shorten it"
            )
        try:
            text = json.dumps(query, allow_nan=False)
        except ValueError:
            raise InputError("query has NaN or an infinite number; leave it out") from None
        if len(text) > _LONGEST_QUERY:
            raise InputError("this search is too large to be saved; give fewer or shorter texts")
        at = utc_now()
        with self._database.transaction() as connection:
            _require_room(connection, name)
            connection.execute(
                "INSERT INTO searches (name, query, at) VALUES (?, ?, ?) "
                "ON CONFLICT (name) DO UPDATE SET query = excluded.query, at = excluded.at",
                (name, text, at),
            )
            row = connection.execute(
                "SELECT number, name, query, at FROM searches WHERE name = ?", (name,)
            ).fetchone()
        return _read(row)

    def delete(self, number: int) -> None:
        """Delete one by its number.

        Raises InputError if there is none.
        """
        if not 0 <= number < 2**63:  # more than the database counts
            raise InputError(f"there is no saved search {number}; choose one of the list")
        with self._database.transaction() as connection:
            found = connection.execute("DELETE FROM searches WHERE number = ?", (number,))
            if not found.rowcount:
                raise InputError(f"there is no saved search {number}; it may be deleted already")


def _require_room(connection: sqlite3.Connection, name: str) -> None:
    others = connection.execute("SELECT count(*) FROM searches WHERE name != ?", (name,))
    if others.fetchone()[0] >= _MOST_SEARCHES:
        raise InputError(f"{_MOST_SEARCHES} searches are saved already; delete one first")


def _read(row: tuple[int, str, str, str]) -> SavedSearch:
    number, name, query, at = row
    return SavedSearch(number, name, json.loads(query), at)
