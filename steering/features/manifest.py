"""The manifest of a feature index, checked once, and the shapes that follow from it."""

from pathlib import Path
from typing import Any

from ...sae.common.checksums import read_checked_json
from ...sae.common.errors import InputError
from .layout import FORMAT, MANIFEST, NEAR_MISSES, QUANTILES, VERSIONS

_KEYS: dict[str, type] = {
    "sae": str,
    "site": str,
    "unit": str,
    "rows": int,
    "n_latents": int,
    "examples": int,
    "before": int,
    "after": int,
    "logits": bool,
    "histogram_edges": list,
}
"""What readers take from a manifest."""

_LATER_KEYS: dict[str, type] = {
    "quantiles": int,
    "quantile_examples": int,
    "near_misses": int,
    "coactivating": int,
    "lens": bool,
}
"""And from one of version 3 or later."""


def read_manifest(folder: Path, remedy: str) -> dict[str, Any]:
    """The content of an index's manifest.json.

    Raises:
        InputError: it is missing, not as it was written, or of another version; the message ends
            with the remedy.
    """
    manifest = read_checked_json(folder / MANIFEST, "feature index's manifest", remedy=remedy)
    if manifest.get("format") != FORMAT or manifest.get("version") not in VERSIONS:
        raise InputError(f"{folder} is no feature index that this sparsteer reads; {remedy}")
    keys = _KEYS | (_LATER_KEYS if manifest["version"] > 2 else {})
    for key, kind in keys.items():
        value = manifest.get(key)
        if type(value) is not kind or (isinstance(value, int) and value < 0):
            raise InputError(f"{folder / MANIFEST} is damaged at its key {key!r}; {remedy}")
    if not all(isinstance(edge, int | float) for edge in manifest["histogram_edges"]):
        raise InputError(f"{folder / MANIFEST} is damaged at its key 'histogram_edges'; {remedy}")
    return manifest


def source_of(manifest: dict[str, Any], document: int) -> tuple[str, int] | None:
    """Of a document by its number in the corpus the name of the part it is from, and its number
    there, from 0; None in an index that does not name the parts (one that was not packed)."""
    sources: list[str] = manifest.get("sources") or []
    return (sources[document % len(sources)], document // len(sources)) if sources else None


def leading_shape(name: str, manifest: dict[str, Any]) -> tuple[int, ...]:
    """The first dimensions that the array of this name has in an index, all that are known."""
    n_latents: int = manifest["n_latents"]
    if name == "histogram":
        return n_latents, len(manifest["histogram_edges"]) - 1
    if name == f"{QUANTILES}_bounds":
        return n_latents, manifest["quantiles"] + 1
    if name == f"{QUANTILES}_counts":
        return n_latents, manifest["quantiles"]
    n_examples = _n_examples(name, manifest)
    if n_examples is None:
        return (n_latents,)
    window = manifest["before"] + 1 + manifest["after"]
    of_tokens = name.endswith(("_tokens", "_activations"))
    return n_latents, n_examples, *((window,) if of_tokens else ())


def _n_examples(name: str, manifest: dict[str, Any]) -> int | None:
    """Places for examples of a latent in an array; None for one of other things."""
    if name.startswith(("top_", "random_")):
        return manifest["examples"]
    if name.startswith(f"{QUANTILES}_"):
        return manifest["quantiles"] * manifest["quantile_examples"]
    return manifest["near_misses"] if name.startswith(f"{NEAR_MISSES}_") else None
