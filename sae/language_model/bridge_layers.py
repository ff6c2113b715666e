"""What the layers of TransformerLens 4.3 need to work with a cache, with masks and in float64.

transformers 5.24 renamed the arguments `past_key_values` and `cache_params` to `cache`. The
bridge's layers know the old names only: they would leave the cache empty without a word, and every
generated token would be read as if none stood before it.

A mask of four dimensions is taken for causal as it is, though some models leave that to attention.
Layers that keep a state are given the mask of all positions, though they read the new ones only.

Softmax is taken in float32 whatever the dtype. The smallest float64, which masks positions, becomes
minus infinity there, so that a padded query, which sees nothing, gives NaN to all layers.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.generalized_components.gated_delta_net import (
    GatedDeltaNetBridge,
)
from transformer_lens.model_bridge.generalized_components.mla_attention import MLAAttentionBridge
from transformer_lens.model_bridge.generalized_components.ssm2_mixer import SSM2MixerBridge
from transformer_lens.model_bridge.generalized_components.ssm_mixer import SSMMixerBridge

_SMALLEST = torch.finfo(torch.float32).min


def repair_layers(bridge: TransformerBridge) -> None:
    """Let each layer find the cache under its new name, mask what comes later, and take its softmax
    in float64 there.

    Nothing else changes: in other dtypes a pass without a cache is the same bit for bit.
    """
    wrappers = {
        "_update_kv_cache": _with_cache,
        "_masked_softmax": _in_own_dtype,
        "_apply_reconstruct_attention_mask": _causal,
    }
    modules: Any = bridge.modules()
    for module in modules:
        for name, wrap in wrappers.items():
            if hasattr(module, name):
                setattr(module, name, wrap(getattr(module, name)))
        # An ordinary assignment would go to the layer of transformers that is wrapped.
        if isinstance(module, MLAAttentionBridge):
            vars(module)["forward"] = _with_cache(module.forward)
        if isinstance(module, GatedDeltaNetBridge):
            vars(module)["forward"] = _with_state(module)
        if isinstance(module, SSMMixerBridge | SSM2MixerBridge):
            module.register_forward_pre_hook(_mask_of_new_positions, with_kwargs=True)
    blocks: Any = getattr(bridge, "blocks", ())
    for block in blocks:
        block.register_forward_pre_hook(_mask_in_float32, with_kwargs=True)


def _with_cache(function: Callable[..., Any]) -> Callable[..., Any]:
    def cached(*inputs: Any, **given: Any) -> Any:
        if given.get("cache") is not None:
            given["past_key_values"] = given.pop("cache")
        return function(*inputs, **given)

    return cached


def _with_state(layer: Any) -> Callable[..., Any]:
    """The layer's own forward pass where there is a cache, as the bridge does by its old name."""
    hooked, native = layer.forward, layer._native_forward

    def forward(*inputs: Any, **given: Any) -> Any:
        return (hooked if given.get("cache") is None else native)(*inputs, **given)

    return forward


def _in_own_dtype(softmax: Callable[..., Tensor]) -> Callable[..., Any]:
    def masked_softmax(scores: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        return softmax(scores, torch.float64 if scores.dtype == torch.float64 else dtype)

    return masked_softmax


def _causal(apply: Callable[..., Tensor]) -> Callable[..., Any]:
    """A mask with one row for all queries says nothing of what comes later."""

    def masked(attn_scores: Tensor, attention_mask: Tensor | None, **lengths: Any) -> Tensor:
        if attention_mask is not None and attention_mask.ndim == 4:
            if attention_mask.shape[-2] == 1 < attn_scores.shape[-2]:
                attn_scores = apply(attn_scores, None, **lengths)
        return apply(attn_scores, attention_mask, **lengths)

    return masked


def _mask_of_new_positions(
    mixer: nn.Module, inputs: tuple[Any, ...], given: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Leave the positions before out of a mask: a state has none, and the mask would repeat it."""
    mask = given.get("attention_mask")
    hidden: Tensor = inputs[0] if inputs else given["hidden_states"]
    if mask is not None and mask.ndim == 2:
        given["attention_mask"] = mask[:, -hidden.shape[1] :]
    return inputs, given


def _mask_in_float32(
    block: nn.Module, inputs: tuple[Any, ...], given: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Give a block a float64 mask that float32 can hold."""

    def held(value: Any) -> Any:
        if isinstance(value, Tensor) and value.dtype == torch.float64 and value.ndim == 4:
            return value.clamp(min=_SMALLEST)
        return value

    return tuple(map(held, inputs)), {name: held(value) for name, value in given.items()}
