"""What the verb's settings and texts are for fits that have a configuration of their own."""

from collections.abc import Mapping
from typing import Any

from ...sae.autoencoder import SparseAutoencoder
from ...sae.common.errors import InputError
from ...sae.language_model.model import LanguageModel
from ..features.text_lists import read_text_list
from .capture import sites_in_order
from .config import FitConfig
from .sources import Source


def of_sides(source: Source) -> tuple[list[str], list[str]]:
    """The positive and the negative texts."""
    sides: tuple[list[str], list[str]] = ([], [])
    for text, is_positive in zip(source.texts, source.is_positive, strict=True):
        sides[0 if is_positive else 1].append(text)
    return sides


def site_names(model: LanguageModel, config: FitConfig) -> tuple[str, ...]:
    """The sites that are asked for, in the model's order.

    Raises:
        InputError: the model has no such site.
    """
    return tuple(site.name for site in sites_in_order(model, config.site))


def only_site(model: LanguageModel, config: FitConfig) -> str:
    """The site that is asked for, of a method that does not compare several.

    Raises:
        InputError: several are given, or the model has no such site.
    """
    names = list(site_names(model, config))
    if len(names) > 1:
        raise InputError(
            f"{config.method} does not compare sites, and {len(names)} are given; give one",
            field="site",
        )
    return names[0]


def text_fit_settings(model: LanguageModel, config: FitConfig) -> dict[str, Any]:
    """The settings of a `TextFit` that the verb has.

    Raises:
        InputError: the model has no such site.
    """
    return {
        "sites": site_names(model, config),
        "batch_size": config.batch_size,
        "held_out": config.held_out,
        "seed": config.seed,
        "max_length": config.max_length,
    }


def neutral_texts(config: FitConfig) -> list[str]:
    """The neutral texts; none where no file is named.

    Raises:
        InputError: the file is missing or broken.
    """
    if config.neutral is None:
        return []
    return read_text_list(config.neutral, config.text_field, what="--neutral")


def mapped_autoencoders(
    model: LanguageModel, config: FitConfig, sites: tuple[str, ...]
) -> Mapping[str, SparseAutoencoder]:
    """The autoencoder whose latents are mapped, by its site; none where none is named.

    Raises:
        InputError: it cannot be read, or there are several sites and it does not say which is its.
    """
    if config.sae is None:
        return {}
    sae = SparseAutoencoder.load(config.sae).to(model.device)
    if len(sites) == 1:
        return {sites[0]: sae}
    if sae.origin is None or sae.origin.site not in sites:
        raise InputError(
            f"{config.sae} was trained on none of the sites; give its own, or one site alone",
            field="sae",
        )
    return {sae.origin.site: sae}
