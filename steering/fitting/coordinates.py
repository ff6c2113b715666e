"""In which coordinates a map acts at a site: those of the residual stream, or latents of an SAE."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...sae.autoencoder import SparseAutoencoder
from ...sae.common.errors import InputError
from ...sae.compatibility import require_fits
from ...sae.language_model.model import LanguageModel
from ..interventions.edits.latents import latent_activations
from ..interventions.spec import Edit
from .affine_maps import AffineMap
from .fitted import fitted_edit
from .trained_capture import SiteEdit, TextBatch, site_activations


@runtime_checkable
class Coordinates(Protocol):
    """Numbers read of an activation, and how a change of them is written back."""

    @property
    def site(self) -> str:
        """Where."""
        ...

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    def read(self, h_BLD: Float[Tensor, "B L D"]) -> Float[Tensor, "B L M"]:
        """The coordinates of an activation; differentiable."""
        ...

    def write(
        self, h_BLD: Float[Tensor, "B L D"], change_BLM: Float[Tensor, "B L M"]
    ) -> Float[Tensor, "B L D"]:
        """The activation with its coordinates changed by so much; differentiable."""
        ...

    def fitted(self, mapped: AffineMap) -> Edit:
        """A map of these coordinates as an edit."""
        ...


@dataclass(frozen=True)
class Residual:
    """The D coordinates of the activation itself."""

    site: str
    size: int

    def read(self, h_BLD: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """The activation."""
        return h_BLD

    def write(
        self, h_BLD: Float[Tensor, "B L D"], change_BLM: Float[Tensor, "B L D"]
    ) -> Float[Tensor, "B L D"]:
        """The sum."""
        return h_BLD + change_BLM.to(h_BLD)

    def fitted(self, mapped: AffineMap) -> Edit:
        """As a `diagonal` edit."""
        return fitted_edit("diagonal", self.site, mapped.tensors())


@dataclass(frozen=True, eq=False)
class Latents:
    """Some latents of an autoencoder; what it does not reconstruct stays as it is.

    A change of the latents' activations, in the autoencoder's scaled units, is added along their
    decoder rows: h' = h + change W_dec / input_scale.
    """

    site: str
    sae: SparseAutoencoder
    latents_M: Int[Tensor, "M"]

    @property
    def size(self) -> int:
        """M."""
        return len(self.latents_M)

    def read(self, h_BLD: Float[Tensor, "B L D"]) -> Float[Tensor, "B L M"]:
        """The activations of these latents."""
        return latent_activations(self.sae, h_BLD, self.latents_M)[0]

    def write(
        self, h_BLD: Float[Tensor, "B L D"], change_BLM: Float[Tensor, "B L M"]
    ) -> Float[Tensor, "B L D"]:
        """The activation with a multiple of decoder rows added."""
        rows_MD = self.sae.W_dec.detach()[self.latents_M]
        change_BLD = change_BLM.to(rows_MD) @ rows_MD / self.sae.input_scale
        if self.sae.config.normalize_activations != "none":
            change_BLD = change_BLD * self.sae.normalized(h_BLD)[1]
        return h_BLD + change_BLD.to(h_BLD)

    def fitted(self, mapped: AffineMap) -> Edit:
        """As a `latents` edit of the latents that it moves."""
        moves_M = (mapped.w_D != 1) | (mapped.b_D != 0)
        tensors = {name: tensor[moves_M] for name, tensor in mapped.tensors().items()}
        tensors["latents"] = self.latents_M[moves_M.to(self.latents_M.device)]
        return fitted_edit("latents", self.site, tensors)


def coordinates_at(
    model: LanguageModel,
    sites: Sequence[str],
    saes: Mapping[str, SparseAutoencoder] | None,
    batches: Sequence[TextBatch],
) -> list[Coordinates]:
    """The coordinates of each site: latents where it has an autoencoder, else the residual's.

    Args:
        model: the language model.
        sites: names, in the model's order.
        saes: by site; None for none at all.
        batches: texts; of an autoencoder the latents count that fire on one of their tokens.

    Raises:
        InputError: an autoencoder belongs to no site, has another width, is a transcoder, or none
            of its latents fires.
    """
    saes = dict(saes or {})
    if unknown := sorted(saes.keys() - set(sites)):
        raise InputError(f"an autoencoder is given for {unknown[0]}, which is not among the sites")
    found: list[Coordinates] = []
    for name in sites:
        if name not in saes:
            found.append(Residual(name, model.site(name).width))
            continue
        sae = saes[name]
        require_fits(sae, site=model.site(name))
        if sae.config.transcoder:
            raise InputError(
                f"the autoencoder of {name} is a transcoder, whose latents do not write where they "
                "read; give an autoencoder"
            )
        latents_M = firing_latents(model, name, sae, batches).nonzero()[:, 0]
        if not len(latents_M):
            raise InputError(f"no latent of the autoencoder of {name} fires on the texts")
        found.append(Latents(name, sae, latents_M))
    return found


@torch.no_grad()
def firing_latents(
    model: LanguageModel, site: str, sae: SparseAutoencoder, batches: Sequence[TextBatch]
) -> Bool[Tensor, "F"]:
    """Which latents fire on a content token of the texts."""
    fires_F = torch.zeros(sae.config.n_latents, dtype=torch.bool, device=sae.W_enc.device)
    for batch in batches:
        acts_BLD = site_activations(model, [site], batch)[site]
        codes = sae.encode(acts_BLD[batch.content_BL])
        fires_F[codes.indices[codes.values > 0]] = True
    return fires_F


@dataclass(frozen=True, eq=False)
class SiteMap:
    """A map of the coordinates of a site; calling it edits an activation."""

    coordinates: Coordinates
    map: Callable[[Tensor], Tensor]
    """From coordinates to coordinates, [..., M]."""

    @property
    def site(self) -> str:
        """Where."""
        return self.coordinates.site

    def __call__(self, h_BLD: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """The activation that the model goes on with."""
        return self.parts(h_BLD)[1]

    def parts(
        self, h_BLD: Float[Tensor, "B L D"]
    ) -> tuple[Float[Tensor, "B L M"], Float[Tensor, "B L D"]]:
        """The mapped coordinates, and the activation that the model goes on with."""
        z_BLM = self.coordinates.read(h_BLD)
        mapped_BLM = self.map(z_BLM)
        return mapped_BLM, self.coordinates.write(h_BLD, mapped_BLM - z_BLM)


def mapped_coordinates(
    model: LanguageModel, maps: Sequence[SiteMap], batch: TextBatch
) -> dict[str, Float[Tensor, "B L _"]]:
    """The mapped coordinates of each site by name, every map being switched on; gradients are
    kept."""
    found: dict[str, Tensor] = {}

    def noting(site_map: SiteMap) -> SiteEdit:
        def edit(h_BLD: Tensor) -> Tensor:
            found[site_map.site], changed_BLD = site_map.parts(h_BLD)
            return changed_BLD

        return edit

    site_activations(
        model, [each.site for each in maps], batch, {each.site: noting(each) for each in maps}
    )
    return found
