"""Experiment trackers beside `metrics.jsonl`; none unless it is asked for."""

import os
import secrets
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from ..sae.common.checksums import read_checked_json, write_checked_json
from ..sae.common.errors import InputError

Tracking = Literal["wandb"]

_FILE = "tracking.json"

_MODES = ("online", "offline", "disabled", "shared", "dryrun", "run")
_MODES_LISTED = "online, offline or disabled"


@runtime_checkable
class Tracker(Protocol):
    """What receives the lines of `metrics.jsonl` as they are written."""

    def log(self, line: dict[str, Any]) -> None:
        """Take a line; it holds `step`."""
        ...

    def close(self) -> None:
        """Finish what was begun."""
        ...


def open_tracker(kind: Tracking | None, run: Path, resolved: dict[str, Any]) -> Tracker | None:
    """The tracker of a run, which a resumed run continues; None if none is asked for.

    Args:
        kind: "wandb": one run in the project `sparsteer` (or WANDB_PROJECT), named as the folder.
            WANDB_MODE=offline needs no account and writes into the run folder.
        run: the run folder, which exists.
        resolved: the run's settings.
    """
    return None if kind is None else _Wandb(run, resolved)


def require_tracker(kind: Tracking | None) -> None:
    """Raise InputError if the tracker would ask for an account that is not there."""
    mode = os.environ.get("WANDB_MODE", "online")
    if kind is None:
        return
    if mode not in _MODES:
        raise InputError(f"WANDB_MODE is {mode!r}, which wandb does not know; give {_MODES_LISTED}")
    if mode != "online":
        return
    import wandb

    library: Any = wandb  # its types are partly unknown
    if not library.api.api_key:
        raise InputError(
            "track is wandb, which has no API key here; run `wandb login`, or set "
            "WANDB_MODE=offline to track without an account",
            field="track",
        )


class _Wandb:
    def __init__(self, run: Path, resolved: dict[str, Any]) -> None:
        import wandb

        library: Any = wandb  # its types are partly unknown
        self._run: Any = library.init(
            project=os.environ.get("WANDB_PROJECT", "sparsteer"),
            name=run.name,
            id=_identity(run),
            resume="allow",
            reinit="create_new",  # the autoencoders of a grid are tracked side by side
            dir=str(run),
            config=resolved,
            settings=library.Settings(silent=True, console="off"),
        )

    def log(self, line: dict[str, Any]) -> None:
        self._run.log(_flat(line), step=line["step"])

    def close(self) -> None:
        self._run.finish()


def _identity(run: Path) -> str:
    """A name for the tracker that the run keeps when it is resumed."""
    path = run / _FILE
    if not path.exists():
        write_checked_json(path, {"id": secrets.token_hex(8)})
    return str(read_checked_json(path, "identity for the tracker")["id"])


def _flat(line: dict[str, Any]) -> dict[str, Any]:
    """Nested values under names with a slash: held_out/fvu."""
    flat: dict[str, Any] = {}
    for name, value in line.items():
        if isinstance(value, dict):
            flat |= {f"{name}/{key}": inner for key, inner in _flat(value).items()}  # pyright: ignore[reportUnknownArgumentType] - any JSON
        else:
            flat[name] = value
    return flat
