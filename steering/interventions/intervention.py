"""What is steered, where and when: one specification for Python, commands and saved results.

A feature's decoder direction is added to the residual stream at a site, h' = h + delta, so whatever
the autoencoder does not explain stays as it is. The three tiers follow arXiv 2505.14536. Other
directions, edits and gates are chosen by their names.
Nothing here imports torch until an intervention is applied.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

from ...sae.common.errors import InputError
from ...sae.common.validation import require_finite, require_integer
from ...sae.config import build_dataclass
from ..registries import DIRECTIONS, EDITS, GATES

TIERS = ("constant", "per_input", "per_token")
"""The tiers of the method, from the most to the least aggressive."""


@dataclass(frozen=True, kw_only=True)
class SteeredFeature:
    """One feature of an intervention: which latent, and how far the residual stream is moved."""

    index: int
    """The latent's number in the autoencoder, from 0."""

    strength: float = 1.0
    """Size of the change, in multiples of `max_activation`; negative suppresses."""

    sign: Literal[1, -1] = 1
    """A factor of the strength: 1 promotes the feature, -1 suppresses it."""

    max_activation: float
    """The feature's own largest activation, in the autoencoder's scaled units (the feature index
    has it)."""

    def __post_init__(self) -> None:
        require_integer("feature", self.index, least=0)
        where = f"feature {self.index}"
        require_finite("strength", self.strength)
        if self.sign not in (1, -1):
            raise InputError(f"{where}: sign is {self.sign!r}; give 1 or -1")
        require_finite("max_activation", self.max_activation)
        if self.max_activation <= 0:
            raise InputError(
                f"{where}: max_activation is {self.max_activation!r}, so it never fired; "
                "choose another feature"
            )

    @property
    def amount(self) -> float:
        """Signed size of the change along the decoder direction, in scaled units."""
        return self.sign * self.strength * self.max_activation


@dataclass(frozen=True, kw_only=True)
class Intervention:
    """Features added to the residual stream at a site, and the rule that says at which positions.

    With the usual edit and direction every feature adds strength * sign * max_activation * (its
    decoder row) / input_scale, in the units of the raw activations. A position fires if any of the
    features has an activation above its threshold there, as the autoencoder's own encode gives it
    from the residual before anything is added; padding, special tokens and a row's first token
    never fire.
    """

    site: str
    """The activation that is written to, for example blocks.15.hook_resid_post."""

    features: tuple[SteeredFeature, ...]
    """What is added; the changes of several features are summed."""

    tier: Annotated[str, GATES] = "constant"
    """The gate's name. `constant`: every position. `per_input`: if a prompt token fires, every
    position; otherwise every position from the first generated token that fires. `per_token`: the
    positions that fire."""

    threshold: float = 0.0
    """A feature fires above this activation, in multiples of its `max_activation`; 0 is whenever it
    is active at all, and a negative one (also minus infinity) always."""

    edit: Annotated[str, EDITS] = "add"
    """What is done to the activation; `add` adds the push."""

    direction: Annotated[str, DIRECTIONS] = "decoder"
    """Along which vector each feature pushes: `decoder`, its decoder row; `random`, that of another
    latent, drawn at random."""

    seed: int = 0
    """Seed of a direction that draws at random."""

    def __post_init__(self) -> None:
        if not isinstance(cast(object, self.site), str) or not self.site.strip():
            raise InputError(f"site is {self.site!r}; give a site's name", field="site")
        if not isinstance(cast(object, self.features), list | tuple):
            raise InputError(
                f"features is {self.features!r}; give a tuple of features", field="features"
            )
        features = tuple(
            feature
            if isinstance(cast(object, feature), SteeredFeature)
            else _feature_from_dict(cast(object, feature), "features")
            for feature in self.features
        )
        object.__setattr__(self, "features", features)
        if not features:
            raise InputError(
                "features is empty; name at least one feature to steer", field="features"
            )
        seen: set[int] = set()
        for feature in features:
            if feature.index in seen:
                raise InputError(f"feature {feature.index} is given twice; give it once")
            seen.add(feature.index)
        GATES.require(self.tier)
        EDITS.require(self.edit)
        DIRECTIONS.require(self.direction)
        require_integer("seed", self.seed, least=0)
        if self.threshold != -math.inf:
            require_finite("threshold", self.threshold, "a number, or minus infinity for always")

    @property
    def changes_nothing(self) -> bool:
        """Whether every strength is 0."""
        return all(feature.strength == 0 for feature in self.features)

    @property
    def pushes(self) -> str:
        """In words, which features are pushed and how far, in multiples of their activations."""
        parts = [
            f"feature {feature.index} at {feature.sign * feature.strength:+g}"
            for feature in self.features
        ]
        unit = " times its largest activation"
        if len(parts) > 1:
            unit = ", each times its own largest activation"
        chosen = {name: getattr(self, name) for name in ("edit", "direction")}
        other = [f"{name} {value}" for name, value in chosen.items() if value != _DEFAULTS[name]]
        return " and ".join(parts) + unit + (f" ({', '.join(other)})" if other else "")

    def to_dict(self) -> dict[str, Any]:
        """The specification as plain values that JSON can hold; `from_dict` reads it. The usual
        edit, direction and seed are not named."""
        values = dataclasses.asdict(self)
        values = {n: v for n, v in values.items() if n not in _DEFAULTS or v != _DEFAULTS[n]}
        values["features"] = list(values["features"])
        if self.threshold == -math.inf:
            values["threshold"] = "-inf"
        return values

    def to_json(self) -> str:
        """The specification as one line of JSON; `from_json` reads it."""
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "intervention") -> "Intervention":
        """Build the specification that `to_dict` wrote.

        Args:
            values: its keys and values.
            where: what an error message begins with, such as the file's path.

        Raises:
            InputError: an unknown or missing key, named with the nearest right one, or a wrong
                value.
        """
        values = dict(values)
        if not isinstance(features := values.get("features", []), list | tuple):
            raise InputError(f"{where}: features is {features!r}; give a list of features")
        if "features" in values:
            values["features"] = tuple(
                _feature_from_dict(feature, f"{where}, features[{number}]")
                for number, feature in enumerate(cast(list[object], features))
            )
        if values.get("threshold") == "-inf":
            values["threshold"] = -math.inf
        return build_dataclass(cls, values, where)

    @classmethod
    def from_json(cls, text: str, where: str = "intervention") -> "Intervention":
        """As `from_dict`, from the text that `to_json` wrote.

        Raises:
            InputError: as `from_dict`, and if the text is not a JSON object.
        """
        try:
            values: object = json.loads(text)
        except ValueError as error:
            raise InputError(f"{where} is not valid JSON ({error}); write it again") from None
        if not isinstance(values, dict):
            raise InputError(f"{where} is not a JSON object {{...}}; write it again")
        return cls.from_dict(cast(dict[str, Any], values), where)


_DEFAULTS = {"edit": Intervention.edit, "direction": Intervention.direction, "seed": 0}


def _feature_from_dict(values: object, where: str) -> SteeredFeature:
    if not isinstance(values, Mapping):
        raise InputError(
            f'{where}: {values!r} is not a feature; give {{"index": N, "strength": S, ...}}'
        )
    return build_dataclass(SteeredFeature, dict(cast(Mapping[str, Any], values)), where)
