"""Configurations as plain values, as files hold them and as runs and caches are compared."""

import dataclasses
import json
from typing import Any

from ...sae.language_model.names import lasting_name
from .stream.config import StreamConfig


def to_plain(config: Any) -> dict[str, Any]:
    """A configuration dataclass as plain values."""
    return plain(dataclasses.asdict(config))


def plain(values: dict[str, Any]) -> dict[str, Any]:
    """Values as JSON and YAML have them, with lists for tuples."""
    return json.loads(json.dumps(values))


def lasting_names(values: dict[str, Any]) -> dict[str, Any]:
    """Settings whose local model and dataset are given by absolute paths, if they name some."""
    return values | {
        name: lasting_name(values[name])
        for name in ("model", "dataset")
        if isinstance(values.get(name), str)
    }


def stream_settings(config: StreamConfig) -> dict[str, Any]:
    """The settings that decide the rows of a stream, as plain values: not `skip_bad_rows`, for
    without it there was nothing to skip."""
    settings = lasting_names(to_plain(config))
    del settings["skip_bad_rows"]
    return settings
