"""Instruction data scored and selected by its likeness to a target task.

Names are loaded when first used, so that a configuration imports no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .config import ScoreConfig as ScoreConfig
    from .config import SelectConfig as SelectConfig
    from .embedding import SparseRows as SparseRows
    from .scoring import score as score
    from .selecting import select as select
    from .similarity import generalized_jaccard as generalized_jaccard
    from .targets import Selection as Selection
    from .targets import recover_groups as recover_groups
    from .targets import select_for_target as select_for_target

_HOMES = {
    "ScoreConfig": "config",
    "SelectConfig": "config",
    "Selection": "targets",
    "SparseRows": "embedding",
    "generalized_jaccard": "similarity",
    "recover_groups": "targets",
    "score": "scoring",
    "select": "selecting",
    "select_for_target": "targets",
}

__all__ = list(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll] - the table above is the list


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
