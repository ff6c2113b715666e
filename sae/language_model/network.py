"""A causal language model that runs and can be hooked, whatever hooks it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

SiteHook = Callable[[Tensor], Tensor | None]
"""Called with an activation; what it returns replaces the activation, None leaves it."""

_being_asked: ContextVar[bool] = ContextVar("being_asked", default=False)


def is_being_asked() -> bool:
    """Whether a model is being asked something with a few tokens; the hooks of sites and of
    interventions leave such a pass alone."""
    return _being_asked.get()


class Network(ABC):
    """What runs a causal language model, and where its activations can be read and replaced.

    There are two: TransformerLens' bridge, and the model of transformers alone. Their sites have
    the same names and the same activations.
    """

    model: PreTrainedModel
    """The model of transformers that computes."""
    n_layers: int
    """Number of decoder layers."""
    d_model: int
    """Width of the residual stream."""
    n_vocab: int
    """V, number of logits."""
    max_context: int
    """Longest context, in tokens."""
    device: torch.device
    """Where tokens are to be, and logits are."""
    head: Callable[[Tensor], Tensor]
    """The module that makes logits of the last layer's normalized output, row by row."""

    @property
    @abstractmethod
    def site_names(self) -> list[str]:
        """The sites there are, layer by layer and in the order of computation."""

    def has(self, site: str) -> bool:
        """Whether there is a site of that name."""
        return site in self.site_names

    @abstractmethod
    def hooked(self, site: str, function: SiteHook) -> AbstractContextManager[None]:
        """Within the context, `function` is called with the activation at a site, in every pass."""

    @abstractmethod
    def head_hooked(self, function: Callable[[Tensor], Tensor]) -> AbstractContextManager[None]:
        """Within the context, the head reads `function` of what it would read."""

    @abstractmethod
    def __call__(
        self,
        tokens: Int[Tensor, "B L"],
        attention_mask: Int[Tensor, "B T"] | None = None,
        **given: Any,
    ) -> Float[Tensor, "..."]:
        """The logits of one forward pass, of L positions or as few as `logits_to_keep` says.

        Positions follow the mask. Tokens may continue a cache, whose columns the mask has, too.
        """

    def few_positions(self, given: Mapping[str, Any]) -> AbstractContextManager[None]:
        """Within the context, the head reads a copy where a pass gives the logits of few positions.

        Of a batch of last positions, which do not lie side by side in memory, PyTorch's `linear`
        would multiply a copy of the head's weights for each row.
        """
        return self.head_hooked(Tensor.contiguous) if "logits_to_keep" in given else nullcontext()

    @contextmanager
    def asked(self) -> Generator[None]:
        """Within the context, passes only ask how the model is: no hook changes or notes them."""
        token = _being_asked.set(True)
        try:
            yield
        finally:
            _being_asked.reset(token)


def sorted_sites(kinds_of_layers: dict[int, set[str]]) -> list[str]:
    """The names of sites, given by layer and kind, in the order of computation."""
    return [
        f"blocks.{layer}.hook_{kind}"
        for layer in sorted(kinds_of_layers)
        for kind in SITE_KINDS
        if kind in kinds_of_layers[layer]
    ]


SITE_KINDS = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
"""The kinds of sites, in the order of computation."""
