"""Which features are shared, and what a person and a model called them."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ...sae.common.errors import InputError
from ...steering.features.feature import Feature
from ...steering.features.index import FeatureIndex
from ...steering.features.listing import picks_of, ranked
from ...steering.features.picks import Pick
from ...steering.labels.machine_label import MachineLabel
from ...steering.labels.store import machine_labels
from .config import ShareConfig

_MOST_INTERESTING = 100


@dataclass(frozen=True)
class SharedFeature:
    """A feature with its pick and its machine label, None where it has none."""

    feature: Feature
    peaks: tuple[str, ...]
    """Tokens on which it fires most."""
    pick: Pick | None
    machine_label: MachineLabel | None

    @property
    def label(self) -> str:
        """The person's label, else the machine's, else nothing."""
        if self.pick is not None and self.pick.label:
            return self.pick.label
        return self.machine_label.label if self.machine_label else ""

    @property
    def is_machine_made(self) -> bool:
        """Whether the label is a machine's, also where it was taken over into the pick."""
        if self.pick is not None and self.pick.label:
            return self.pick.label_source == "machine"
        return bool(self.label)


class Chosen:
    """The features of a run that are shared, in the order in which they are written.

    Attributes:
        index: the feature index.  run: folder of the run.  numbers: of the features.
        why: how they were chosen, in a few words.
    """

    def __init__(self, config: ShareConfig) -> None:
        """Choose as the configuration says.

        Raises:
            InputError: there is no index, no such feature, or nothing to choose.
        """
        self.index = FeatureIndex.of_run(config.run)
        self.run: Path = self.index.path.parent
        self.numbers, self.why = self._choose(config)

    def feature(self, number: int) -> SharedFeature:
        """A feature with what it is called."""
        return SharedFeature(
            feature=self.index.feature(number),
            peaks=tuple(self.index.peak_texts(number, 4)),
            pick=self.picks.get(number),
            machine_label=self.machine_labels.get(number),
        )

    @cached_property
    def picks(self) -> dict[int, Pick]:
        """The picks of the run by feature, perhaps none."""
        return picks_of(self.index)

    @cached_property
    def machine_labels(self) -> dict[int, MachineLabel]:
        """The machine labels of the run by feature."""
        return machine_labels(self.run, sae=self.index.manifest["sae"])

    def _choose(self, config: ShareConfig) -> tuple[list[int], str]:
        if config.feature:
            for number in config.feature:
                self.index.max_activation(number)
            return list(config.feature), "chosen by number"
        if config.all:
            return sorted(ranked(self.index, "density")), "all that ever fired"
        picked = [number for number, pick in self.picks.items() if pick.steers]
        if picked:
            return picked, "the picks"
        if config.picks:
            raise InputError(
                f"picks is given, but nothing is picked in {self.run}, or all is rejected; pick "
                "features, or leave --picks out",
                field="picks",
            )
        return ranked(self.index, "interest")[:_MOST_INTERESTING], "the most interesting"
