"""What TransformerLens 4.3's own attention needs to work with a key-value cache and in float64.

transformers 5.24 renamed the argument `past_key_values` to `cache`. The bridge's attention knows
the old name only: it would leave the cache empty without a word, and every generated token would be
attended from itself alone.

Its softmax is taken in float32 whatever the dtype. The smallest float64, which masks positions,
becomes minus infinity there, so that a padded query, which sees nothing, gives NaN to all layers.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import DynamicCache


def repair_attention(bridge: TransformerBridge) -> None:
    """Let each attention find the cache under either name, and take its softmax in float64 there.

    Nothing else changes: in other dtypes a pass without a cache is the same bit for bit.
    """
    modules: Any = bridge.modules()
    for module in modules:
        for name, wrap in (("_update_kv_cache", _with_cache), ("_masked_softmax", _in_own_dtype)):
            if hasattr(module, name):
                setattr(module, name, wrap(getattr(module, name)))


def new_cache(bridge: TransformerBridge) -> tuple[str, Any]:
    """An empty key-value cache, and the name of the model's argument that takes it."""
    model: Any = bridge.original_model
    parameters = inspect.signature(model.forward).parameters
    name = "cache" if "cache" in parameters else "past_key_values"
    return name, DynamicCache(config=model.config)


def cached_positions(cache: Any) -> int:
    """How many positions a cache holds; 0 for None."""
    return 0 if cache is None else int(cache.get_seq_length())


def _with_cache(update: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., Any]:
    def updated(k: Tensor, v: Tensor, **given: Any) -> tuple[Tensor, Tensor]:
        if given.get("cache") is not None:
            given["past_key_values"] = given.pop("cache")
        return update(k, v, **given)

    return updated


def _in_own_dtype(softmax: Callable[..., Tensor]) -> Callable[..., Any]:
    def masked_softmax(scores: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        return softmax(scores, torch.float64 if scores.dtype == torch.float64 else dtype)

    return masked_softmax
