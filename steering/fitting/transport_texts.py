"""What the verb's settings and texts are for a fit of maps between two sets of texts."""

from typing import Any

from ...sae.language_model.model import LanguageModel
from .capture import sites_in_order
from .config import FitConfig
from .sources import Source


def of_sides(source: Source) -> tuple[list[str], list[str]]:
    """The positive and the negative texts."""
    sides: tuple[list[str], list[str]] = ([], [])
    for text, is_positive in zip(source.texts, source.is_positive, strict=True):
        sides[0 if is_positive else 1].append(text)
    return sides


def text_fit_settings(model: LanguageModel, config: FitConfig) -> dict[str, Any]:
    """The settings of a `TextFit` that the verb has.

    Raises:
        InputError: the model has no such site.
    """
    return {
        "sites": tuple(site.name for site in sites_in_order(model, config.site)),
        "batch_size": config.batch_size,
        "held_out": config.held_out,
        "seed": config.seed,
        "max_length": config.max_length,
    }
