"""How each arm of a study steers, by a digest, so that no row mixes what two ways of it gave."""

import hashlib
import json
from pathlib import Path

from ...sae.common.checksums import read_checked_json, write_checked_json
from ...sae.common.errors import InputError
from .arm import Arm
from .arms.method import ArmSteering

FILE = "arms.json"
"""In the study's folder: of each arm, by its name, a SHA-256 digest."""


class KnownArms:
    """The digests of the arms that results are kept of."""

    def __init__(self, folder: Path) -> None:
        """Read what there is; raises InputError if the file is not as it was written."""
        self._path = folder / FILE
        self._digests: dict[str, str] = {}
        if self._path.exists():
            self._digests = read_checked_json(self._path, "arms of the study")["arms"]

    def require_same(self, arm: Arm, steering: ArmSteering) -> None:
        """Keep the digest of how an arm steers, before any result of it is, or compare it.

        Raises:
            InputError: the folder has results of the arm when it steered otherwise, as after a
                fit or `features.json` was changed, or on a device that rounds otherwise.
        """
        digest = _digest(steering)
        known = self._digests.setdefault(arm.name, digest)
        if known != digest:
            raise InputError(
                f"{arm.name} does not steer as when {self._path} was written, and its strengths, "
                "continuations and figures are of then; put fits, features and picks back, or give "
                "another --out"
            )
        ordered = dict(sorted(self._digests.items()))
        write_checked_json(self._path, {"arms": ordered})


def _digest(steering: ArmSteering) -> str:
    intervention = steering.intervention
    values = {
        "intervention": None if intervention is None else intervention.to_dict(),
        "prefix": steering.prefix,
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
