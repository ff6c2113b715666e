"""A step in bfloat16: products of rounded rows and weights, while the weights stay as they are.

The rounded weights are leaves of a graph of their own, so that where Triton runs the engine takes
their gradients in float32, as the kernels sum them, and rounds none; a node of the outer graph
hands them on to the parameters.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar, cast

import torch
from jaxtyping import BFloat16, Float
from torch import Tensor, nn

from ..kernels.sparse_products import gradient_dtype
from ..sae.autoencoder import SparseAutoencoder

T = TypeVar("T")

ROUNDED = ("W_enc", "b_enc", "W_dec")
"""The parameters that bfloat16 training rounds."""

Rows = BFloat16[Tensor, "B D"]


class _Copy(NamedTuple):
    rounded: Tensor
    weights: Tensor
    """What was rounded; held, so that no other tensor gets its address."""
    version: int
    """How often they had been changed in place."""

    def is_of(self, weights: Tensor) -> bool:
        same_memory = self.weights.data_ptr() == weights.data_ptr()
        return same_memory and self.version == _version(weights)


class RoundedWeights:
    """The bfloat16 copies of weights, which an optimizer can write together with these.

    A copy is used only by the first step after an optimizer wrote it, and only if PyTorch counts no
    change of the weights in place since, such as `load_state_dict` or an edit under
    `torch.no_grad()`. Edits through `.data` are not counted: they miss one step. All other steps
    round the weights anew.
    """

    def __init__(self) -> None:
        self._copies: dict[str, _Copy] = {}
        self._written: set[str] = set()

    def of(self, name: str, weights: Float[Tensor, "..."]) -> BFloat16[Tensor, "..."]:
        """The weights in bfloat16, detached."""
        written = name in self._written
        self._written.discard(name)
        copy = self._copies.get(name)
        if copy is None or not (written and copy.is_of(weights)):
            copy = _copy(weights.detach().to(torch.bfloat16), weights)
            self._copies[name] = copy
        return copy.rounded

    def buffer(self, name: str, weights: Float[Tensor, "..."]) -> BFloat16[Tensor, "..."] | None:
        """The copy, for an optimizer to write together with the weights and to call `written` then;
        None where there is none of the weights as they are."""
        copy = self._copies.get(name)
        return copy.rounded if copy is not None and copy.is_of(weights) else None

    def are_written(self, parameters: Mapping[str, Tensor]) -> bool:
        """Whether the next step takes every copy of parameters, given by name, as an optimizer
        wrote it, and rounds none anew."""
        found = {name: self._copies.get(name) for name in ROUNDED}
        return all(
            name in self._written and copy is not None and copy.is_of(parameters[name])
            for name, copy in found.items()
        )

    def copies(self) -> list[BFloat16[Tensor, "..."]]:
        """All copies there are."""
        return [copy.rounded for copy in self._copies.values()]

    def written(self, name: str, weights: Float[Tensor, "..."]) -> None:
        """Take the buffer for the new weights' copy, as long as these are not changed again."""
        rounded = self._copies[name].rounded
        # A graph that still needs the copy from before the step now refuses to be run backward.
        torch.autograd.graph.increment_version(rounded)
        self._copies[name] = _copy(rounded, weights)
        self._written.add(name)


def _copy(rounded: Tensor, weights: Tensor) -> _Copy:
    return _Copy(rounded, weights.detach(), _version(weights))


def _version(tensor: Tensor) -> int:
    return tensor._version  # pyright: ignore[reportPrivateUsage] - documented


def in_bfloat16(
    sae: SparseAutoencoder,
    scaled_BD: Float[Tensor, "B D"],
    target_BD: Float[Tensor, "B D"],
    compute: Callable[[SparseAutoencoder, Rows, Rows], tuple[Float[Tensor, ""], T]],
    rounded: RoundedWeights | None = None,
) -> tuple[Float[Tensor, ""], T]:
    """What `compute` makes of the autoencoder, the rows and their target rounded to bfloat16: a
    loss, and what belongs to it.

    The loss alone is differentiable with respect to the parameters, once, with gradients in their
    own dtype. The encoder's center is subtracted from the rows and b_dec from the target before
    they are rounded, and the autoencoder given has zeros in their place, which carry the gradient:
    a row may have entries far from 0 that hardly vary, whose rounding would outweigh what they
    tell. An activation's own parameters stay as they are, too.

    Args:
        sae: its parameters are exchanged until `compute` returns.
        scaled_BD: [B, D] rows in scaled units.
        target_BD: [B, D] what a transcoder predicts from them; of an autoencoder the rows.
        compute: takes the autoencoder, the rows less its center, and the target less b_dec.
        rounded: where copies of the weights may be found; they are made if it is None.
    """
    rounded = rounded or RoundedWeights()
    parameters: dict[str, Tensor] = dict(sae.named_parameters())
    exchanged = {f"sae.{name}": _leaf(rounded.of(name, parameters[name])) for name in ROUNDED}
    b_dec = sae.b_dec.detach()
    exchanged["sae.b_dec"] = _leaf((b_dec - b_dec).to(torch.bfloat16))
    rows_BD = rest_BD = (scaled_BD - sae.center.detach()).to(torch.bfloat16)
    if sae.config.transcoder:
        rest_BD = (target_BD - sae.b_dec.detach()).to(torch.bfloat16)
    outcome = torch.func.functional_call(_Holder(sae), exchanged, (compute, rows_BD, rest_BD))
    loss, rest = cast(tuple[Tensor, T], outcome)
    if not loss.requires_grad:
        return loss, rest
    trained = {name: weights for name, weights in parameters.items() if weights.requires_grad}
    leaves = [exchanged.get(f"sae.{name}", weights) for name, weights in trained.items()]
    outer = _HandOn.apply(_InnerGraph(loss, leaves), *trained.values())  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - autograd.Function is untyped
    return cast(Tensor, outer), rest


def _leaf(rounded: Tensor) -> Tensor:
    leaf = rounded.detach().requires_grad_()
    leaf.grad_dtype = gradient_dtype(leaf)
    return leaf


class _InnerGraph(NamedTuple):
    loss: Tensor
    leaves: Sequence[Tensor]


class _HandOn(torch.autograd.Function):
    """The loss of a graph, whose leaves' gradients are those of the parameters."""

    @staticmethod
    def forward(ctx: Any, inner: _InnerGraph, *parameters: Tensor) -> Tensor:
        ctx.inner = inner
        return inner.loss.detach().clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator drops names
        ctx: Any, grad_loss: Tensor
    ) -> tuple[Tensor | None, ...]:
        loss, leaves = ctx.inner
        # The engine casts them to the parameters' dtype, where they do not have it.
        gradients = torch.autograd.grad(loss, leaves, grad_loss, allow_unused=True)  # pyright: ignore[reportUnknownVariableType] - not all of it is typed
        return None, *cast(tuple[Tensor | None, ...], gradients)


class _Holder(nn.Module):
    """`functional_call` exchanges parameters for the time of a module's forward alone."""

    def __init__(self, sae: SparseAutoencoder) -> None:
        super().__init__()
        self.sae = sae

    def forward(
        self,
        compute: Callable[[SparseAutoencoder, Rows, Rows], tuple[Float[Tensor, ""], T]],
        rows_BD: Tensor,
        rest_BD: Tensor,
    ) -> tuple[Float[Tensor, ""], T]:
        return compute(self.sae, rows_BD, rest_BD)
