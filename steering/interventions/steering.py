"""An intervention at work: its hooks on the model, and where its gates are open so far."""

from collections.abc import Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import TracebackType
from typing import Protocol, runtime_checkable
from weakref import WeakKeyDictionary

from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from ...sae.language_model.model import LanguageModel
from ...sae.language_model.sites import Site
from .autoencoders import Autoencoders
from .intervention import Intervention
from .prepared import OpenAt, PreparedIntervention
from .token_watch import SeenTokens, TokenWatch


def steer(
    model: LanguageModel | PreTrainedModel,
    sae: Autoencoders | None,
    intervention: Intervention,
    *,
    prompt_columns: int | None = None,
) -> "SteeringRun":
    """Steer the model inside a `with` block; leaving it restores the model bit for bit.

    A model of transformers is steered as it is, and so is its `generate`, with or without a cache,
    for one prompt or a batch padded on the left, greedy or sampled. Beam search, which exchanges
    rows between passes, works with the gate `constant` at all positions only.

    Inside, every forward pass without a cache starts new texts, and a pass that goes on from the
    cache of the last one continues them, each row on its own. Interventions nest: at one site their
    changes add up, and every edit and gate reads the residual before any of them.

    Args:
        model: the language model; one of transformers is taken as by
            `LanguageModel.from_transformers` without a tokenizer.
        sae: the autoencoder whose latents the features are, or by their names that of each site at
            which there are features; None where there are none.
        intervention: what is steered, where and when.
        prompt_columns: columns of a text that count as prompt, padding included; None means all
            that the first pass of a text is given. Only generation without a cache, which gives
            the whole text anew for each token, needs it.

    Returns:
        The run, a context manager; it may be entered again to go on with the same texts.

    Raises:
        InputError: the model has no such site, the autoencoder or a vector has another width, it
            has no such feature, or an edit or gate lacks what it needs.
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
        sae: Autoencoders | None,
        *,
        prompt_columns: int | None = None,
    ) -> None:
        """See `steer`."""
        self.intervention = intervention
        self.model = model
        self._prepared = prepared = PreparedIntervention.of(intervention, model, sae)
        self._gates = [gate.begin() for gate in prepared.gates]
        self._watch = TokenWatch(model, prompt_columns) if prepared.looks_at_tokens else None
        self._seen: SeenTokens | None = None
        self._opened: dict[int, OpenAt] = {}
        self._entered: ExitStack | None = None

    def __enter__(self) -> "SteeringRun":
        if self._entered is not None:
            raise RuntimeError("this steering run is active already; make another with steer")
        with ExitStack() as stack:
            if not self.intervention.changes_nothing:
                if self._watch is not None:
                    stack.enter_context(self._watch.watching())
                for site in self._prepared.sites:
                    stack.enter_context(steered_site(self.model, site, _RunAtSite(self, site)))
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

    def change_at(self, site: Site, h_BLD: Float[Tensor, "B L D"]) -> Float[Tensor, "..."] | None:
        """What is added to the activations of a site, from those before any addition: [B, L, D] or
        [D]; None where its gates alone read."""
        prepared = self._prepared
        if site.name == prepared.sites[0].name:  # A pass begins.
            self._seen = None if self._watch is None else self._watch.take()
            self._opened = {}
        for number, (gate, rule) in enumerate(zip(prepared.gates, self._gates, strict=True)):
            if gate.always_open:
                self._opened[number] = prepared.open_at(None, self._seen)
            elif gate.site.name == site.name:
                assert self._seen is not None  # there is a watch, since it looks at tokens
                opened = rule.open(h_BLD, self._seen)
                self._opened[number] = prepared.open_at(opened, self._seen)
        if site.name not in prepared.edits:
            return None
        return prepared.change(site.name, h_BLD, self._opened)


class _RunAtSite:
    """What a run does at one of its sites."""

    def __init__(self, run: SteeringRun, site: Site) -> None:
        self._run, self._site = run, site

    def change(self, h_BLD: Float[Tensor, "B L D"]) -> Float[Tensor, "..."] | None:
        return self._run.change_at(self._site, h_BLD)


@runtime_checkable
class Steers(Protocol):
    """What changes an activation."""

    def change(self, h_BLD: Float[Tensor, "B L D"]) -> Float[Tensor, "..."] | None:
        """What is added, from the activation before anything is added to it; it is broadcast.
        None adds nothing."""
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
            if (change := steers.change(h_BLD)) is not None:
                steered_BLD = steered_BLD + change
        return steered_BLD
