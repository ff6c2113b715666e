"""The tables of the picks: what is picked as far as the database knows, and the steps to it.

All functions take the connection of a transaction, and the picks of one autoencoder.
"""

import sqlite3

from ...sae.common.wording import utc_now
from .pick_history import Change, Step, from_text, to_text
from .picks import Pick, Picks


def known_picks(connection: sqlite3.Connection, sae: str) -> Picks:
    """The picks as they were last recorded."""
    rows = connection.execute(
        "SELECT pick FROM picks WHERE sae = ? ORDER BY place, feature", (sae,)
    ).fetchall()
    return Picks(sae, tuple(pick for (text,) in rows if (pick := from_text(text)) is not None))


def recorded_file(connection: sqlite3.Connection, sae: str) -> str | None:
    """The digest of picks.json as it was last written or taken in, empty for no file; None if there
    never was one."""
    row = connection.execute("SELECT digest FROM files WHERE sae = ?", (sae,)).fetchone()
    return None if row is None else row[0]


def record_file(connection: sqlite3.Connection, sae: str, digest: str) -> None:
    """Record what `recorded_file` gives from now on."""
    connection.execute("INSERT OR REPLACE INTO files (sae, digest) VALUES (?, ?)", (sae, digest))


def adopt(connection: sqlite3.Connection, picks: Picks) -> None:
    """Record picks that were there before the database; they are no change that could be undone."""
    connection.executemany(
        "INSERT INTO picks (sae, feature, place, pick) VALUES (?, ?, ?, ?)",
        [(picks.sae, pick.feature, place, to_text(pick)) for place, pick in enumerate(picks.picks)],
    )


def record(
    connection: sqlite3.Connection,
    before: Picks,
    picks: Picks,
    author: str,
    undoes: int | None = None,
) -> Step:
    """Record that the picks were changed from one to the other, as a step by the author.

    Returns:
        The step; one without changes, if only the order has changed.
    """
    changes = _changes(before, picks)
    at = utc_now()
    number = connection.execute(
        "INSERT INTO steps (sae, at, author, undoes) VALUES (?, ?, ?, ?)",
        (picks.sae, at, author, undoes),
    ).lastrowid
    assert number is not None
    connection.executemany(
        "INSERT INTO changes (step, feature, place, before, after) VALUES (?, ?, ?, ?, ?)",
        [(number, c.feature, c.place, to_text(c.before), to_text(c.after)) for c in changes],
    )
    _write(connection, before, picks)
    return Step(number, at, author, undoes, changes)


def last_step(connection: sqlite3.Connection, sae: str, author: str | None) -> Step | None:
    """The last step, of one author or of all, that changed something, is not undone, and did not
    undo another."""
    row = connection.execute(
        "SELECT step, at, author, undoes FROM steps WHERE sae = ? AND undoes IS NULL "
        "AND (? IS NULL OR author = ?) "
        "AND step NOT IN (SELECT undoes FROM steps WHERE undoes IS NOT NULL) "
        "AND step IN (SELECT step FROM changes) ORDER BY step DESC LIMIT 1",
        (sae, author, author),
    ).fetchone()
    return None if row is None else _step(connection, row)


def latest_steps(connection: sqlite3.Connection, sae: str, limit: int) -> list[Step]:
    """The last steps, the latest first."""
    rows = connection.execute(
        "SELECT step, at, author, undoes FROM steps WHERE sae = ? ORDER BY step DESC LIMIT ?",
        (sae, limit),
    ).fetchall()
    return [_step(connection, row) for row in rows]


def _step(connection: sqlite3.Connection, row: tuple[int, str, str, int | None]) -> Step:
    rows = connection.execute(
        "SELECT feature, before, after, place FROM changes WHERE step = ? ORDER BY place, feature",
        row[:1],
    ).fetchall()
    changes = (
        Change(feature, from_text(before), from_text(after), place)
        for feature, before, after, place in rows
    )
    return Step(*row, tuple(changes))


def _changes(before: Picks, after: Picks) -> tuple[Change, ...]:
    """What differs, each with its place in the picks that have it."""
    old, new = _placed(before), _placed(after)
    differing = [feature for feature in old | new if old.get(feature) != new.get(feature)]
    found: list[Change] = []
    for feature in differing:
        was, pick_before = old.get(feature, (0, None))
        now, pick_after = new.get(feature, (0, None))
        if pick_before != pick_after:
            found.append(Change(feature, pick_before, pick_after, was if pick_before else now))
    return tuple(sorted(found, key=lambda change: (change.place, change.feature)))


def _placed(picks: Picks) -> dict[int, tuple[int, Pick]]:
    return {pick.feature: (place, pick) for place, pick in enumerate(picks.picks)}


def _write(connection: sqlite3.Connection, before: Picks, after: Picks) -> None:
    """Bring the table from one to the other; rows that stay as they are are not touched."""
    old, new = _placed(before), _placed(after)
    connection.executemany(
        "DELETE FROM picks WHERE sae = ? AND feature = ?",
        [(after.sae, feature) for feature in old.keys() - new.keys()],
    )
    connection.executemany(
        "INSERT OR REPLACE INTO picks (sae, feature, place, pick) VALUES (?, ?, ?, ?)",
        [
            (after.sae, feature, place, to_text(pick))
            for feature, (place, pick) in new.items()
            if old.get(feature) != (place, pick)
        ],
    )
