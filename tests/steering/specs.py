"""Interventions for tests that differ from another in a few values."""

from dataclasses import asdict
from typing import Any

from sparsteer.steering.interventions.intervention import Intervention


def changed(spec: Intervention, **values: Any) -> Intervention:
    """Steering with features, with some of its values replaced."""
    if "features" in values:
        values["features"] = [asdict(feature) for feature in values["features"]]
    return Intervention.from_dict({**spec.to_dict(), **values})
