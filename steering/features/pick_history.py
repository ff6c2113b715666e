"""Changes of picks, and how one is undone when others have changed the same feature since."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from ...sae.common.errors import InputError
from .picks import Pick


@dataclass(frozen=True)
class Change:
    """What became of one feature."""

    feature: int
    before: Pick | None
    """None if it was not picked."""
    after: Pick | None
    """None if it is not picked any more."""
    place: int = 0
    """Where it stands among the picks; a removed one comes back there."""


@dataclass(frozen=True)
class Step:
    """What was changed at once, and is undone at once."""

    step: int
    """Number, from 1; a later one is larger."""
    at: str
    """When, in UTC: 2026-01-31T12:00:00Z."""
    author: str
    """Who changed it: command, file (an edit of picks.json by hand), or a page of the browser."""
    undoes: int | None
    """The step that this one undid; None if it was none."""
    changes: tuple[Change, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return dataclasses.asdict(self)


class CannotUndo(InputError):
    """There is nothing to undo, or others have changed the same since."""


def undone(change: Change, now: Pick | None) -> Pick | None:
    """What the feature's pick is without the change; what others have changed of it since stays.

    Args:
        change: the change to undo.
        now: the pick as it is.

    Raises:
        CannotUndo: a field that the change gave has been changed since, or the pick is gone or
            anew.
    """
    if now == change.after:
        return change.before
    if now is None or change.after is None:
        what = "removed" if now is None else "picked again"
        raise CannotUndo(
            f"feature {change.feature} has been {what} since, so the change before cannot be "
            "undone; change it by hand"
        )
    base = change.before or Pick(feature=change.feature)
    names = [field.name for field in dataclasses.fields(Pick)]
    given = [name for name in names if getattr(base, name) != getattr(change.after, name)]
    since = [name for name in given if getattr(now, name) != getattr(change.after, name)]
    if since:
        raise CannotUndo(
            f"{' and '.join(since)} of feature {change.feature} has been changed since, so the "
            "change before cannot be undone; change it by hand"
        )
    return dataclasses.replace(now, **{name: getattr(base, name) for name in given})


def to_text(pick: Pick | None) -> str | None:
    """A pick as the database keeps it."""
    return None if pick is None else json.dumps(dataclasses.asdict(pick), allow_nan=False)


def from_text(text: str | None) -> Pick | None:
    """A pick out of the database."""
    return None if text is None else Pick(**json.loads(text))
