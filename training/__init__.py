"""Corpora, the activation cache, and the training of autoencoders on it.

Names are loaded when first used, so that reading a configuration imports no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .cache import ActivationCache as ActivationCache
    from .cache_config import CacheConfig as CacheConfig
    from .config import TrainerConfig as TrainerConfig
    from .harvest import cache_activations as cache_activations
    from .initialize import initialize_from_rows as initialize_from_rows
    from .trainer import Trainer as Trainer

_HOMES = {
    "ActivationCache": "cache",
    "CacheConfig": "cache_config",
    "TrainerConfig": "config",
    "cache_activations": "harvest",
    "initialize_from_rows": "initialize",
    "Trainer": "trainer",
}

__all__ = list(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll] - the table above is the list


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
