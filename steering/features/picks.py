"""Picks: the features that a person chose, with label, note and strength, in a JSON file."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ...sae.common.checksums import read_checked_json, write_checked_json
from ...sae.common.errors import InputError
from ...sae.common.locks import PATIENCE, hold, tidy
from ...sae.common.validation import require_finite, require_integer, require_text
from ...sae.config import build_dataclass
from .config import PickConfig
from .run_folder import run_folder

FILE = "picks.json"
FORMAT = "sparsteer-picks"
VERSION = 2
_VERSIONS = (1, VERSION)
"""That are read; the first has no checksum, such as a file that a person or a script wrote."""

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

    def __post_init__(self) -> None:
        require_integer("feature", self.feature, least=0)
        for name in ("label", "note"):
            require_text(name, getattr(self, name))
        require_finite("strength", self.strength)


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

    def save(self, path: str | Path) -> None:
        """Write the file atomically, into a folder as `picks.json`."""
        write_checked_json(
            _file(Path(path)),
            {"format": FORMAT, "version": VERSION, **dataclasses.asdict(self)},
        )

    @classmethod
    def load(cls, path: str | Path, *, sae: str) -> "Picks":
        """Read a file, or the `picks.json` of a run folder.

        Args:
            path: the file or the folder.
            sae: fingerprint of the autoencoder that the picks must be of.

        Raises:
            InputError: the file is missing, broken or not as it was written, or its picks are of
                another autoencoder.
        """
        path = _file(Path(path))
        if not path.exists():
            raise InputError(
                f"there are no picks at {path}; add one with `sparsteer pick {path.parent} add N`"
            )
        values = read_checked_json(path, "picks file", remedy=_REMEDY)
        if values.get("format") != FORMAT or values.get("version") not in _VERSIONS:
            raise InputError(f"{path} is no picks file that this sparsteer reads; check the path")
        if values.get("sae") != sae:
            raise InputError(
                f"the picks in {path} are of another autoencoder, whose features have other "
                "meanings; give the picks of this one, or pick anew"
            )
        return cls(sae, _picks(values.get("picks"), path))


def change_picks(config: PickConfig) -> Picks:
    """Do what the configuration says to the picks of a run, and give them as they are then.

    Adding a feature that is picked already changes what is given of it and keeps the rest. Several
    processes may change the picks of a run at once, and none is lost.

    Raises:
        InputError: there is no run or no such feature, or the picks are of another autoencoder.
    """
    from ...sae.autoencoder import SparseAutoencoder
    from ...sae.fingerprint import sae_fingerprint

    run = run_folder(config.run)
    sae = SparseAutoencoder.load(run / "sae")
    fingerprint, n_latents = sae_fingerprint(sae), sae.config.n_latents
    if config.action == "list":
        return _picks_of(run, fingerprint)
    tidy(run)
    remedy = "give the same command again when it has ended"
    with hold(run / FILE, patience=PATIENCE, remedy=remedy):
        picks = _picks_of(run, fingerprint)
        for feature in config.feature:
            picks = _changed(picks, config, feature, n_latents)
        picks.save(run)
    return picks


def _picks_of(run: Path, sae: str) -> Picks:
    """The picks of a run, perhaps none."""
    path = run / FILE
    if path.exists():
        return Picks.load(run, sae=sae)
    if path.is_symlink():
        raise InputError(f"{path} is a symbolic link to nothing; mend it, or remove it")
    return Picks(sae)


def _changed(picks: Picks, config: PickConfig, feature: int, n_latents: int) -> Picks:
    """The picks with the feature added, changed or removed."""
    if config.action == "remove":
        return picks.remove(feature)
    if not 0 <= feature < n_latents:
        raise InputError(
            f"there is no feature {feature}; this autoencoder has features 0 to {n_latents - 1}"
        )
    old = next((pick for pick in picks.picks if pick.feature == feature), None)
    given = {name: getattr(config, name) for name in ("label", "note", "strength")}
    new = {name: value for name, value in given.items() if value is not None}
    return picks.add(dataclasses.replace(old or Pick(feature=feature), **new))


def _file(path: Path) -> Path:
    return path / FILE if path.is_dir() else path


def _picks(entries: object, path: Path) -> tuple[Pick, ...]:
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
