"""Results of a suite on disk: a file a part, in which each autoencoder's is found again."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from ...sae.common.checksums import read_checked_json, write_checked_json
from .part import Figure, Measured

_FOLDER = "parts"


class PartResults:
    """The results of one part so far.

    Attributes:
        by_key: of each autoencoder that was measured, by `key_of`.
    """

    by_key: dict[str, dict[str, Any]]

    def __init__(self, folder: Path, part: str) -> None:
        """Read what there is; raises InputError if the file is not as it was written."""
        self.path = folder / _FOLDER / f"{part}.json"
        self.part = part
        self.by_key = {}
        if self.path.exists():
            remedy = "remove it, and the same command measures the part again"
            found = read_checked_json(self.path, "results of the part", remedy=remedy)
            self.by_key = found["results"]

    def save(self, found: Mapping[str, dict[str, Any]]) -> None:
        """Add results and write all, whole."""
        self.by_key |= found
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_checked_json(self.path, {"part": self.part, "results": self.by_key})


def key_of(identity: Mapping[str, Any]) -> str:
    """By what a result is found again: a hash of everything that it depends on."""
    text = json.dumps(identity, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def plain_figures(figures: Sequence[Figure]) -> dict[str, dict[str, Any]]:
    """Figures by their names, as plain values."""
    return {
        figure.name: {k: v for k, v in dataclasses.asdict(figure).items() if k != "name"}
        for figure in figures
    }


def as_saved(measured: Measured, about: Mapping[str, Any]) -> dict[str, Any]:
    """What is saved of a result: plain values, with null for NaN and infinity."""
    values = {
        **about,
        "figures": plain_figures(measured.figures),
        "details": dict(measured.details),
        "warnings": list(measured.warnings),
    }
    return cast(dict[str, Any], json.loads(json.dumps(finite(values))))


def finite(value: Any) -> Any:
    """Plain values, with None for NaN and infinity, which JSON lacks."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {str(k): finite(v) for k, v in cast(dict[Any, Any], value).items()}
        case list() | tuple():
            return [finite(item) for item in cast(list[Any], value)]
        case _:
            return value
