"""The verb `fetch`."""

from dataclasses import dataclass
from typing import Any

from ..sae.common.errors import InputError
from ..sae.common.wording import size
from .console import Report, Terminal, next_command


@dataclass(frozen=True, kw_only=True)
class FetchOptions:
    """What to fetch."""

    name: str | None = None
    """Name of a model or text, as --list shows it."""

    list: bool = False
    """Show what can be fetched, from where, and under which license."""

    def __post_init__(self) -> None:
        if self.list == (self.name is not None):
            raise InputError("give either NAME, the name of a model or text, or --list")


def run(options: FetchOptions, terminal: Terminal) -> Report:
    """Bring a named model or text into the local cache, its checksum verified.

    What is there already is checked and not fetched again.
    """
    return _all() if options.name is None else _one(options.name, terminal)


def _one(name: str, terminal: Terminal) -> Report:
    from ..sae.fetching.fetch import ARTIFACTS, fetch

    path = fetch(name, progress=terminal.say)
    artifact = ARTIFACTS[name]
    values = {
        "name": name,
        "path": str(path),
        "origin": artifact.origin,
        "license": artifact.license,
    }
    shown = (f"{name} is in {path}", f"{artifact.summary}; license: {artifact.license}")
    return Report(values=values, shown=shown)


def _all() -> Report:
    from rich.table import Table

    from ..sae.fetching.fetch import ARTIFACTS, cached_path, is_fetched

    entries: list[dict[str, Any]] = []
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("name", "download", "fetched", "what", "origin", "license"):
        grid.add_column(heading, no_wrap=heading in ("name", "download"))
    for artifact in ARTIFACTS.values():
        fetched = is_fetched(artifact.name)
        entries.append(
            {
                "name": artifact.name,
                "summary": artifact.summary,
                "bytes": artifact.size,
                "origin": artifact.origin,
                "license": artifact.license,
                "fetched": fetched,
                "path": str(cached_path(artifact.name)),
            }
        )
        grid.add_row(
            artifact.name,
            size(artifact.size),
            "yes" if fetched else "no",
            artifact.summary,
            artifact.origin,
            artifact.license,
        )
    return Report(values={"artifacts": entries}, shown=(grid, next_command("fetch", "NAME")))
