"""The verb `verify`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..sae.common.errors import InputError
from ..sae.common.paths import FilePath
from ..sae.common.wording import count, counted
from .console import Report, Terminal, table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..training.verification import Found

_NAMED = 5
"""Files without a checksum that are named; of more, how many there are."""


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """What to verify."""

    path: FilePath
    """A folder or a file that sparsteer wrote: a cache, a run, an autoencoder, a feature index, an
    exported autoencoder, OUT.parts, what was fetched; or a folder of these."""


def run(options: VerifyOptions, terminal: Terminal) -> Report:
    """Compare every byte of what sparsteer wrote with its checksums.

    PATH is a folder, such as a cache or a run with all that it holds, or a file. The exit status is
    1 if a file is missing or differs. Files without a checksum, such as pages and plots, and what
    versions without checksums wrote, are named and not counted.
    """
    from ..training.verification import verify

    with terminal.progress("verifying", "bytes") as update:
        found = verify(options.path, progress=lambda done, total: update(done, total, ""))
    checked = [file for file in found if file.state != "unchecked"]
    if not checked:
        raise InputError(
            f"{options.path} holds nothing with a checksum, so nothing can be said of it; give "
            "what sparsteer wrote, such as a cache or a run"
        )
    problems = [file.problem for file in checked if file.state == "damaged"]
    unchecked = [str(file.path) for file in found if file.state == "unchecked"]
    values = {
        "path": options.path,
        "whole": not problems,
        "files": [
            {"file": str(file.path), "state": file.state, "problem": file.problem or None}
            for file in found
        ],
        "problems": problems,
        "unchecked": unchecked,
    }
    shown: list[RenderableType] = [table(*_parts(checked)), *problems]
    if unchecked:
        some = ", ".join(unchecked[:_NAMED])
        rest = f" and {count(len(unchecked) - _NAMED)} more" if len(unchecked) > _NAMED else ""
        shown.append(f"without a checksum, not checked: {some}{rest}")
    if not problems:
        shown.append(f"{options.path} is whole: every byte with a checksum is as it was written")
    error = damage(options.path, problems, len(checked))
    return Report(values=values, shown=shown, status=1 if problems else 0, error=error)


def damage(path: str, problems: Sequence[str], n_files: int) -> str:
    """The sentence that ends a command which found damage; empty if there is none."""
    if not problems:
        return ""
    first = problems[0].rpartition(";")
    verb = "is" if len(problems) == 1 else "are"
    return (
        f"{len(problems)} of {counted(n_files, 'file')} of {path} {verb} missing or not as "
        f"written, such as: {first[0] or first[2]}; restore them, or make them again"
    )


def _parts(checked: "Sequence[Found]") -> list[tuple[str, str, str]]:
    """A row for each folder: how many files are whole."""
    folders: dict[Path, list[Found]] = {}
    for file in checked:
        folders.setdefault(file.path.parent, []).append(file)
    rows: list[tuple[str, str, str]] = []
    for folder, files in folders.items():
        n_damaged = sum(file.state == "damaged" for file in files)
        state = f"{count(n_damaged)} damaged" if n_damaged else "as they were written"
        rows.append((str(folder), counted(len(files), "file"), state))
    return rows
