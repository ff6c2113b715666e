"""What a language model takes on a GPU while it is read, counted from its sizes."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from .gpus import Gpu

_ROWS_IN_BLOCK = 20
"""Rows of the residual stream's width that a block's intermediate results are counted as, those of
an MLP of four times the width included; transformers keeps no gradients."""


class ModelSizes(NamedTuple):
    """What the cost of reading a language model depends on."""

    n_weights: int
    """Of the whole model, which lies on the GPU."""
    n_used: int
    """Of the blocks up to the last site: what multiplies each token."""
    n_blocks: int
    """Blocks up to the last site."""
    d_model: int


def model_sizes(model: nn.Module, layers: Sequence[int], n_layers: int, d_model: int) -> ModelSizes:
    """The sizes of a model of so many blocks that is read at blocks of these numbers, from 0."""
    n_blocks = max(layers) + 1
    n_weights = _n_weights(model)
    stacks = (one for one in model.modules() if isinstance(one, nn.ModuleList))
    blocks = next((stack for stack in stacks if len(stack) == n_layers), None)
    if blocks is None:  # an unusual model: all its weights count as those of blocks
        n_used = n_weights * n_blocks // n_layers
    else:
        n_used = sum(map(_n_weights, blocks[:n_blocks]))
    return ModelSizes(n_weights, n_used, n_blocks, d_model)


def _n_weights(module: nn.Module) -> int:
    return sum(weights.numel() for weights in module.parameters())


def reading_bytes(
    sizes: ModelSizes, dtype: torch.dtype, *, contexts: int, context_length: int, n_sites: int
) -> int:
    """The most memory on a GPU while a batch of contexts is read, PyTorch's own beside it."""
    rows = contexts * context_length * sizes.d_model
    # Of each site the activations, in float32, and as they are stored, of two passes.
    per_site = 2 * (dtype.itemsize + 4 + 2)
    at_once = _ROWS_IN_BLOCK * dtype.itemsize + n_sites * per_site
    return sizes.n_weights * dtype.itemsize + rows * at_once


def least_reading_seconds(
    sizes: ModelSizes, dtype: torch.dtype, gpu: Gpu, *, tokens: int, context_length: int
) -> float:
    """The time that so many tokens take at least: products of the blocks and of attention at the
    GPU's published ceiling, in float64 at that of float32. Raises InputError if the GPU has no
    products of the dtype."""
    name = str(dtype).removeprefix("torch.") if dtype.itemsize == 2 else "float32"
    attention = 4 * sizes.n_blocks * sizes.d_model * context_length / 2  # causal
    operations = 2 * sizes.n_used + attention
    return tokens * operations / gpu.operations(name, setting="model_dtype")
