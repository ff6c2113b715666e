"""What each latent means: examples, statistics, search, and the picks of a person.

Names are loaded when first used, so that reading an index or picks imports no language model.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .build import build_index as build_index
    from .config import BuildConfig as BuildConfig
    from .config import FindConfig as FindConfig
    from .config import ListConfig as ListConfig
    from .hashing import sae_fingerprint as sae_fingerprint
    from .index import Example as Example
    from .index import Feature as Feature
    from .index import FeatureIndex as FeatureIndex
    from .listing import list_features as list_features
    from .picks import Pick as Pick
    from .picks import Picks as Picks
    from .search import FoundFeature as FoundFeature
    from .search import Search as Search
    from .search import find_features as find_features

_HOMES = {
    "BuildConfig": "config",
    "Example": "index",
    "Feature": "index",
    "FeatureIndex": "index",
    "FindConfig": "config",
    "FoundFeature": "search",
    "ListConfig": "config",
    "Pick": "picks",
    "Picks": "picks",
    "Search": "search",
    "build_index": "build",
    "find_features": "search",
    "list_features": "listing",
    "sae_fingerprint": "hashing",
}

__all__ = list(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll] - the table above is the list


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
