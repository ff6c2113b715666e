"""The cache of keys, values and states with which a model of transformers reads a text in steps."""

import inspect
from typing import Any

from transformers import DynamicCache, PreTrainedModel


def new_cache(model: PreTrainedModel) -> tuple[str, Any]:
    """An empty cache of keys, values and states, and the model's argument that takes it."""
    network: Any = model
    parameters = inspect.signature(network.forward).parameters
    name = "cache" if "cache" in parameters else "past_key_values"
    return name, DynamicCache(config=network.config)


def cached_positions(cache: Any, given: int) -> int:
    """How many positions a cache holds; 0 for None.

    A cache of states alone has no length: it holds all that were `given`, or none yet.
    """
    if cache is None:
        return 0
    if any(hasattr(layer, "get_seq_length") for layer in cache.layers) or not cache.layers:
        return int(cache.get_seq_length())
    return given if cache.has_previous_state() else 0
