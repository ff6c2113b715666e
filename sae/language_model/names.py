"""The name by which a model or a corpus is found again from any folder; imports no torch."""

import glob
import os
from pathlib import Path

from ..common.errors import InputError
from ..common.mixtures import renamed
from ..fetching.artifacts import ARTIFACTS


def lasting_name(source: str) -> str:
    """The name by which a model or a corpus is found again from any folder: the absolute path of
    what is there (a folder, a file, or files of a pattern), else the name as it is. A mixture of
    data sets has such a name for each."""
    return renamed(source, _lasting)


def _lasting(source: str) -> str:
    path = os.path.expanduser(source)
    if source in ARTIFACTS or not (os.path.exists(path) or glob.glob(path)):
        return source
    return os.path.abspath(path)


def named_again(recorded: str, given: str | None, of: str) -> str:
    """The model to load for what was made with `recorded`: that one, or the one given in its place.

    A recorded path is never taken for a name on the hub.

    Raises:
        InputError: nothing is given, and the recorded folder or file is not there; `of` names what
            was made with it.
    """
    if given is not None:
        return given
    if Path(recorded).is_absolute() and not Path(recorded).exists():
        raise InputError(
            f"the language model of {of} is not at {recorded} any more; give --model with its "
            "folder or file"
        )
    return recorded


def public_name(recorded: str) -> str:
    """The name of a model or a corpus for other people: of an absolute path only what the file or
    folder is called, with `./` before it, so that it is never taken for a name on the hub."""
    return renamed(recorded, _public)


def _public(recorded: str) -> str:
    return f"./{Path(recorded).name}" if os.path.isabs(recorded) else recorded
