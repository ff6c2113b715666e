"""Saved interventions that go by a name: `NAME=PATH`, as options give them. Imports no torch."""

import re
from collections.abc import Sequence
from pathlib import Path

from ...sae.common.errors import InputError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)


def named_paths(given: Sequence[str], field: str) -> dict[str, Path]:
    """The paths by their names, in the order given; `~` in a path is the home folder.

    Args:
        given: each `NAME=PATH`.
        field: the option, for an error.

    Raises:
        InputError: one has no name, no path or a name with other characters than letters, digits,
            `_`, `-` and dots; or two have one name.
    """
    found: dict[str, Path] = {}
    for each in given:
        name, equals, path = each.partition("=")
        if not equals or not path or not _NAME.fullmatch(name):
            raise InputError(
                f"{field} has {each!r}; give NAME=PATH, with a name of up to 64 letters, digits, "
                "dots, - and _",
                field=field,
            )
        if name in found:
            raise InputError(f"{field} has the name {name!r} twice; give each its own", field=field)
        found[name] = Path(path).expanduser()
    return found


def has_saved(one: str | None, several: Sequence[str]) -> bool:
    """Whether a saved intervention is given, alone or by names.

    Args:
        one: the option `intervention`.
        several: the option `interventions`.

    Raises:
        InputError: both are given, or a name is wrong or that of the unsteered text.
    """
    if "base" in named_paths(several, "interventions"):
        raise InputError(
            "interventions has the name 'base', which is that of the unsteered text; give another",
            field="interventions",
        )
    if several and one is not None:
        raise InputError(
            "interventions cannot stand beside --intervention; give all of them by names",
            field="interventions",
        )
    return bool(several) or one is not None
