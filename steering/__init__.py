"""Features, interventions, detoxification and data selection with a trained autoencoder.

Names are loaded when first used, so that reading a configuration imports no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .config import GenerateConfig as GenerateConfig
    from .config import Sampling as Sampling
    from .controls import random_features as random_features
    from .generation import Continuation as Continuation
    from .generation import Generation as Generation
    from .generation import generate as generate
    from .intervention import Intervention as Intervention
    from .intervention import SteeredFeature as SteeredFeature
    from .loading import LoadedRun as LoadedRun
    from .loading import load_run as load_run
    from .side_by_side import intervention_of_picks as intervention_of_picks

_HOMES = {
    "Continuation": "generation",
    "GenerateConfig": "config",
    "Generation": "generation",
    "Intervention": "intervention",
    "LoadedRun": "loading",
    "Sampling": "config",
    "SteeredFeature": "intervention",
    "generate": "generation",
    "intervention_of_picks": "side_by_side",
    "load_run": "loading",
    "random_features": "controls",
}

__all__ = list(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll] - the table above is the list


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
