"""Names that keys of files had in earlier versions, so that what was written then is still read."""

from collections.abc import Mapping
from typing import TypeVar, cast

RENAMED = {
    "artefacts": "artifacts",
    "dead_share": "dead_fraction",
    "dense_share": "dense_fraction",
    "input_centre": "input_center",
    "kl_spliced": "kl_with_sae",
    "kl_spliced_standard_error": "kl_with_sae_standard_error",
    "left_out": "excluded",
    "licence": "license",
    "loss_spliced": "loss_with_sae",
    "loss_spliced_standard_error": "loss_with_sae_standard_error",
    "neighbours": "neighbors",
    "output_centre": "output_center",
    "promoted": "logits",
    "share": "fraction",
    "toxicity_share": "toxic_fraction",
    "window_rows": "chunk_rows",
}
"""Name in files of before -> name now."""

T = TypeVar("T")


def with_new_names(value: T) -> T:
    """The value as it was read from a file, with every renamed key of its mappings under its new
    name; mappings and lists are gone through to their last level."""
    if isinstance(value, Mapping):
        items = cast(Mapping[str, object], value).items()
        return cast(T, {_new(key): with_new_names(inner) for key, inner in items})
    if isinstance(value, list):
        return cast(T, [with_new_names(inner) for inner in cast(list[object], value)])
    return value


def _new(key: str) -> str:
    """A key of which the last part, behind a full stop, may be an old name."""
    before, dot, name = key.rpartition(".")
    return f"{before}{dot}{RENAMED.get(name, name)}"
