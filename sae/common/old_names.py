"""Names that keys of files had in earlier versions, so that what was written then is still read."""

from collections.abc import Mapping
from typing import TypeVar, cast

RENAMED = {
    "artefacts": "artifacts",
    "dead_share": "dead_fraction",
    "dense_share": "dense_fraction",
    "kl_spliced": "kl_with_sae",
    "kl_spliced_standard_error": "kl_with_sae_standard_error",
    "left_out": "excluded",
    "licence": "license",
    "loss_spliced": "loss_with_sae",
    "loss_spliced_standard_error": "loss_with_sae_standard_error",
    "neighbours": "neighbors",
    "promoted": "logits",
    "share": "fraction",
    "toxicity_share": "toxic_fraction",
    "window_rows": "chunk_rows",
}
"""Key of a JSON or YAML file of an earlier version -> key now."""

RENAMED_TENSORS = {"input_centre": "input_center", "output_centre": "output_center"}
"""Tensor of a safetensors file of an earlier version -> tensor now."""

_OF_THE_USER = ("groups",)
"""Keys below which a mapping's keys are names that a user gave."""

T = TypeVar("T")
V = TypeVar("V")


def with_new_names(value: T) -> T:
    """The value as it was read from a file, with every renamed key of its mappings under its new
    name; mappings and lists are gone through to their last level."""
    if isinstance(value, Mapping):
        items = cast(Mapping[str, object], value).items()
        renamed = {
            RENAMED.get(key, key): inner if key in _OF_THE_USER else with_new_names(inner)
            for key, inner in items
        }
        return cast(T, renamed)
    if isinstance(value, list):
        return cast(T, [with_new_names(inner) for inner in cast(list[object], value)])
    return value


def tensors_with_new_names(tensors: Mapping[str, V]) -> dict[str, V]:
    """The tensors of a file, renamed ones under their new names, also behind a prefix (`sae.`)."""
    return {_new(name): tensor for name, tensor in tensors.items()}


def _new(tensor: str) -> str:
    before, dot, name = tensor.rpartition(".")
    return f"{before}{dot}{RENAMED_TENSORS.get(name, name)}"
