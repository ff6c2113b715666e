"""An intervention as plain values that JSON can hold, and back.

What steers one site with features alone is written as it always was: `site`, `features`, `tier`,
`threshold`, and where they are not the usual ones `edit`, `direction` and `seed`. Anything else has
`edits`, and where they are not the usual ones `gate`, `positions` and `cap`; of vectors it has the
digest. Imports no torch.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar, cast

from ...sae.common.errors import InputError
from ...sae.config import build_dataclass
from ..registries import DIRECTIONS, EDITS, GATES
from .spec import Cap, Edit, Gate, Positions, SteeredFeature, feature_of, steered_features
from .vectors import Vectors

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class FeatureSteering:
    """Steering of one site with features, by one edit and one tier."""

    site: str
    """The activation that is written to, for example blocks.15.hook_resid_post."""

    features: tuple[SteeredFeature, ...]
    """What is steered, each with its strength."""

    tier: Annotated[str, GATES] = "constant"
    """The gate's kind."""

    threshold: float = 0.0
    """Above which activation a feature fires, in multiples of its `max_activation`."""

    edit: Annotated[str, EDITS] = "add"
    """The edit's kind."""

    direction: Annotated[str, DIRECTIONS] = "decoder"
    """Along which vector each feature pushes."""

    seed: int = 0
    """Seed of a direction that draws at random."""

    def __post_init__(self) -> None:
        features = steered_features(self.features, "features")
        object.__setattr__(self, "features", features)
        if not features:
            raise InputError(
                "features is empty; name at least one feature to steer", field="features"
            )
        _ = self.made_edit, self.made_gate  # which check the rest

    @property
    def made_edit(self) -> Edit:
        """The edit of the intervention."""
        return Edit(
            kind=self.edit,
            site=self.site,
            features=self.features,
            direction=self.direction,
            seed=self.seed,
        )

    @property
    def made_gate(self) -> Gate:
        """The gate of the intervention."""
        return Gate(kind=self.tier, threshold=self.threshold)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What an intervention is made of, before it is checked as a whole."""

    edits: tuple[Edit, ...]
    """Its edits."""
    gate: Gate = field(default_factory=Gate)
    """Its gate."""
    positions: Positions = "all"
    """Which tokens are steered at all."""
    cap: Cap | None = None
    """Its cap."""


def plain_values(parts: Parts) -> dict[str, Any]:
    """The values that `read_parts` reads."""
    steering = as_feature_steering(parts)
    if steering is not None:
        values: dict[str, Any] = {
            "site": steering.site,
            "features": [_feature_values(feature) for feature in steering.features],
            "tier": steering.tier,
            "threshold": _json_number(steering.threshold),
        }
        for name in ("edit", "direction", "seed"):
            if (value := getattr(steering, name)) != getattr(FeatureSteering, name):
                values[name] = value
        return values
    values = {"edits": [_edit_values(edit) for edit in parts.edits]}
    if parts.gate != Gate():
        values["gate"] = _gate_values(parts.gate)
    if parts.positions != "all":
        values["positions"] = parts.positions
    if parts.cap is not None:
        values["cap"] = _given(parts.cap) | {"vectors": parts.cap.vectors.digest}
    return values


def as_feature_steering(parts: Parts) -> FeatureSteering | None:
    """The parts as steering of one site with features, if they are no more than that."""
    if not parts.edits:
        return None
    edit, gate = parts.edits[0], parts.gate
    steering = FeatureSteering(
        site=edit.site,
        features=edit.features or (SteeredFeature(index=0, max_activation=1.0),),
        tier=gate.kind,
        threshold=gate.threshold,
        edit=edit.kind,
        direction=edit.direction,
        seed=edit.seed,
    )
    same = Parts(edits=(steering.made_edit,), gate=steering.made_gate)
    return steering if same == parts else None


def read_parts(
    values: Mapping[str, Any], where: str, vectors: Mapping[str, Vectors] | None = None
) -> Parts:
    """The parts that `plain_values` wrote.

    Args:
        values: its keys and values.
        where: what an error message begins with, such as the file's path.
        vectors: those of each place (see `places`); of what is missing only the digest is known.

    Raises:
        InputError: an unknown or missing key, named with the nearest right one, a wrong value, or
            vectors of another digest.
    """
    values = dict(values)
    if "edits" not in values:
        features = _features(values, where)
        if features is not None:
            values["features"] = features
        steering = build_dataclass(FeatureSteering, _with_threshold(values), where)
        return Parts(edits=(steering.made_edit,), gate=steering.made_gate)
    edits: object = values["edits"]
    if not isinstance(edits, list | tuple):
        raise InputError(f"{where}: edits is {edits!r}; give a list of edits")
    found = vectors or {}
    values["edits"] = tuple(
        _read_edit(each, f"{where}, edits[{number}]", found, f"edits.{number}")
        for number, each in enumerate(cast(list[object], edits))
    )
    if "gate" in values:
        values["gate"] = _read_gate(values["gate"], f"{where}, gate", found, "gate")
    if values.get("cap") is not None:
        values["cap"] = _read(Cap, values["cap"], f"{where}, cap", found, "cap")
    return build_dataclass(Parts, values, where)


def places(parts: Parts) -> dict[str, Vectors]:
    """All vectors by the place at which they stand: `edits.0`, `edits.0.gate`, `gate`, `cap`."""
    found: dict[str, Vectors | None] = {}
    for number, edit in enumerate(parts.edits):
        found[f"edits.{number}"] = edit.vectors
        found[f"edits.{number}.gate"] = edit.gate.vectors if edit.gate else None
    found["gate"] = parts.gate.vectors
    found["cap"] = parts.cap.vectors if parts.cap else None
    return {place: vectors for place, vectors in found.items() if vectors is not None}


def _edit_values(edit: Edit) -> dict[str, Any]:
    values = _given(edit)
    usual = "max_activation" if edit.features else "raw"
    if edit.unit == usual:
        del values["unit"]
    if edit.gate is not None:
        values["gate"] = _gate_values(edit.gate)
    return {"kind": edit.kind, **values}


def _gate_values(gate: Gate) -> dict[str, Any]:
    values = {"kind": gate.kind, **_given(gate)}
    if "threshold" in values:
        values["threshold"] = _json_number(gate.threshold)
    return values


def _given(part: Edit | Gate | Cap) -> dict[str, Any]:
    """The fields of a part that are not as they are by default, as plain values."""
    values: dict[str, Any] = {}
    for each in dataclasses.fields(part):
        value = getattr(part, each.name)
        default = each.default_factory() if callable(each.default_factory) else each.default
        if value != default:
            values[each.name] = value
    if "features" in values:
        values["features"] = [_feature_values(feature) for feature in values["features"]]
    if "vectors" in values:
        values["vectors"] = values["vectors"].digest
    if "settings" in values:
        values["settings"] = dict(values["settings"])
    return values


def _feature_values(feature: SteeredFeature) -> dict[str, Any]:
    values = dataclasses.asdict(feature)
    if feature.p99 is None:
        del values["p99"]
    return values


def _json_number(threshold: float) -> float | str:
    return "-inf" if threshold == -math.inf else threshold


def _read_edit(values: object, where: str, vectors: Mapping[str, Vectors], place: str) -> Edit:
    if not (isinstance(values, Mapping) and "gate" in values):
        return _read(Edit, cast(object, values), where, vectors, place)
    own = dict(cast(Mapping[str, Any], values))
    own["gate"] = _read_gate(own["gate"], f"{where}, gate", vectors, f"{place}.gate")
    return _read(Edit, own, where, vectors, place)


def _read_gate(values: object, where: str, vectors: Mapping[str, Vectors], place: str) -> Gate:
    if isinstance(values, Mapping):
        values = _with_threshold(dict(cast(Mapping[str, Any], values)))
    return _read(Gate, values, where, vectors, place)


def _read(
    kind: type[T], values: object, where: str, vectors: Mapping[str, Vectors], place: str
) -> T:
    if not isinstance(values, Mapping):
        raise InputError(f"{where}: {values!r} stands where an object with keys is needed")
    own = dict(cast(Mapping[str, Any], values))
    if (features := _features(own, where)) is not None:
        own["features"] = features
    if (digest := own.get("vectors")) is not None:
        if not isinstance(digest, str):
            raise InputError(f"{where}: vectors is {digest!r}; give their digest, or leave it out")
        known = vectors.get(place, Vectors.known_by(digest))
        if known.digest != digest:
            raise InputError(
                f"{where}: the vectors are not those that were written (their digest differs); "
                "restore the folder or write it again"
            )
        own["vectors"] = known
    return build_dataclass(kind, own, where)


def _features(values: Mapping[str, Any], where: str) -> tuple[SteeredFeature, ...] | None:
    """The features among the values, None if there are none."""
    if "features" not in values:
        return None
    features: object = values["features"]
    if not isinstance(features, list | tuple):
        raise InputError(f"{where}: features is {features!r}; give a list of features")
    return tuple(
        feature_of(feature, f"{where}, features[{number}]")
        for number, feature in enumerate(cast(list[object], features))
    )


def _with_threshold(values: dict[str, Any]) -> dict[str, Any]:
    if values.get("threshold") == "-inf":
        values["threshold"] = -math.inf
    return values
