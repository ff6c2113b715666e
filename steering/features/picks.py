"""Picks: the features that a person chose, with label, note and strength, in a JSON file."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from ...sae.common.checksums import read_checked_json, write_checked_json
from ...sae.common.errors import InputError
from ...sae.common.validation import (
    require_boolean,
    require_finite,
    require_integer,
    require_text,
    wrong,
)
from ...sae.config import build_dataclass
from .run_folder import run_path

FILE = "picks.json"
FORMAT = "sparsteer-picks"
VERSION = 3
_VERSIONS = (1, 2, VERSION)
"""That are read; the first has no checksum, such as a file that a person or a script wrote. The
second has not the fields of `_SINCE_VERSION_3`, and is written where none of them is used."""

Verdict = Literal["", "keep", "reject"]
LabelSource = Literal["person", "machine"]
MOST_CONFIDENCE = 5

_SINCE_VERSION_3 = ("starred", "verdict", "confidence", "label_source")

_REMEDY = "restore it, or take its sha256 out and make its version 1 to accept it as it is"


@dataclass(frozen=True, kw_only=True)
class Pick:
    """One chosen feature."""

    feature: int
    """The latent's number, from 0."""

    label: str = ""
    """A few words for what it stands for."""

    note: str = ""
    """Anything else worth keeping."""

    strength: float = 1.0
    """How strongly to steer with it, in multiples of its own largest activation; negative
    suppresses it."""

    starred: bool = False
    """Whether it stands out among the picks."""

    verdict: Verdict = ""
    """Whether the feature is worth keeping; empty while nobody has judged it. A rejected one is
    remembered, and does not steer."""

    confidence: int | None = None
    """How sure the person is of label and verdict, from 1 (a guess) to 5; None if not said."""

    label_source: LabelSource = "person"
    """Who wrote the label."""

    def __post_init__(self) -> None:
        require_integer("feature", self.feature, least=0)
        for name in ("label", "note"):
            require_text(name, getattr(self, name))
        require_finite("strength", self.strength)
        require_boolean("starred", self.starred)
        if self.verdict not in get_args(Verdict):
            raise wrong("verdict", self.verdict, "keep, reject or empty")
        if self.label_source not in get_args(LabelSource):
            raise wrong("label_source", self.label_source, "person or machine")
        require_confidence(self.confidence)

    @property
    def steers(self) -> bool:
        """Whether steering with all picks uses it: everything but a rejected one."""
        return self.verdict != "reject"

    @property
    def reviewed(self) -> bool:
        """Whether a person has looked at it: starred, judged or labeled it."""
        by_hand = self.label if self.label_source == "person" else ""
        return bool(self.starred or self.verdict or by_hand or self.confidence)

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON, without the fields since version 3 that are at their
        defaults."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        unused = {name for name in _SINCE_VERSION_3 if values[name] == getattr(Pick, name)}
        return {name: value for name, value in values.items() if name not in unused}


def require_confidence(value: object) -> None:
    """Raise an InputError unless the value is None or a whole number from 1 to 5."""
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST_CONFIDENCE:
        raise wrong("confidence", value, f"a whole number from 1 to {MOST_CONFIDENCE}")


@dataclass(frozen=True)
class Picks:
    """The picks of one autoencoder, in the order in which they were added."""

    sae: str
    """The autoencoder's fingerprint (`sae_fingerprint`): a number means nothing in another one."""

    picks: tuple[Pick, ...] = ()

    def add(self, pick: Pick) -> "Picks":
        """With the pick at the end, or in the place of the one of the same feature."""
        if any(old.feature == pick.feature for old in self.picks):
            kept = (pick if old.feature == pick.feature else old for old in self.picks)
            return dataclasses.replace(self, picks=tuple(kept))
        return dataclasses.replace(self, picks=(*self.picks, pick))

    def remove(self, feature: int) -> "Picks":
        """Without the feature.

        Raises:
            InputError: it is not picked.
        """
        kept = tuple(pick for pick in self.picks if pick.feature != feature)
        if len(kept) == len(self.picks):
            picked = ", ".join(str(pick.feature) for pick in self.picks) or "none"
            raise InputError(f"feature {feature} is not picked; picked are: {picked}")
        return dataclasses.replace(self, picks=kept)

    def put(self, feature: int, pick: Pick | None, place: int) -> "Picks":
        """With this pick of the feature, or with none; a new one stands at the place, from 0."""
        if pick is None:
            return self.remove(feature)
        if self.get(feature) is not None:
            return self.add(pick)
        picks = (*self.picks[:place], pick, *self.picks[place:])
        return dataclasses.replace(self, picks=picks)

    def save(self, path: str | Path) -> None:
        """Write the file atomically, into a folder as `picks.json`."""
        write_checked_json(_file(run_path(path)), self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """What the file holds, but for its checksum."""
        picks = [pick.to_dict() for pick in self.picks]
        is_older = all(pick.keys().isdisjoint(_SINCE_VERSION_3) for pick in picks)
        version = VERSION - 1 if is_older else VERSION
        return {"format": FORMAT, "version": version, "sae": self.sae, "picks": picks}

    def get(self, feature: int) -> Pick | None:
        """The pick of a feature; None if it is not picked."""
        return next((pick for pick in self.picks if pick.feature == feature), None)

    @classmethod
    def load(cls, path: str | Path, *, sae: str) -> "Picks":
        """Read a file, or the `picks.json` of a run.

        Args:
            path: the file, the run folder, or the name of a dictionary that is built in.
            sae: fingerprint of the autoencoder that the picks must be of.

        Raises:
            InputError: the file is missing, broken or not as it was written, or its picks are of
                another autoencoder.
        """
        path = _file(run_path(path))
        if not path.exists():
            raise InputError(
                f"there are no picks at {path}; add one with `sparsteer pick {path.parent} add N`"
            )
        return cls.from_dict(
            read_checked_json(path, "picks file", remedy=_REMEDY), sae=sae, path=path
        )

    @classmethod
    def from_dict(cls, values: dict[str, Any], *, sae: str, path: str | Path) -> "Picks":
        """The picks in what `to_dict` gives, whose checksum is compared before.

        Args:
            values: the content of a file of any version.
            sae: fingerprint of the autoencoder that the picks must be of.
            path: what to call the content in an error.

        Raises:
            InputError: it holds no picks, or they are of another autoencoder.
        """
        if values.get("format") != FORMAT or values.get("version") not in _VERSIONS:
            raise InputError(f"{path} is no picks file that this sparsteer reads; check the path")
        if values.get("sae") != sae:
            raise InputError(
                f"the picks in {path} are of another autoencoder, whose features have other "
                "meanings; give the picks of this one, or pick anew"
            )
        return cls(sae, _picks(values.get("picks"), path))


def _file(path: Path) -> Path:
    return path / FILE if path.is_dir() else path


def _picks(entries: object, path: str | Path) -> tuple[Pick, ...]:
    if not isinstance(entries, list):
        raise InputError(f"{path} holds no list of picks; restore it or pick anew")
    picks: list[Pick] = []
    for number, entry in enumerate(cast(list[object], entries), start=1):
        where = f"{path}, pick {number}"
        if not isinstance(entry, dict):
            raise InputError(f"{where} is no object; restore it or pick anew")
        picks.append(build_dataclass(Pick, cast(dict[str, Any], entry), where))
    if len({pick.feature for pick in picks}) < len(picks):
        raise InputError(f"{path} picks a feature twice; remove one of the two")
    return tuple(picks)
