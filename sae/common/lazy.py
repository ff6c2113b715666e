"""Packages whose names are loaded when they are first used; imports no torch."""

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path


def export_lazily(
    package: str,
) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package that exports what type checkers see.

    The names are those that the package's `__init__.py` imports under `if TYPE_CHECKING:`, each
    `from .module import Name as Name`, so that there is one list for both. A name's module is
    imported when the name is first used.

    Args:
        package: `__name__` of the package.
    """
    module = sys.modules[package]
    assert module.__file__ is not None
    homes: dict[str, str] = {}
    for node in ast.parse(Path(module.__file__).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for line in node.body:
                assert isinstance(line, ast.ImportFrom)
                home = "." * line.level + (line.module or "")
                homes |= {alias.name: home for alias in line.names}

    def load(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(homes[name], package), name)
        setattr(module, name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(module), *homes})

    return load, names, list(homes)
