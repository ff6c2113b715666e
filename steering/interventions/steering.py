"""An intervention at work: its hooks on the model, and which rows are switched on so far."""

import inspect
from collections.abc import Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import TracebackType
from typing import Any, ClassVar, NamedTuple
from weakref import WeakKeyDictionary

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ...kernels.numerics import at_least_float32
from ...sae.autoencoder import SparseAutoencoder
from ...sae.common.errors import InputError
from ...sae.language_model.bridge_layers import cached_positions
from ...sae.language_model.model import LanguageModel
from ...sae.language_model.sites import Site
from .gate import Gate
from .intervention import Intervention


def steer(
    model: LanguageModel,
    sae: SparseAutoencoder,
    intervention: Intervention,
    *,
    prompt_columns: int | None = None,
) -> "SteeringRun":
    """Steer the model inside a `with` block; leaving it restores the model bit for bit.

    Inside, every forward pass without a cache starts new texts, and a pass that goes on from the
    cache of the last one continues them, each row on its own. Interventions nest: at one site their
    changes add up, and every gate reads the residual before any of them.

    Args:
        model: the language model.
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
        self.site = model.site(intervention.site)
        _require_fit(intervention, sae, self.site)
        self.delta_D = change(intervention, sae)
        self._watch = None
        if intervention.tier != "constant":
            latents = [feature.index for feature in intervention.features]
            thresholds = [
                intervention.threshold * feature.max_activation for feature in intervention.features
            ]
            self._gate = Gate(sae, latents, thresholds)
            self._watch = _TokenWatch(model, prompt_columns)
        self._on_B: Tensor | None = None
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
        seen = self._watch.take()
        fires_BL = torch.zeros_like(seen.content_BL)
        fires_BL[seen.content_BL] = self._gate.fires(h_BLD[seen.content_BL.to(h_BLD.device)]).to(
            fires_BL.device
        )
        if self.intervention.tier == "per_input":
            fires_BL = self._switched_on(fires_BL, seen)
        return fires_BL.to(h_BLD.device)

    def _switched_on(self, fires_BL: Bool[Tensor, "B L"], seen: "_Pass") -> Bool[Tensor, "B L"]:
        """A prompt token switches its whole row on; a later one what follows it, itself included.

        Positions of earlier passes are never revisited: what the cache holds of them stands.
        """
        on_BL = fires_BL.cummax(dim=1).values
        on_BL[:, : seen.n_prompt] = fires_BL[:, : seen.n_prompt].any(dim=1, keepdim=True)
        if seen.continues and self._on_B is not None:
            on_BL |= rearrange(self._on_B, "b -> b 1")
        self._on_B = on_BL[:, -1]
        return on_BL


def change(intervention: Intervention, sae: SparseAutoencoder) -> Float[Tensor, "D"]:
    """What an intervention adds to a raw activation: sum of amount * W_dec[index] / input_scale."""
    latents = [feature.index for feature in intervention.features]
    directions_PD = sae.W_dec.detach()[latents]
    dtype = at_least_float32(directions_PD.dtype)
    amounts = [feature.amount for feature in intervention.features]
    amounts_P = torch.tensor(amounts, dtype=dtype, device=directions_PD.device)
    return amounts_P @ directions_PD.to(dtype) / sae.input_scale.to(dtype)


def _require_fit(intervention: Intervention, sae: SparseAutoencoder, site: Site) -> None:
    if sae.config.transcoder:
        raise InputError(
            "a transcoder reads one site and writes another, and steering has one site; give an "
            "autoencoder of the site to be steered"
        )
    if sae.config.d_model != site.width:
        raise InputError(
            f"the autoencoder reads activations of width {sae.config.d_model}, but {site.name} of "
            f"{site.model.name} has width {site.width}; give the model it was trained on"
        )
    for feature in intervention.features:
        if feature.index >= sae.config.n_latents:
            raise InputError(
                f"there is no feature {feature.index}; the autoencoder's are 0 to "
                f"{sae.config.n_latents - 1}"
            )


class _SteeredSite:
    """The runs that steer one site of one model now; they share one hook, so their changes add up
    while every gate still sees the residual without them."""

    _all: ClassVar[WeakKeyDictionary[nn.Module, dict[str, "_SteeredSite"]]] = WeakKeyDictionary()

    def __init__(self, site: Site) -> None:
        self._runs: list[SteeringRun] = []
        self._writing: AbstractContextManager[None] = site.write(self._edit)

    @classmethod
    def add(cls, run: SteeringRun) -> None:
        sites = cls._all.setdefault(run.site.model.bridge, {})
        if run.site.name not in sites:
            steered = cls(run.site)
            steered._writing.__enter__()
            sites[run.site.name] = steered
        sites[run.site.name]._runs.append(run)

    @classmethod
    def remove(cls, run: SteeringRun) -> None:
        sites = cls._all[run.site.model.bridge]
        steered = sites[run.site.name]
        steered._runs.remove(run)
        if not steered._runs:
            del sites[run.site.name]
            steered._writing.__exit__(None, None, None)

    def _edit(self, h_BLD: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        steered_BLD = h_BLD
        for run in self._runs:
            run.last_positions_BL = positions_BL = run.steered_positions(h_BLD)
            changed_BLD = steered_BLD + run.delta_D.to(h_BLD)
            if positions_BL is None:
                steered_BLD = changed_BLD
            else:
                on_BL1 = rearrange(positions_BL, "b l -> b l 1")
                steered_BLD = torch.where(on_BL1, changed_BLD, steered_BLD)
        return steered_BLD


class _Pass(NamedTuple):
    """What a gate must know of a forward pass of L columns."""

    content_BL: Bool[Tensor, "B L"]
    """False at padding, special tokens and each text's first token."""
    n_prompt: int
    """The first so many columns belong to the prompt."""
    continues: bool
    """Whether the texts began in earlier passes."""


