"""Recipes: a YAML file of settings named like the flags, for `--config`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from ..sae.errors import InputError
from ..sae.files import nearest
from .options import Option


def read_recipe(path: str, options: Mapping[str, Option]) -> dict[str, list[str]]:
    """The settings of the file as words, as if they had been typed.

    Keys may be written with _ or -. A setting of null is left out.

    Raises:
        InputError: the file is missing or no YAML mapping, a key is unknown, or a value is of a
            kind that its option does not take.
    """
    settings: dict[str, list[str]] = {}
    for key, value in _load(path).items():
        name = str(key).replace("_", "-")
        if name not in options:
            near = nearest(name, options)
            remedy = f"perhaps you meant {near[0]}" if near else f"known are {', '.join(options)}"
            raise InputError(f"{path}: there is no setting {key!r}; {remedy}")
        if value is not None:
            settings[name] = _words(value, options[name], f"{path}: {key}")
    return settings


def _words(value: object, option: Option, where: str) -> list[str]:
    values = [value]
    if isinstance(value, list) and option.is_list:
        values = cast(list[object], value)
    for item in values:
        if isinstance(item, list | dict) or isinstance(item, bool) is not option.is_switch:
            kind = "true or false" if option.is_switch else option.expected
            raise InputError(f"{where} is {item!r}, but must be {kind}")
    return [str(item) for item in values]


def _load(path: str) -> dict[Any, object]:
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"there is no recipe {path}; check --config") from None
    except OSError as error:
        raise InputError(f"the recipe {path} cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"the recipe {path} is not valid YAML ({reason}); mend it") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"the recipe {path} must hold lines such as `tokens: 200000`")
    return cast(dict[Any, object], values)
