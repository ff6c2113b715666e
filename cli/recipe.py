"""Recipes: a YAML file of settings named like the flags, for `--config`."""

from collections.abc import Mapping
from typing import cast

from ..sae.common.errors import InputError
from ..sae.common.files import nearest
from ..sae.common.yaml_files import read_yaml
from .options import Option


def read_recipe(path: str, options: Mapping[str, Option]) -> dict[str, list[str]]:
    """The settings of the file as words, as if they had been typed.

    Keys may be written with _ or -. A setting of null is left out.

    Raises:
        InputError: the file is missing or no YAML mapping, a key is unknown, or a value is of a
            kind that its option does not take.
    """
    settings: dict[str, list[str]] = {}
    for key, value in read_yaml(path, "recipe", remedy="mend it").items():
        name = str(key).replace("_", "-")
        if name not in options:
            near = [_as_written(known, key) for known in nearest(name, options)]
            remedy = f"perhaps you meant {near[0]}" if near else f"known are {', '.join(options)}"
            raise InputError(f"{path}: there is no setting {key!r}; {remedy}")
        if value is not None:
            settings[name] = _words(value, options[name], f"{path}: {key}")
    return settings


def _as_written(name: str, key: object) -> str:
    """The setting with _ or -, as the key has it."""
    return name if "-" in str(key) else name.replace("-", "_")


def _words(value: object, option: Option, where: str) -> list[str]:
    values = [value]
    if isinstance(value, list) and option.is_list:
        values = cast(list[object], value)
    for item in values:
        if isinstance(item, list | dict) or isinstance(item, bool) is not option.is_switch:
            kind = "true or false" if option.is_switch else option.expected
            raise InputError(f"{where} is {item!r}, but must be {kind}")
    return [str(item) for item in values]
