"""The autoencoders of an intervention's features: one for all sites, or one for each of several.

A number of a feature means something in one autoencoder only. With several, the features of an edit
are those of the autoencoder of its site, and so are the features of a gate.
"""

import dataclasses
from collections.abc import Iterator, Mapping

from ...sae.autoencoder import SparseAutoencoder
from ...sae.common.errors import InputError
from ...sae.compatibility import require_fits
from ...sae.language_model.sites import Site
from ..registries import EDITS
from .intervention import Intervention
from .rules import require_latent
from .spec import Edit, Gate, SteeredFeature

Autoencoders = SparseAutoencoder | Mapping[str, SparseAutoencoder]
"""One autoencoder, or that of each site by the site's name."""


def autoencoder_at(saes: Autoencoders | None, site: str) -> SparseAutoencoder | None:
    """The autoencoder of the features at a site; None if there is none."""
    return saes.get(site) if isinstance(saes, Mapping) else saes


def require_autoencoders(
    intervention: Intervention, saes: Autoencoders | None, sites: Mapping[str, Site]
) -> None:
    """Raise an InputError unless the autoencoders have the features and fit the edited sites.

    Args:
        intervention: one that needs an autoencoder.
        saes: what is there.
        sites: those that are edited, by their names.
    """
    if not isinstance(saes, Mapping):
        sae = _usable(saes)
        for site in sites.values():
            require_fits(sae, site=site)
        for feature in intervention.features:
            require_latent(feature.index, sae)
        return
    for site, features in _features_by_site(intervention):
        if site not in saes:
            raise InputError(
                f"the intervention has features at {site}, and there is no autoencoder of that "
                f"site; there are those of {', '.join(saes) or 'none'}: give it, too"
            )
        sae = _usable(saes[site])
        if site in sites:
            require_fits(sae, of=f"the autoencoder of {site}", site=sites[site])
        for feature in features:
            require_latent(feature.index, sae)


def gate_of(intervention: Intervention, first: str) -> Gate:
    """The intervention's gate where there are several autoencoders: one without features of its own
    asks those of the edits at the site where it reads, by default the first.

    Args:
        intervention: what is steered.
        first: the first edited site, in the model's order.
    """
    gate = intervention.gate
    if gate.kind == "constant" or gate.features:
        return gate
    site = gate.site or first
    at_site = (each for edit in intervention.edits if edit.site == site for each in edit.features)
    features = {each.index: each for each in at_site}
    return dataclasses.replace(gate, site=site, features=tuple(features.values()))


def _features_by_site(
    intervention: Intervention,
) -> Iterator[tuple[str, tuple[SteeredFeature, ...]]]:
    """Each site whose autoencoder is needed, with features that it must have."""
    for edit in intervention.edits:
        if edit.features or EDITS.get(edit.kind).needs_autoencoder:
            yield edit.site, edit.features
        if edit.gate is None:
            continue
        if edit.gate.features:
            yield edit.gate.site or edit.site, edit.gate.features
        _require_gate_at_edit(edit)
    if intervention.gate.features:
        yield intervention.gate.site or intervention.site, intervention.gate.features


def _require_gate_at_edit(edit: Edit) -> None:
    gate = edit.gate
    if gate is not None and edit.features and not gate.features:
        if gate.kind != "constant" and gate.site not in (None, edit.site):
            raise InputError(
                f"the gate of the edit at {edit.site} reads {gate.site}, whose autoencoder has "
                "other features; give the gate features of its own",
                field="features",
            )


def _usable(sae: SparseAutoencoder | None) -> SparseAutoencoder:
    """The autoencoder; raises InputError where there is none, or it cannot steer."""
    if sae is None:
        raise InputError(
            "the intervention steers with features, which are an autoencoder's; give the "
            "autoencoder, too"
        )
    if sae.config.transcoder:
        raise InputError(
            "a transcoder reads one site and writes another, and steering has one site; give an "
            "autoencoder of the site to be steered"
        )
    return sae
