"""The sparse autoencoder, its file format, and the site in a language model that it reads.

Names are loaded when first used, so that reading a configuration imports no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .autoencoder import SparseAutoencoder as SparseAutoencoder
    from .config import BatchTopKConfig as BatchTopKConfig
    from .config import JumpReLUConfig as JumpReLUConfig
    from .config import Origin as Origin
    from .config import TopAFAConfig as TopAFAConfig
    from .config import TopKConfig as TopKConfig
    from .errors import InputError as InputError
    from .language_model import LanguageModel as LanguageModel
    from .site import Site as Site

_HOMES = {
    "SparseAutoencoder": "autoencoder",
    "TopKConfig": "config",
    "BatchTopKConfig": "config",
    "JumpReLUConfig": "config",
    "TopAFAConfig": "config",
    "Origin": "config",
    "InputError": "errors",
    "LanguageModel": "language_model",
    "Site": "site",
}

__all__ = list(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll] - the table above is the list


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