class _TokenWatch:
    """Sees the tokens, mask and cache that the language model, or its body alone, is called with.

    A model need not call its body as a whole: OPT's calls the decoder inside.
    """

    def __init__(self, model: LanguageModel, prompt_columns: int | None) -> None:
        self._model = model
        self._prompt_columns = prompt_columns
        self._tokens_BT: Int[Tensor, "B T"] | None = None
        self._now: _Pass | None = None
        self._inside = False
        """Whether the model as a whole is running."""

    @contextmanager
    def watching(self) -> Generator[None]:
        """Within the context, forward passes are seen."""
        whole: Any = self._model.bridge.original_model
        body: Any = whole.base_model
        handles: list[RemovableHandle] = [
            whole.register_forward_pre_hook(self._begin, with_kwargs=True),
            whole.register_forward_hook(self._end, always_call=True),
            body.register_forward_pre_hook(self._see, with_kwargs=True),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _begin(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._see(model, args, kwargs)
        self._inside = True

    def _end(self, model: nn.Module, args: tuple[Any, ...], output: object) -> None:
        self._inside = False

    def take(self) -> _Pass:
        """What is known of the pass that is running."""
        if self._now is None:
            raise RuntimeError("the site was reached by a forward pass that began elsewhere")
        now, self._now = self._now, None
        return now

    def _see(self, body: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._inside:
            return
        given = inspect.signature(body.forward).bind_partial(*args, **kwargs).arguments
        given |= given.get("kwargs", {})
        tokens_BL, mask = given.get("input_ids"), given.get("attention_mask")
        if tokens_BL is None:
            raise ValueError("a gated tier needs the tokens; call the model with input_ids")
        n_given = 0 if self._tokens_BT is None else self._tokens_BT.shape[1]
        if mask is not None:
            n_given = mask.shape[1] - tokens_BL.shape[1]
        n_past = cached_positions(given.get("cache", given.get("past_key_values")), n_given)
        tokens_BT = self._continued(tokens_BL, n_past)
        if mask is None:
            mask = torch.ones_like(tokens_BT)
        if mask.shape != tokens_BT.shape:
            raise ValueError(
                f"attention_mask has shape {list(mask.shape)}; a gated tier needs that of all "
                f"tokens so far, {list(tokens_BT.shape)}"
            )
        self._tokens_BT = tokens_BT
        content_BT = ~self._model.excluded_tokens(tokens_BT, mask.bool())
        n_prompt = 0 if n_past else tokens_BT.shape[1]
        if self._prompt_columns is not None:
            n_prompt = min(n_prompt, self._prompt_columns)
        self._now = _Pass(content_BT[:, n_past:], n_prompt, continues=n_past > 0)

    def _continued(self, tokens_BL: Int[Tensor, "B L"], n_past: int) -> Int[Tensor, "B T"]:
        if n_past == 0:
            return tokens_BL
        before = self._tokens_BT
        if before is None or before.shape != (len(tokens_BL), n_past):
            raise ValueError(
                f"the cache holds {n_past} positions that this steering run has not seen; begin "
                "the texts inside its with block"
            )
        return torch.cat([before, tokens_BL], dim=1)
