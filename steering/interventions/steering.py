"""An intervention at work: its hooks on the model, and which rows are switched on so far."""

from collections.abc import Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import TracebackType
from typing import Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from ...sae.autoencoder import SparseAutoencoder
from ...sae.common.errors import InputError
from ...sae.compatibility import require_fits
from ...sae.language_model.model import LanguageModel
from ...sae.language_model.sites import Site
from ..registries import EDITS, GATES
from .edits import push_of
from .intervention import Intervention
from .token_watch import TokenWatch


def steer(
    model: LanguageModel | PreTrainedModel,
    sae: SparseAutoencoder,
    intervention: Intervention,
    *,
    prompt_columns: int | None = None,
) -> "SteeringRun":
    """Steer the model inside a `with` block; leaving it restores the model bit for bit.

    A model of transformers is steered as it is, and so is its `generate`, with or without a cache,
    for one prompt or a batch padded on the left, greedy or sampled. Beam search, which exchanges
    rows between passes, works with the `constant` tier only.

    Inside, every forward pass without a cache starts new texts, and a pass that goes on from the
    cache of the last one continues them, each row on its own. Interventions nest: at one site their
    changes add up, and every gate reads the residual before any of them.

    Args:
        model: the language model; one of transformers is taken as by
            `LanguageModel.from_transformers` without a tokenizer.
        sae: the autoencoder whose latents the features are.
        intervention: what is steered, where and when.
        prompt_columns: columns of a text that count as prompt, padding included; None means all
            that the first pass of a text is given. Only generation without a cache, which gives
            the whole text anew for each token, needs it.

    Returns:
        The run, a context manager; it may be entered again to go on with the same texts.

    Raises:
        InputError: the model has no such site, the autoencoder has another width, or it has no
            such feature.
    """
    if isinstance(model, PreTrainedModel):
        model = LanguageModel.from_transformers(model)
    return SteeringRun(intervention, model, sae, prompt_columns=prompt_columns)


class SteeringRun:
    """One intervention on one model over a batch of texts, as `steer` begins it.

    Inside its `with` block the model is steered. State is kept between blocks, so that a caller may
    steer every other forward pass: a pass that continues a text's cache continues its gates.
    """

    def __init__(
        self,
        intervention: Intervention,
        model: LanguageModel,
        sae: SparseAutoencoder,
        *,
        prompt_columns: int | None = None,
    ) -> None:
        """See `steer`."""
        self.intervention = intervention
        self.model = model
        self.site = model.site(intervention.site)
        require_fit(intervention, sae, self.site)
        self._push = push_of(intervention, sae)
        self._edit = EDITS.get(intervention.edit)
        self._gate = GATES.get(intervention.tier)(intervention, sae)
        self._watch = None if self._gate.always_open else TokenWatch(model, prompt_columns)
        self.last_positions_BL: Bool[Tensor, "B L"] | None = None
        """Where the last forward pass was steered, padding aside; None is everywhere."""
        self._entered: ExitStack | None = None

    def __enter__(self) -> "SteeringRun":
        if self._entered is not None:
            raise RuntimeError("this steering run is active already; make another with steer")
        with ExitStack() as stack:
            if not self.intervention.changes_nothing:
                if self._watch is not None:
                    stack.enter_context(self._watch.watching())
                stack.enter_context(steered_site(self.model, self.site, self))
            self._entered = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        entered, self._entered = self._entered, None
        if entered is not None:
            entered.close()

    def steered_positions(self, h_BLD: Float[Tensor, "B L D"]) -> Bool[Tensor, "B L"] | None:
        """Where this pass is steered, from the residual before any addition; None is everywhere."""
        if self._watch is None:
            return None
        return self._gate.open(h_BLD, self._watch.take()).to(h_BLD.device)

    def change(self, h_BLD: Float[Tensor, "B L D"]) -> Float[Tensor, "..."]:
        """What is added to the residual, from the residual before any addition; [B, L, D] or
        [D]."""
        self.last_positions_BL = positions_BL = self.steered_positions(h_BLD)
        change = self._edit(h_BLD, self._push).to(h_BLD)
        if positions_BL is None:
            return change
        return torch.where(rearrange(positions_BL, "b l -> b l 1"), change, 0.0)


def require_fit(intervention: Intervention, sae: SparseAutoencoder, site: Site) -> None:
    """Raise an InputError unless the autoencoder has the features and fits the site."""
    if sae.config.transcoder:
        raise InputError(
            "a transcoder reads one site and writes another, and steering has one site; give an "
            "autoencoder of the site to be steered"
        )
    require_fits(sae, site=site)
    for feature in intervention.features:
        if feature.index >= sae.config.n_latents:
            raise InputError(
                f"there is no feature {feature.index}; the autoencoder's are 0 to "
                f"{sae.config.n_latents - 1}"
            )


@runtime_checkable
class Steers(Protocol):
    """What changes an activation."""

    def change(self, h_BLD: Float[Tensor, "B L D"]) -> Float[Tensor, "..."]:
        """What is added, from the activation before anything is added to it; it is broadcast."""
        ...


@contextmanager
def steered_site(model: LanguageModel, site: Site, steers: Steers) -> Generator[None]:
    """Within the context, a site of the model is changed. Contexts nest: what is added at one site
    adds up, and each sees the activation before any of it."""
    sites = _STEERED.setdefault(model.network.model, {})
    if site.name not in sites:
        sites[site.name] = _SteeredSite(site)
    shared = sites[site.name]
    shared.add(steers)
    try:
        yield
    finally:
        if shared.remove(steers):
            del sites[site.name]


_STEERED: WeakKeyDictionary[nn.Module, dict[str, "_SteeredSite"]] = WeakKeyDictionary()
"""What steers each site of a model of transformers now, by the site's name."""


class _SteeredSite:
    """All that steers one site of one model now; it shares one hook."""

    def __init__(self, site: Site) -> None:
        self._steering: list[Steers] = []
        self._writing: AbstractContextManager[None] = site.write(self._edit)

    def add(self, steers: Steers) -> None:
        if not self._steering:
            self._writing.__enter__()
        self._steering.append(steers)

    def remove(self, steers: Steers) -> bool:
        """Take it away; whether nothing is left."""
        self._steering.remove(steers)
        if not self._steering:
            self._writing.__exit__(None, None, None)
        return not self._steering

    def _edit(self, h_BLD: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        steered_BLD = h_BLD
        for steers in self._steering:
            steered_BLD = steered_BLD + steers.change(h_BLD)
        return steered_BLD
