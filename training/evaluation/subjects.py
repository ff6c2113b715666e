"""Autoencoders that are measured, with the sites of a cache that they read and predict."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ...sae.autoencoder import SparseAutoencoder
from ...sae.common.errors import InputError
from ...sae.compatibility import require_fits
from ..data.cache.reader import ActivationCache
from .config import EvalSettings


@dataclass(frozen=True)
class Subject:
    """An autoencoder to be measured."""

    path: str
    """Its folder, or what else it is called."""
    sae: SparseAutoencoder
    site: str
    target_site: str | None
    """What a transcoder predicts; None of an autoencoder."""
    baseline: str | None = None
    """Its kind if it is one of `BASELINES`, which nobody trained."""

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites of which it needs rows: the one it reads, then the one it predicts."""
        return (self.site,) if self.target_site is None else (self.site, self.target_site)

    @property
    def written(self) -> str:
        """The site where its output takes the activation's place."""
        return self.sites[-1]


def opened_subject(
    path: str,
    cache: ActivationCache,
    settings: EvalSettings,
    device: torch.device,
    say: Callable[[str], None],
) -> Subject:
    """The autoencoder of a folder with the sites that it reads and predicts; raises as
    `subject_of`."""
    return subject_of(SparseAutoencoder.load(path).to(device), path, cache, settings, say)


def subject_of(
    sae: SparseAutoencoder,
    path: str,
    cache: ActivationCache,
    settings: EvalSettings,
    say: Callable[[str], None] = lambda sentence: None,
) -> Subject:
    """An autoencoder in memory with the sites that it reads and predicts.

    Args:
        sae: the autoencoder, on the device where it is to be measured.
        path: its folder, or what else to call it.
        cache: what it is measured on.
        settings: the site, where another is wanted than that of its origin.
        say: told of other weights that are allowed.

    Raises InputError if it does not belong to the cache, or does not say what it predicts.
    """
    wanted, origin = settings.site, sae.origin
    if wanted is None and origin is not None:
        wanted = origin.site
        if wanted not in cache.sites:
            raise InputError(
                f"{path} was trained at {wanted}, which {settings.cache} does not hold; give a "
                "cache of that site, or --site to measure it at another"
            )
    require_fits(
        sae, of=path, cache=cache, allow_other_weights=settings.allow_other_weights, say=say
    )
    site = cache.site_name(wanted)
    return Subject(path, sae, site, _target_site(path, sae, site, cache))


def _target_site(
    path: str, sae: SparseAutoencoder, site: str, cache: ActivationCache
) -> str | None:
    if not sae.config.transcoder:
        return None
    if sae.origin is None or sae.origin.target_site is None:
        raise InputError(
            f"the transcoder of {path} does not say which site it predicts; save it with an origin "
            "that has a target_site"
        )
    target_site = cache.site_name(sae.origin.target_site)
    if site == target_site:
        raise InputError(f"{path} predicts {target_site} and does not read it; leave --site out")
    return target_site
