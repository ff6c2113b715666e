"""Values of names that are not known beforehand, given as words `NAME=VALUE`."""

from collections.abc import Mapping, Sequence
from typing import Any

from .errors import InputError
from .files import nearest

_SHOWN = {int: "a whole number", float: "a number", bool: "true or false"}
_TRUTH = {"true": True, "false": False}


def read_named_values(
    setting: str, words: Sequence[str], kinds: Mapping[str, type[Any]], *, of: str
) -> dict[str, Any]:
    """The value of each name, in the order of the words.

    Args:
        setting: under which the words are given, for errors.
        kinds: the type of each name's value: int, float, bool or str.
        of: what has these names, for errors.

    Raises:
        InputError: a word is not of this form, its name is unknown or comes twice, or its value is
            of another type.
    """
    values: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if name not in kinds:
            near = nearest(name, kinds)
            known = ", ".join(kinds) or "none"
            hint = f"did you mean {near[0]}?" if near else f"there are: {known}."
            raise InputError(
                f"{setting} is {word!r}, but {of} has no {name!r}; {hint}", field=setting
            )
        if not equals or not text:
            raise InputError(f"{setting} is {word!r}; write {name}=VALUE", field=setting)
        if name in values:
            raise InputError(f"{setting} has {name} twice; give it once", field=setting)
        kind = kinds[name]
        try:
            values[name] = _TRUTH[text.lower()] if kind is bool else kind(text)
        except (KeyError, ValueError):
            needed = _SHOWN.get(kind, f"of type {kind.__name__}")
            raise InputError(
                f"{setting} is {word!r}, but {name} must be {needed}", field=setting
            ) from None
    return values
