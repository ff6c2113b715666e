"""Toxicity of generated text: prompts, scorer, measurements.

Names are loaded when first used. `toxicity` and `measure` are modules here; the functions of those
names are theirs.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...training.prompt_sides import side_of as side_of
    from .measure import measure_tiers as measure_tiers
    from .prompts import Prompt as Prompt
    from .prompts import prompts_of as prompts_of
    from .toxicity import Toxicity as Toxicity
    from .toxicity import identity_bias as identity_bias
    from .toxicity import toxicity_scores as toxicity_scores

_HOMES = {
    "Prompt": "prompts",
    "Toxicity": "toxicity",
    "identity_bias": "toxicity",
    "measure_tiers": "measure",
    "prompts_of": "prompts",
    "side_of": "prompts",
    "toxicity_scores": "toxicity",
}

__all__ = list(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll] - the table above is the list


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
