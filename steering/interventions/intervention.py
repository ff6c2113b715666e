"""What is steered, where and when: one specification for Python, commands and saved results.

An intervention changes activations h of a language model at one or several sites, in its general
form h' = h + gate * strength * (T(h) - h). With features of an autoencoder and the edit `add`, a
feature's decoder direction is added to the residual stream, so whatever the autoencoder does not
explain stays as it is; the three tiers of that follow arXiv 2505.14536.
Reading, writing and describing a specification imports no torch.
"""

import dataclasses
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, cast

from ...sae.common.errors import InputError
from ...sae.common.files import json_text, read_json
from ...sae.common.validation import require_choice
from ..registries import DIRECTIONS, EDITS, GATES
from .layout import FeatureSteering, Parts, as_feature_steering, places, plain_values, read_parts
from .spec import POSITIONS, Cap, Edit, Gate, Positions, SteeredFeature
from .vectors import Vectors

TIERS = ("constant", "per_input", "per_token")
"""The tiers of the method, from the most to the least aggressive."""


@dataclass(frozen=True, kw_only=True)
class Intervention:
    """Edits of the activations at some sites, and the gate that says at which tokens.

    At one site every edit and every gate reads the same activation, as it was before any edit
    there, and the changes add up. At a later site it has been changed by the earlier ones.
    """

    edits: tuple[Edit, ...]
    """What is done, at least once."""

    gate: Gate = field(default_factory=Gate)
    """Where it is done; by default everywhere, padding included."""

    positions: Positions = "all"
    """Which tokens are steered, of those at which the gate is open: `all`; those of the `prompt`;
    the `generated` ones; the `last` one of the prompt. Earlier turns of a chat belong to the
    prompt."""

    cap: Cap | None = None
    """Limits the change so that the activation stays among ordinary ones."""

    def __post_init__(self) -> None:
        if not isinstance(cast(object, self.edits), list | tuple):
            raise InputError(f"edits is {self.edits!r}; give a tuple of edits", field="edits")
        object.__setattr__(self, "edits", tuple(self.edits))
        if not self.edits:
            raise InputError("edits is empty; give at least one edit", field="edits")
        require_choice("positions", self.positions, POSITIONS)

    @classmethod
    def of_features(
        cls,
        *,
        site: str,
        features: tuple[SteeredFeature, ...],
        tier: Annotated[str, GATES] = "constant",
        threshold: float = 0.0,
        edit: Annotated[str, EDITS] = "add",
        direction: Annotated[str, DIRECTIONS] = "decoder",
        seed: int = 0,
    ) -> "Intervention":
        """Features of an autoencoder steered at one site.

        With the usual edit and direction every feature adds strength * sign * max_activation * (its
        decoder row) / input_scale, in the units of the raw activations. A position fires if any of
        the features has an activation above its threshold there, as the autoencoder's own encode
        gives it from the residual before anything is added; padding, special tokens and a row's
        first token never fire.

        Args:
            site: the activation that is written to, for example blocks.15.hook_resid_post.
            features: what is steered; the changes of several features are summed.
            tier: the gate's kind. `constant`: every position. `per_input`: if a prompt token fires,
                every position; otherwise every position from the first generated token that fires.
                `per_token`: the positions that fire.
            threshold: a feature fires above this activation, in multiples of its `max_activation`.
            edit: what is done to the activation, see `Edit.kind`; those that need fitted vectors
                cannot be made of features alone.
            direction, seed: along which vector each feature pushes, see `Edit`.

        Raises:
            InputError: there is no feature, or a value is wrong.
        """
        steering = FeatureSteering(
            site=site,
            features=features,
            tier=tier,
            threshold=threshold,
            edit=edit,
            direction=direction,
            seed=seed,
        )
        return cls(edits=(steering.made_edit,), gate=steering.made_gate)

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites that are written to, each once, in the order of the edits."""
        return tuple(dict.fromkeys(edit.site for edit in self.edits))

    @property
    def site(self) -> str:
        """The first edit's site."""
        return self.edits[0].site

    @property
    def tier(self) -> str:
        """The gate's kind."""
        return self.gate.kind

    @property
    def threshold(self) -> float:
        """The gate's threshold."""
        return self.gate.threshold

    @property
    def features(self) -> tuple[SteeredFeature, ...]:
        """The steered features of all edits, each latent once."""
        found: dict[int, SteeredFeature] = {}
        for feature in (each for edit in self.edits for each in edit.features):
            found.setdefault(feature.index, feature)
        return tuple(found.values())

    @property
    def vectors(self) -> Mapping[str, Vectors]:
        """The vectors of its edits, gates and cap by their place, such as `edits.0`."""
        return places(self._parts)

    @property
    def needs_autoencoder(self) -> bool:
        """Whether it has features, which are those of an autoencoder."""
        gates = [self.gate, *(edit.gate for edit in self.edits if edit.gate is not None)]
        return any(each.features for each in (*self.edits, *gates)) or any(
            EDITS.get(edit.kind).needs_autoencoder for edit in self.edits
        )

    @property
    def changes_nothing(self) -> bool:
        """Whether every strength is 0; of an edit that leads a feature's activation to a value that
        is the edit's own strength alone."""
        return all(_is_idle(edit) for edit in self.edits)

    @property
    def pushes(self) -> str:
        """In words, what is done and how far."""
        steering = as_feature_steering(self._parts)
        if steering is None:
            return " and ".join(map(_edit_in_words, self.edits))
        parts = [
            f"feature {feature.index} at {feature.sign * feature.strength:+g}"
            for feature in steering.features
        ]
        unit = " times its largest activation"
        if len(parts) > 1:
            unit = ", each times its own largest activation"
        chosen = {name: getattr(steering, name) for name in ("edit", "direction")}
        usual = {name: getattr(FeatureSteering, name) for name in chosen}
        other = [f"{name} {value}" for name, value in chosen.items() if value != usual[name]]
        return " and ".join(parts) + unit + (f" ({', '.join(other)})" if other else "")

    def with_tier(self, tier: str) -> "Intervention":
        """The same under another tier, with the gate's threshold, site and features."""
        gate = dataclasses.replace(self.gate, kind=tier, vectors=None, settings={})
        return dataclasses.replace(self, gate=gate)

    def scaled(self, factor: float) -> "Intervention":
        """The same so many times as strong: the features of `add` and of edits that add to features
        likewise have strengths so many times as large, any other edit a strength of its own."""
        return dataclasses.replace(self, edits=tuple(_scaled(edit, factor) for edit in self.edits))

    def apply(
        self, model: Any, sae: Any = None, *, prompt_columns: int | None = None
    ) -> AbstractContextManager[Any]:
        """Steer the model inside a `with` block; see `steer`, which does the same.

        Args:
            model: a `LanguageModel`, or a model of transformers.
            sae: the `SparseAutoencoder` of the features; without features none is needed.
            prompt_columns: see `steer`.
        """
        # By its path, as registries name things: that module imports this one.
        steering = import_module(f"{__package__}.steering")
        return steering.steer(model, sae, self, prompt_columns=prompt_columns)

    def to_dict(self) -> dict[str, Any]:
        """The specification as plain values that JSON can hold; `from_dict` reads it. Usual values
        are not named, and of vectors it has the digest."""
        return plain_values(self._parts)

    def to_json(self) -> str:
        """The specification as one line of JSON; `from_json` reads it."""
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "intervention") -> "Intervention":
        """Build the specification that `to_dict` wrote. Of vectors it has the digest alone, so one
        with vectors can be compared and described; `load` reads one that can be applied.

        Args:
            values: its keys and values.
            where: what an error message begins with, such as the file's path.

        Raises:
            InputError: an unknown or missing key, named with the nearest right one, or a wrong
                value.
        """
        return cls.of_parts(read_parts(values, where), where)

    @classmethod
    def of_parts(cls, parts: Parts, where: str = "intervention") -> "Intervention":
        """Put parts together.

        Args:
            parts: edits, gate, positions and cap.
            where: what an error message begins with.

        Raises:
            InputError: there is no edit.
        """
        try:
            return cls(edits=parts.edits, gate=parts.gate, positions=parts.positions, cap=parts.cap)
        except InputError as error:
            raise InputError(f"{where}: {error}", field=error.field) from None

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

    def save(self, path: str | Path) -> None:
        """Write `intervention.json`, and `vectors.safetensors` if there are vectors, into a folder
        that appears whole; it may replace another intervention.

        Raises:
            InputError: the path holds something else, or of some vectors only the digest is known.
        """
        from .folder import write_folder

        write_folder(Path(path), json_text(self.to_dict()), self.vectors)

    @classmethod
    def load(cls, path: str | Path) -> "Intervention":
        """Read an intervention: the folder that `save` wrote, or a JSON file of `to_dict`'s values
        with its vectors, if it has any, beside it.

        Raises:
            InputError: there is none, a value is wrong, or the vectors are not those of the JSON.
        """
        from .folder import read_vectors, spec_file

        file, where = spec_file(Path(path)), str(path)
        values = read_json(file, "intervention")
        parts = read_parts(values, where, read_vectors(file))
        if not parts.edits:
            raise InputError(
                f"{where} has a gate or a cap and no edit, which steers nothing; fit it again with "
                "--edits-of, the folder of an edit"
            )
        return cls.of_parts(parts, where)

    @property
    def _parts(self) -> Parts:
        return Parts(edits=self.edits, gate=self.gate, positions=self.positions, cap=self.cap)


def _is_idle(edit: Edit) -> bool:
    if edit.strength == 0:
        return True
    still = bool(edit.features) and all(feature.strength == 0 for feature in edit.features)
    return still and EDITS.get(edit.kind).adds_features


def _scaled(edit: Edit, factor: float) -> Edit:
    if not (edit.features and EDITS.get(edit.kind).adds_features):
        return dataclasses.replace(edit, strength=factor * edit.strength)
    features = tuple(
        dataclasses.replace(feature, strength=factor * feature.strength)
        for feature in edit.features
    )
    return dataclasses.replace(edit, features=features)


def _edit_in_words(edit: Edit) -> str:
    words = f"{edit.kind} at {edit.site}, strength {edit.strength:g}"
    if edit.features:
        each = ", ".join(f"{f.index} at {f.sign * f.strength:+g}" for f in edit.features)
        words += f", features {each}"
    return words if edit.unit in (None, "raw") else f"{words} (in units of {edit.unit})"
