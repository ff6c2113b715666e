"""A language model of transformers alone, hooked by PyTorch's hooks on its modules."""

import inspect
import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.utilities.position_ids import accepts_mask_derived_position_ids
from transformers import PreTrainedModel

from .network import Network, SiteHook, is_being_asked, sorted_sites
from .places import Place, decoder_layers, find_places, hook_place

_END = re.compile(r"blocks\.(\d+)\.hook_(resid_pre|resid_post)")
_CONTEXT = ("n_positions", "max_position_embeddings", "max_seq_len", "context_length", "seq_length")
_UNLIMITED_CONTEXT = 2048
"""Of a model whose configuration states none."""


class PlainNetwork(Network):
    """The model runs as it is, with its own kind of attention; see `Network`.

    Nothing of it is changed: it has hooks as long as a context lasts, and none otherwise.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        max_context: int | None = None,
        home: torch.device | None = None,
    ) -> None:
        """Take a model, and its longest context unless that is what its configuration states.

        `home` is given of a model that is spread over several devices: where it takes tokens. Its
        activations are there for those who hook it, wherever the layer is.

        Raises InputError where its decoder layers cannot be found.
        """
        network: Any = model
        self.model = model
        self._layers = decoder_layers(model)
        self.n_layers = len(self._layers)
        config = network.config.get_text_config()
        self.d_model = config.hidden_size
        self.max_context = max_context or _stated_context(config)
        self.device = home or network.device
        self.is_spread = home is not None
        head: Any = network.get_output_embeddings()
        self._head: nn.Module = nn.Identity() if head is None else head
        self.head = self._head_at_home if self.is_spread else self._head
        self.n_vocab = config.vocab_size if head is None else len(head.weight)
        self._parameters = frozenset(inspect.signature(network.forward).parameters)

    @property
    def site_names(self) -> list[str]:
        """The input and output of every layer, and what `places` finds in it."""
        kinds: dict[int, set[str]] = {}
        for layer, kind in self._places:
            kinds.setdefault(layer, set()).add(kind)
        return sorted_sites(kinds)

    def has(self, site: str) -> bool:
        """Every layer has an input and an output; for others the model has to be asked."""
        match = _END.fullmatch(site)
        return int(match[1]) < self.n_layers if match else super().has(site)

    @contextmanager
    def hooked(self, site: str, function: SiteHook) -> Generator[None]:
        """By hooks on the module whose input or output the activation is."""
        with _hooked(self._place(site), self._at_home(function)):
            yield

    @contextmanager
    def head_hooked(self, function: Callable[[Tensor], Tensor]) -> Generator[None]:
        """By a hook on the output embedding."""
        with _hooked(Place(self._head, is_input=True), self._at_home(function)):
            yield

    def _head_at_home(self, hidden: Tensor) -> Tensor:
        return self._head(hidden).to(self.device)

    def _at_home(self, function: SiteHook) -> SiteHook:
        """The function of activations that lie on the device of their layer, with those at home."""

        def moving(acts: Tensor) -> Tensor | None:
            here = acts.to(self.device)
            changed = function(here)
            if changed is None:
                return None
            # What was changed in place is so in the layer's own memory, too.
            return acts.copy_(changed) if changed is here else changed.to(acts.device)

        return moving if self.is_spread else function

    def __call__(
        self,
        tokens: Int[Tensor, "B L"],
        attention_mask: Int[Tensor, "B T"] | None = None,
        **given: Any,
    ) -> Float[Tensor, "..."]:
        """Where a row begins with padding, the model is told positions that follow the mask."""
        network: Any = self.model
        if "logits_to_keep" not in self._parameters:
            given.pop("logits_to_keep", None)
        if attention_mask is not None:
            given["attention_mask"] = attention_mask
            if self._takes_positions and bool((attention_mask.diff(dim=1) > 0).any()):
                positions = (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)
                given["position_ids"] = positions[:, -tokens.shape[1] :]
        with self.few_positions(given):
            return network(tokens, **given).logits

    @cached_property
    def _takes_positions(self) -> bool:
        return accepts_mask_derived_position_ids(self.model)

    @cached_property
    def _places(self) -> dict[tuple[int, str], Place]:
        vocabulary = min(self.n_vocab, 1000)
        length = min(7, self.max_context)
        tokens = torch.arange(1, length + 1, device=self.device)[None] * 37 % vocabulary
        with self.asked():
            return find_places(self.model, self._layers, tokens)

    def _place(self, site: str) -> Place:
        if match := _END.fullmatch(site):
            return Place(self._layers[int(match[1])], is_input=match[2] == "resid_pre")
        layer, kind = site.removeprefix("blocks.").split(".hook_")
        return self._places[int(layer), kind]


def _stated_context(config: Any) -> int:
    stated = (getattr(config, name, None) for name in _CONTEXT)
    return next((n for n in stated if isinstance(n, int) and n > 0), _UNLIMITED_CONTEXT)


@contextmanager
def _hooked(place: Place, function: SiteHook) -> Generator[None]:
    remove = hook_place(place, lambda acts: None if is_being_asked() else function(acts))
    try:
        yield
    finally:
        remove()
