"""What a feature is called: a person's label, else a machine's, which is shown as such."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ...steering.features.picks import Pick, Picks
from ...steering.labels.machine_label import MachineLabel
from ...steering.labels.store import FILE, machine_labels
from .session import Session


@dataclass(frozen=True)
class Called:
    """The name of a feature."""

    text: str
    """Empty if nobody has named it."""
    by_machine: bool
    score: str
    """Of a machine's label, how well it held on unseen examples; else empty."""


class KnownLabels:
    """The picks and the machine labels of a run, as they are at one moment.

    Attributes:
        picks: the picks.  machine: the machine labels by feature.
    """

    def __init__(self, picks: Picks, machine: Mapping[int, MachineLabel]) -> None:
        self.picks = picks
        self.machine = machine
        self._by_number = {pick.feature: pick for pick in picks.picks}

    @classmethod
    def of(cls, session: Session) -> "KnownLabels":
        """As they are now.

        Raises:
            InputError: the file of one of them is damaged, or of another autoencoder.
        """
        path = session.run / FILE
        at = path.stat().st_mtime_ns if path.exists() else 0
        sae: str = session.index.manifest["sae"]
        return cls(session.picks.picks(), _machine_labels(session.run, sae, at))

    def pick(self, feature: int) -> Pick | None:
        """The pick of a feature; None if it is not picked."""
        return self._by_number.get(feature)

    def called(self, feature: int) -> Called:
        """What to call a feature."""
        pick, label = self.pick(feature), self.machine.get(feature)
        if pick is not None and pick.label:
            return Called(pick.label, pick.label_source == "machine", "")
        if label is not None:
            return Called(label.label, True, label.shown_score)
        return Called("", False, "")


@lru_cache(maxsize=2)
def _machine_labels(run: Path, sae: str, at: int) -> dict[int, MachineLabel]:
    """They are read again when the file has changed, at another time."""
    return machine_labels(run, sae=sae)
