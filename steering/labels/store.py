"""Machine labels beside the picks: RUN/labels.jsonl, to which every finished feature adds a line.

A line has its own checksum. What a killed writer left of a line is no label, and is cut off before
the next one is written. Of several lines of a feature the last one counts.
"""

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

from ...sae.common.checksums import checked_line, read_line
from ...sae.common.errors import InputError
from ...sae.common.locks import hold
from ...sae.common.paths import require_regular_file
from ...sae.config import build_dataclass
from ..features.index import FeatureIndex
from ..features.run_folder import run_folder
from .machine_label import Detection, MachineLabel

FILE = "labels.jsonl"

_COUNTS = tuple(each.name for each in fields(Detection))
_REMEDY = "take that line out, or remove the file and label again"


@dataclass
class _Content:
    """What the lines of the file say."""

    labels: dict[int, MachineLabel] = field(default_factory=dict[int, MachineLabel])
    rejected: dict[int, str] = field(default_factory=dict[int, str])
    """Features whose answers were rejected, and why."""
    whole_bytes: int = 0
    """Where the last whole line ends."""


class LabelStore:
    """The machine labels of a run, read once; `add` and `reject` also write.

    Attributes:
        labels: by feature.  rejected: why there is no label of a feature that was asked about.
    """

    def __init__(self, run: str | Path, *, sae: str) -> None:
        """Read what is there.

        Args:
            run: the run folder.
            sae: fingerprint of its autoencoder, which the labels must be of.

        Raises:
            InputError: a line is not as it was written, or of another autoencoder.
        """
        self.path = run_folder(run) / FILE
        self._sae = sae
        self._content = self._read()
        self.labels, self.rejected = self._content.labels, self._content.rejected

    @contextmanager
    def writing(self) -> Generator[None]:
        """Hold the file for this process, and read it again.

        Raises AnotherWriter if another process labels the run.
        """
        with hold(self.path, remedy="wait for it to end"):
            self._content = self._read()
            self.labels, self.rejected = self._content.labels, self._content.rejected
            if self.path.exists():
                os.truncate(self.path, self._content.whole_bytes)
            yield

    def add(self, label: MachineLabel) -> None:
        """Keep a label, on the disk when this returns. Only while `writing`."""
        self._append(label.to_dict())
        self.labels[label.feature] = label
        self.rejected.pop(label.feature, None)

    def reject(self, feature: int, reason: str, *, model: str) -> None:
        """Keep that no answer about a feature could be used. Only while `writing`.

        A label that it has from before stays.
        """
        self._append({"feature": feature, "rejected": reason, "model": model})
        if feature not in self.labels:
            self.rejected[feature] = reason

    def _append(self, values: dict[str, Any]) -> None:
        line = checked_line({**values, "sae": self._sae})
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def _read(self) -> _Content:
        content = _Content()
        if not self.path.exists():
            return content
        require_regular_file(self.path, "file of machine labels")
        lines = self.path.read_bytes().split(b"\n")
        for number, line in enumerate(lines[:-1], start=1):
            self._take(content, line, f"line {number} of {self.path}")
            content.whole_bytes += len(line) + 1
        return content

    def _take(self, content: _Content, line: bytes, where: str) -> None:
        try:
            values = read_line(line.decode())
        except ValueError as error:
            raise InputError(f"{where} is damaged ({error}); {_REMEDY}") from None
        if values.pop("sae", None) != self._sae:
            raise InputError(
                f"{where} is of another autoencoder, whose features have other meanings; "
                "remove the file and label again"
            )
        feature = values.get("feature")
        if type(feature) is not int:
            raise InputError(f"{where} names no feature; {_REMEDY}")
        if "rejected" in values:
            if feature not in content.labels:
                content.rejected[feature] = str(values["rejected"])
            return
        content.labels[feature] = _label(values, where)
        content.rejected.pop(feature, None)


def machine_labels(run: str | Path, *, sae: str | None = None) -> dict[int, MachineLabel]:
    """The machine labels of a run by feature, perhaps none; milliseconds, and no torch.

    Args:
        run: the run folder, or what else the verbs take for a run.
        sae: fingerprint of its autoencoder; by default the one that the feature index is of.

    Raises:
        InputError: the file is damaged or of another autoencoder.
    """
    folder = run_folder(run)
    if not (folder / FILE).exists():
        return {}
    return LabelStore(folder, sae=sae or FeatureIndex(folder).manifest["sae"]).labels


def _label(values: dict[str, Any], where: str) -> MachineLabel:
    if values.get("detection") is not None:
        # What follows from the counts is written for other readers, and computed here.
        counts: Any = values["detection"]
        if isinstance(counts, dict):
            found = cast(dict[str, Any], counts)
            counts = {name: found[name] for name in _COUNTS if name in found}
        values = {**values, "detection": build_dataclass(Detection, counts, where)}
    return build_dataclass(MachineLabel, values, where)
