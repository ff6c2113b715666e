"""The cache of keys, values and states with which a model of transformers reads a text in steps."""

import inspect
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DummyLayer, DynamicLayer, DynamicSlidingWindowLayer


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


def join_caches(cache: Any, other: Any) -> None:
    """Put the rows of another cache of the same model behind those of a cache.

    The one with fewer positions is filled up on the left; what it holds there has to be masked.

    Raises TypeError for a layer of which it is not known how rows are joined. Whatever is raised,
    the cache is then as it was.
    """
    joined: list[tuple[Any, int, int, int]] = []
    try:
        for mine, theirs in zip(cache.layers, other.layers, strict=True):
            _require_rows(mine)
            _require_rows(theirs)
            if (
                mine.keys is None and theirs.keys is None
            ):  # Another layer keeps what this one reads.
                continue
            joined.append((mine, *_join_layer(mine, theirs)))
    except BaseException:
        for layer, n_rows, n_kept, length in joined:
            if isinstance(layer, DynamicSlidingWindowLayer):
                layer.cumulative_length = length
            for name in ("keys", "values"):
                acts = getattr(layer, name)
                setattr(layer, name, acts[:n_rows, :, acts.shape[-2] - n_kept :])
        raise


def _join_layer(mine: Any, theirs: Any) -> tuple[int, int, int]:
    """All of it or, where that fails, nothing; gives the rows, positions kept and length before."""
    before = (mine.keys.shape[0], mine.keys.shape[-2], mine.get_seq_length())
    both: dict[str, Tensor] = {}
    for name in ("keys", "values"):
        pair = [getattr(layer, name) for layer in (mine, theirs)]
        n_kept = max(acts.shape[-2] for acts in pair)
        both[name] = torch.cat([_filled_up(acts, n_kept) for acts in pair])
    if isinstance(mine, DynamicSlidingWindowLayer):
        mine.cumulative_length = max(mine.get_seq_length(), theirs.get_seq_length())
    for name, acts in both.items():
        setattr(mine, name, acts)
    return before


def keep_rows(cache: Any, rows: Int[Tensor, "R"]) -> None:
    """Leave only these rows of a cache, in this order."""
    for layer in cache.layers:
        _require_rows(layer)
        if layer.keys is not None:
            for name in ("keys", "values"):
                setattr(layer, name, getattr(layer, name)[rows])


def cut_columns(cache: Any, n_columns: int) -> None:
    """Forget the first positions of all rows."""
    for layer in cache.layers:
        _require_rows(layer)
        if layer.keys is None:
            continue
        width = layer.get_seq_length() - n_columns
        if isinstance(layer, DynamicSlidingWindowLayer):
            layer.cumulative_length = width
        for name in ("keys", "values"):
            setattr(layer, name, getattr(layer, name)[..., -width:, :])


def _require_rows(layer: Any) -> None:
    if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer, DummyLayer):
        raise TypeError(f"rows of a {type(layer).__name__} cannot be joined")


def _filled_up(acts: Float[Tensor, "B H T D"], width: int) -> Float[Tensor, "B H W D"]:
    return pad(acts, (0, 0, width - acts.shape[-2], 0))
