"""Which texts a cache is of, how many rows each gave, and under which license each stands."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...sae.common.errors import InputError
from ...sae.common.mixtures import shares_of
from ...sae.fetching.artifacts import ARTIFACTS
from ...training.data.cache.reader import ActivationCache

_UNSTATED = "not stated"
"""How the license of a text begins of which its package says none."""


@dataclass(frozen=True, kw_only=True)
class TextSource:
    """A part of a corpus: a text that is fetched by name, or a file."""

    name: str
    summary: str
    """What it is; empty where nobody said."""
    license: str
    origin: str
    """The packages that it is from; empty of a file of the user's."""
    rows: int
    """Rows of the cache that are of it."""
    fraction: float
    """Of all rows of the cache."""


def text_sources(cache: ActivationCache, licenses: Mapping[str, str]) -> list[TextSource]:
    """The parts of the corpus of a cache, in their order: document d is of part d % len(parts).

    Args:
        cache: the cache.
        licenses: of files that are not fetched by name, by the names of the files.

    Raises:
        InputError: a text is not one of those that are fetched with a stated license, and
            `licenses` does not give its license.
    """
    parts = cache.manifest.corpus.parts
    rows_P = np.zeros(len(parts), dtype=np.int64)
    for entry in cache.manifest.shards:
        documents_N = cache.shard(entry).tensor("doc").numpy()
        rows_P += np.bincount(documents_N % len(parts), minlength=len(parts))
    total = max(int(rows_P.sum()), 1)
    return [
        _source(part, licenses, int(rows), int(rows) / total)
        for part, rows in zip(parts, rows_P, strict=True)
    ]


def weights_of(cache: ActivationCache) -> dict[str, str]:
    """The weight of each data set as it was asked for, by name; empty of a single one."""
    return {share.name: f"{float(share.weight):g}" for share in shares_of(cache.dataset)}


def _source(part: str, licenses: Mapping[str, str], rows: int, fraction: float) -> TextSource:
    path = Path(part)
    for artifact in ARTIFACTS.values():
        named = (path.parent.name, path.name) == (artifact.name, artifact.file)
        if named and not artifact.license.startswith(_UNSTATED):
            return TextSource(
                name=artifact.name,
                summary=artifact.summary,
                license=artifact.license,
                origin=artifact.origin,
                rows=rows,
                fraction=fraction,
            )
    if path.name not in licenses:
        raise InputError(
            f"the text {path.name} has no stated license, so nothing of it may be shipped; leave "
            "it out of the cache, or give its license under `licenses`"
        )
    return TextSource(
        name=path.name,
        summary="",
        license=licenses[path.name],
        origin="",
        rows=rows,
        fraction=fraction,
    )
