"""`--device-map`: how a language model too large for one device is spread; imports no torch."""

import json
from typing import Any, cast

from .common.errors import InputError

_CHOICES = ("auto", "balanced")
_REMEDY = (
    "give auto, balanced or a JSON object of module names and devices, such as "
    '\'{"model.embed_tokens": 0, "model.layers": "cpu", ...}\''
)

DeviceMap = str | dict[str, int | str]
"""auto, balanced, or by the name of a module its device: a GPU's number, cpu, disk, cuda:1 ..."""


def parsed_device_map(value: str) -> DeviceMap:
    """The map that a setting gives, as transformers takes it.

    Raises InputError if it is none.
    """
    if value in _CHOICES:
        return value
    try:
        found: object = json.loads(value)
    except ValueError:
        found = None
    places = cast(dict[str, Any], found) if isinstance(found, dict) else {}
    if not places or not all(map(_is_device, places.values())):
        raise InputError(f"device_map is {value}; {_REMEDY}", field="device_map")
    return places


def require_device_map(value: str | None, device: str) -> None:
    """Raise an InputError unless it is a map or None, and the device is left to it."""
    if value is None:
        return
    parsed_device_map(value)
    if device != "auto":
        raise InputError(
            f"device is {device}, but device_map says where the language model is; leave one out",
            field="device",
        )


def _is_device(value: object) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)
