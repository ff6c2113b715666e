"""A place in a language model where activations are read and written."""

import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .network import Network

Edit = Callable[[Float[Tensor, "B L D"]], Float[Tensor, "B L D"]]
"""From the activation at a site to the one that the model goes on with."""


@runtime_checkable
class HookedModel(Protocol):
    """What a site needs of the language model that it belongs to."""

    name: str
    """What the user calls the model."""
    d_model: int
    """Width of the residual stream."""
    network: Network
    """What runs and is hooked."""

    def run(
        self, tokens: Int[Tensor, "B L"], attention_mask: Bool[Tensor, "B L"] | None = None
    ) -> Float[Tensor, "..."]:
        """One forward pass, in which hooks fire."""
        ...


@dataclass(frozen=True)
class Site:
    """One place in a language model, made by `LanguageModel.site`.

    Sites are the residual stream before, inside and after each block and what attention and MLP add
    to it, named as in TransformerLens (`blocks.15.hook_resid_post`).
    """

    name: str
    """TransformerLens' name of the place."""
    model: HookedModel
    """The model it belongs to."""

    @property
    def layer(self) -> int:
        """Index of the block, from 0."""
        return int(self.name.split(".")[1])

    @property
    def width(self) -> int:
        """Width of the activation."""
        return self.model.d_model

    def read(
        self, tokens: Int[Tensor, "B L"], attention_mask: Bool[Tensor, "B L"] | None = None
    ) -> Float[Tensor, "B L D"]:
        """The activations of a batch; the model runs up to the site and no further.

        Rows may be padded on either side; what lies at padding has no meaning. Within `write`, the
        edited activation is read. No gradients are kept.

        Raises InputError if the rows are longer than the model's context.
        """
        return read_sites(self.model, [self], tokens, attention_mask)[self.name]

    @contextmanager
    def write(self, edit: Edit) -> Generator[None]:
        """Within the context, the model goes on with `edit` of the activation at the site.

        It applies in every forward pass and every step of generation; with a key-value cache a step
        sees the new positions only, L = 1. Contexts nest, and the outer edit is applied first.
        Leaving the context, by whatever way, restores the model exactly. `edit` must keep shape and
        dtype, else the forward pass raises ValueError.
        """
        # What a layer goes on with behind attention is not given from module to module: it stays
        # in a variable of the layer, and only a copy in place reaches that, too.
        in_place = self.name.endswith("resid_mid")

        def apply(acts_BLD: Tensor) -> Tensor:
            edited_BLD = edit(acts_BLD)
            if edited_BLD.shape != acts_BLD.shape or edited_BLD.dtype != acts_BLD.dtype:
                raise ValueError(
                    f"the edit at {self.name} made {edited_BLD.dtype} {list(edited_BLD.shape)} of "
                    f"{acts_BLD.dtype} {list(acts_BLD.shape)}; shape and dtype must stay"
                )
            return acts_BLD.copy_(edited_BLD) if in_place else edited_BLD

        with self.model.network.hooked(self.name, apply):
            yield


@torch.no_grad()
def read_sites(
    model: HookedModel,
    sites: Sequence[Site],
    tokens: Int[Tensor, "B L"],
    attention_mask: Bool[Tensor, "B L"] | None = None,
) -> dict[str, Float[Tensor, "B L D"]]:
    """The activations of several sites by name, from one forward pass that ends at the last one.

    See `Site.read`. Raises InputError if the rows are longer than the model's context.
    """
    found: dict[str, Tensor] = {}
    wanted = {site.name: site for site in sites}
    reader = threading.get_ident()

    def capture(name: str) -> Callable[..., None]:
        def hook(acts_BLD: Tensor) -> None:
            if threading.get_ident() != reader:  # A pass of somebody else, who is to go on.
                return
            if len(found.keys() | {name}) == len(wanted):
                found[name] = acts_BLD
                raise _Stop
            found[name] = acts_BLD.clone()  # to which the layer might add in place

        return hook

    with ExitStack() as stack:
        for name in wanted:
            stack.enter_context(model.network.hooked(name, capture(name)))
        try:
            model.run(tokens, attention_mask)
        except _Stop:
            return found
    raise RuntimeError(f"the model passed by {sorted(wanted.keys() - found.keys())}")


class _Stop(Exception):
    """Ends a forward pass when everything wanted has been read."""
