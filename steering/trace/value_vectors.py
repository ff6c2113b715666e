"""The value vectors of a model's MLPs: what each neuron writes to the residual stream.

An MLP writes the sum of its neurons' activations, each times its value vector, a column of the down
projection (Geva et al., Transformer Feed-Forward Layers Are Key-Value Memories, EMNLP 2021). Some
of them write a concept's words; those are what ConceptVectors (arXiv 2406.11614) calls concept
vectors.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ...kernels.numerics import at_least_float32, row_norms
from ...sae.common.errors import InputError
from ...sae.language_model.model import LanguageModel
from ...sae.language_model.places import decoder_layers


@dataclass(frozen=True, eq=False)
class DownProjection:
    """The module with which an MLP writes to the residual stream."""

    layer: int
    module: nn.Module
    """Its input has the activations of the layer's neurons, [..., F]."""

    @property
    def rows_FD(self) -> Float[Tensor, "F D"]:
        """The value vectors, one row for each neuron: a view of the weight, so that what is written
        here is written there."""
        named: Any = self.module
        weight: Tensor = named.weight.detach()
        return weight if isinstance(self.module, Conv1D) else rearrange(weight, "d f -> f d")


@dataclass(frozen=True)
class ValueVector:
    """One neuron, and how near its value vector is to a direction."""

    layer: int
    neuron: int
    cosine: float
    """Of the value vector and the direction to which it is nearest, with its sign."""


def down_projections(model: LanguageModel) -> list[DownProjection]:
    """The down projection of each layer, in order.

    Raises:
        InputError: a layer has none or several, as one of a mixture of experts has, or its weight
            is quantized.
    """
    found: list[DownProjection] = []
    for number, layer in enumerate(decoder_layers(model.network.model)):
        modules = list(_writing(layer, model.d_model))
        if len(modules) != 1:
            raise InputError(
                f"layer {number} of {model.name} has {len(modules)} MLP projections to the "
                "residual stream, but a trace needs one; take a model without a mixture of experts"
            )
        named: Any = modules[0]
        if not named.weight.is_floating_point():
            raise InputError(
                f"the MLP weights of {model.name} are quantized ({named.weight.dtype}), so they "
                "cannot be changed; load the model unquantized"
            )
        found.append(DownProjection(number, modules[0]))
    return found


def _writing(layer: nn.Module, width: int) -> Iterator[nn.Module]:
    """The linear modules of a layer that are no part of attention and make the residual's width of
    a larger one."""
    named: Any = layer
    for name, module in named.named_modules():
        if isinstance(module, nn.Linear | Conv1D) and "att" not in name:
            n_in, n_out = (
                module.weight.shape if isinstance(module, Conv1D) else reversed(module.weight.shape)
            )
            if n_out == width < n_in:
                yield module


def nearest_value_vectors(
    projections: Sequence[DownProjection], directions_KD: Float[Tensor, "K D"], n: int
) -> list[ValueVector]:
    """The n value vectors of all layers with the largest absolute cosine to any of K directions.

    An intervention may push along its direction or against it, so that a vector against it belongs
    to it as well. The nearest comes first.
    """
    found: list[ValueVector] = []
    for each in projections:
        cosines_F = _cosines(each.rows_FD, directions_KD)
        for neuron in cosines_F.abs().topk(min(n, len(cosines_F))).indices:
            found.append(ValueVector(each.layer, int(neuron), float(cosines_F[neuron])))
    return sorted(found, key=lambda vector: -abs(vector.cosine))[:n]


def _cosines(
    rows_FD: Float[Tensor, "F D"], directions_KD: Float[Tensor, "K D"]
) -> Float[Tensor, "F"]:
    """Of each row the cosine with the direction to which it is nearest; 0 for a row of zeros."""
    rows_FD = rows_FD.to(at_least_float32(rows_FD.dtype))
    directions_KD = directions_KD.to(rows_FD)
    unit_KD = directions_KD / row_norms(directions_KD)[:, None]
    norms_F = row_norms(rows_FD)
    cosines_FK = rows_FD @ unit_KD.T / norms_F.clamp(min=torch.finfo(norms_F.dtype).tiny)[:, None]
    nearest_F1 = cosines_FK.abs().argmax(dim=1, keepdim=True)
    return cosines_FK.gather(1, nearest_F1)[:, 0]


def chance_cosine(n_pairs: int, width: int) -> float:
    """About the largest absolute cosine of so many pairs of random directions in so many
    dimensions: sqrt(2 ln(2 n) / D), at most 1."""
    return min(1.0, math.sqrt(2 * math.log(2 * n_pairs) / width))


def drawn_like(
    projections: Sequence[DownProjection], vectors: Sequence[ValueVector], seed: int
) -> list[ValueVector]:
    """Other value vectors drawn at random, in each layer as many as there are of the given ones;
    their cosine is not looked at and 0.

    Raises:
        InputError: a layer has too few others.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn: list[ValueVector] = []
    for each in projections:
        own = {vector.neuron for vector in vectors if vector.layer == each.layer}
        if not own:
            continue
        others = [n for n in range(len(each.rows_FD)) if n not in own]
        if len(others) < len(own):
            raise InputError(
                f"layer {each.layer} has {len(others)} value vectors besides the {len(own)} of the "
                "concept, too few for a control; lower --value-vectors",
                field="value_vectors",
            )
        order = torch.randperm(len(others), generator=generator)[: len(own)]
        drawn += [ValueVector(each.layer, others[int(at)], 0.0) for at in order]
    return drawn
