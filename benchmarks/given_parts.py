"""A cache and a run that are there already, held against the settings of a dictionary.

The card says that these settings made the dictionary, so what was made otherwise is refused.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from benchmarks.dictionary_steps import DictionarySettings
from sparsteer.sae.common.errors import InputError
from sparsteer.sae.common.mixtures import joined
from sparsteer.sae.language_model.names import lasting_name
from sparsteer.training.data.cache.reader import ActivationCache
from sparsteer.training.run import RunFolder

_OF_THE_MACHINE = ("batch_size", "shard_rows", "device", "device_map", "forward_contexts")
"""Settings of a cache that decide at most the last bits of it."""


def require_same_cache(settings: DictionarySettings, cache: Path) -> None:
    """Raise an InputError if a cache was written with other options than the settings have; it may
    have more sites, and more rows."""
    manifest = ActivationCache(cache).manifest
    asked = {name.replace("-", "_"): value for name, value in settings.cache.items()}
    found = {**manifest.config, "dataset": manifest.corpus.dataset, "site": list(manifest.sites)}
    dataset: object = asked["dataset"]
    words = cast(list[object], dataset) if isinstance(dataset, list) else [dataset]
    asked["dataset"] = lasting_name(joined([str(word) for word in words]))
    asked["model"] = lasting_name(str(asked.get("model", found["model"])))
    sites: object = asked.pop("site", [])
    for site in cast(list[str], sites) if isinstance(sites, list) else [str(sites)]:
        if site not in manifest.sites:
            raise InputError(
                f"the cache {cache} has no site {site}, which the settings name; it has "
                f"{', '.join(manifest.sites)}"
            )
    if manifest.rows < int(asked.pop("tokens", 0)):
        raise InputError(
            f"the cache {cache} has {manifest.rows:,} rows, fewer than the "
            f"{settings.cache['tokens']:,} of the settings; let it grow, or lower tokens there"
        )
    kept = {name: value for name, value in asked.items() if name not in _OF_THE_MACHINE}
    _require_same(f"the cache {cache}", "cache", kept, found)


def require_same_run(settings: DictionarySettings, run: Path) -> None:
    """Raise an InputError if a run was trained with other options than the settings have."""
    found = RunFolder(run).settings()
    trainer: Mapping[str, Any] = found.pop("trainer", {})
    _require_same(f"the run {run}", "train", settings.train, {**found, **trainer})


def _require_same(what: str, part: str, asked: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    for name, value in asked.items():
        key = name.replace("-", "_")
        if key in found and not _alike(found[key], value):
            raise InputError(
                f"{what} was made with {key} {found[key]!r}, but the settings have {value!r} under "
                f"{part}; change the settings, or leave it out to make another"
            )


def _alike(one: object, other: object) -> bool:
    """Whether two settings are the same; 1e-3 in YAML is a text."""
    if isinstance(one, float) and isinstance(other, str):
        return one == float(other)
    return one == other
