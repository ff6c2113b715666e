"""An intervention at work: its hooks on the model, and which rows are switched on so far."""

from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
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
        _require_fit(intervention, sae, self.site)
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
                _SteeredSite.add(self)
                stack.callback(_SteeredSite.remove, self)
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
        """What is added to the residual where it is steered, from the residual before any addition;
        [B, L, D] or [D]."""
        return self._edit(h_BLD, self._push).to(h_BLD)


def _require_fit(intervention: Intervention, sae: SparseAutoencoder, site: Site) -> None:
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


_STEERED: WeakKeyDictionary[nn.Module, dict[str, "_SteeredSite"]] = WeakKeyDictionary()
"""What steers each site of a model of transformers now, by the site's name."""


class _SteeredSite:
    """The runs that steer one site of one model now; they share one hook, so their changes add up
    while every gate still sees the residual without them."""

    def __init__(self, site: Site) -> None:
        self._runs: list[SteeringRun] = []
        self._writing: AbstractContextManager[None] = site.write(self._edit)

    @classmethod
    def add(cls, run: SteeringRun) -> None:
        sites = _STEERED.setdefault(run.model.network.model, {})
        if run.site.name not in sites:
            sites[run.site.name] = steered = cls(run.site)
            steered._writing.__enter__()
        sites[run.site.name]._runs.append(run)

    @classmethod
    def remove(cls, run: SteeringRun) -> None:
        sites = _STEERED[run.model.network.model]
        steered = sites[run.site.name]
        steered._runs.remove(run)
        if not steered._runs:
            del sites[run.site.name]
            steered._writing.__exit__(None, None, None)

    def _edit(self, h_BLD: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        steered_BLD = h_BLD
        for run in self._runs:
            run.last_positions_BL = positions_BL = run.steered_positions(h_BLD)
            changed_BLD = steered_BLD + run.change(h_BLD)
            if positions_BL is None:
                steered_BLD = changed_BLD
            else:
                on_BL1 = rearrange(positions_BL, "b l -> b l 1")
                steered_BLD = torch.where(on_BL1, changed_BLD, steered_BLD)
        return steered_BLD
