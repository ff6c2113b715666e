"""YAML that people wrote: one mapping of settings, every mistake in one sentence."""

import math
from collections.abc import Hashable
from pathlib import Path
from typing import Any, cast

from .errors import InputError
from .paths import require_regular_file

_MOST_VALUES = 100_000
"""Aliases let a few lines stand for more than any memory holds."""


def read_yaml(path: str | Path, what: str, *, remedy: str) -> dict[Any, Any]:
    """The mapping in the YAML file at `path`; empty if the file is.

    In an error `what` names the file ("recipe"), and `remedy` is what mends its content.
    Raises InputError if it is missing, unreadable, no YAML or no mapping, or has a key twice.
    """
    import yaml

    require_regular_file(path, what)
    try:
        text = Path(path).read_text(encoding="utf-8")
        library: Any = yaml  # its types are partly unknown
        node = library.compose(text, yaml.SafeLoader)
        if _n_values(node, {}) > _MOST_VALUES:
            raise ValueError(
                f"with its aliases written out it has more than {_MOST_VALUES:,} values"
            )
        _refuse_twice(node)
        values: object = yaml.safe_load(text)
    except OSError as error:
        raise InputError(f"the {what} {path} cannot be read ({error.strerror}); {remedy}") from None
    # Values that YAML takes for a date or a number, and Python does not: ValueError, KeyError, ...
    except (yaml.YAMLError, ValueError, KeyError, TypeError, ArithmeticError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"the {what} {path} is not valid YAML ({reason}); {remedy}") from None
    except RecursionError:
        raise InputError(f"the {what} {path} is nested too deeply; {remedy}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"the {what} {path} must hold lines such as `tokens: 200000`; {remedy}")
    return cast(dict[Any, Any], values)


def _n_values(node: Any, counted: dict[int, float]) -> float:
    """The values of a node with every alias written out, infinite where it holds itself."""
    if node is None or node.id == "scalar":
        return 1.0
    if id(node) not in counted:
        counted[id(node)] = math.inf  # until it is known: who comes here again holds itself
        inner = (
            [item for pair in node.value for item in pair] if node.id == "mapping" else node.value
        )
        counted[id(node)] = 1.0 + sum(_n_values(item, counted) for item in inner)
    return counted[id(node)]


def _refuse_twice(node: Any) -> None:
    """Raise a ValueError if a key stands twice in the mapping, of which YAML keeps the last."""
    seen: set[Hashable] = set()
    for key, _ in node.value if node is not None and node.id == "mapping" else ():
        # The same setting may be written with _ or -.
        name = key.value.replace("-", "_") if key.id == "scalar" else None
        if name is not None and name in seen:
            raise ValueError(f"{key.value!r} stands in it twice, in line {key.start_mark.line + 1}")
        seen.add(name)
