"""What probes of few latents came to: their scores, means over tasks, and how sure these are."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from .config import Pooling

Arm = Literal["latents", "random_latents", "shuffled_labels", "coordinates", "dense"]
"""What a probe sees: the k best latents; k random ones of those that fire; the k best and labels
that were mixed among the training texts; the k best coordinates of the activation; or all of it."""

_DRAWS = 2000
_ENDS = (2.5, 97.5)


@dataclass(frozen=True)
class ProbeScore:
    """One probe on the held-out texts of one task, of which half have each label."""

    task: str
    arm: Arm
    k: int | None
    """Latents or coordinates it may use; None where it uses all."""
    seed: int
    """Of the split."""
    accuracy: float
    auc: float
    """Area under the receiver operating characteristic."""
    columns: tuple[int, ...]
    """The latents or coordinates that it uses, the best first; none where it uses all."""


@dataclass(frozen=True)
class Interval:
    """A mean over tasks and seeds with the ends of its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class ArmFigures:
    """The probes of one arm over all tasks and seeds, or what one arm has above another."""

    arm: Arm
    k: int | None
    accuracy: Interval
    auc: Interval
    above: Arm | None = None
    """The arm whose figures were subtracted, task by task and seed by seed."""


@dataclass(frozen=True)
class TaskFacts:
    """What was read of a task."""

    name: str
    labels: tuple[str, str]
    texts: int
    """Half of each label."""
    held_out: int
    """Texts that probes are scored on; the others are for choosing latents and fitting."""
    tokens: int
    """Read of all texts, without BOS."""


@dataclass(frozen=True)
class ProbingResult:
    """K-sparse probing of autoencoders of one site."""

    model: str
    site: str
    pooling: Pooling
    max_length: int
    tasks: tuple[TaskFacts, ...]
    activation: tuple[ProbeScore, ...]
    """Probes of the raw activation: coordinates, dense."""
    autoencoders: tuple[tuple[ProbeScore, ...], ...]
    """Probes of each autoencoder: latents, random_latents, shuffled_labels."""

    def figures(self, number: int) -> list[ArmFigures]:
        """Means over tasks for an autoencoder, by its number: its three arms, then what its latents
        have above random ones, and above as many coordinates of the activation."""
        own, coordinates = self.autoencoders[number], self.activation
        return [
            *arm_figures(own),
            *differences(own, "latents", own, "random_latents"),
            *differences(own, "latents", coordinates, "coordinates"),
        ]

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON has it: of the activation and of each autoencoder the `figures` and
        the single `scores`."""
        return {
            **{name: getattr(self, name) for name in ("model", "site", "pooling", "max_length")},
            "tasks": [dataclasses.asdict(task) for task in self.tasks],
            "activation": _shown(arm_figures(self.activation), self.activation),
            "autoencoders": [
                _shown(self.figures(number), scores)
                for number, scores in enumerate(self.autoencoders)
            ],
        }


def arm_figures(scores: Sequence[ProbeScore]) -> list[ArmFigures]:
    """The means of each arm and k over tasks and seeds."""
    found: list[ArmFigures] = []
    arms: dict[tuple[Arm, int | None], None] = dict.fromkeys((one.arm, one.k) for one in scores)
    for arm, k in arms:
        accuracy_TS, auc_TS = _tables(scores, arm, k)
        found.append(ArmFigures(arm, k, bootstrap(accuracy_TS), bootstrap(auc_TS)))
    return found


def differences(
    scores: Sequence[ProbeScore], arm: Arm, others: Sequence[ProbeScore], other: Arm
) -> list[ArmFigures]:
    """What an arm has above another, for each k, of an autoencoder or of two on the same tasks.

    Differences are taken between probes of the same task and seed, which share texts and split, so
    that these intervals are narrower than those of the two means.
    """
    found: list[ArmFigures] = []
    for k in dict.fromkeys(score.k for score in scores if score.arm == arm):
        pairs = zip(_tables(scores, arm, k), _tables(others, other, k), strict=True)
        accuracy, auc = (bootstrap(own_TS - other_TS) for own_TS, other_TS in pairs)
        found.append(ArmFigures(arm, k, accuracy, auc, above=other))
    return found


def bootstrap(values_TS: Float[np.ndarray, "T S"]) -> Interval:
    """The mean over T tasks and S seeds, and the 95 % interval of 2,000 samples of as many tasks,
    and of each as many seeds, with replacement (the same ones each time).

    The tasks are a sample of what one could ask; the interval says what another such sample might
    have given. Splits of one task share their texts, so that seeds add little to it.
    """
    generator = np.random.default_rng(0)
    n_tasks, n_seeds = values_TS.shape
    tasks = generator.integers(n_tasks, size=(_DRAWS, n_tasks, 1))
    seeds = generator.integers(n_seeds, size=(_DRAWS, n_tasks, n_seeds))
    means = values_TS[tasks, seeds].mean(axis=(1, 2))
    low, high = np.percentile(means, _ENDS)
    return Interval(float(values_TS.mean()), float(low), float(high))


def _tables(
    scores: Sequence[ProbeScore], arm: Arm, k: int | None
) -> tuple[Float[np.ndarray, "T S"], Float[np.ndarray, "T S"]]:
    """Accuracy and AUC of an arm, a row for each task and a column for each seed."""
    own = [score for score in scores if (score.arm, score.k) == (arm, k)]
    n_tasks = len({score.task for score in own})  # whose scores stand one after the other
    accuracies = np.array([score.accuracy for score in own], dtype=np.float64)
    aucs = np.array([score.auc for score in own], dtype=np.float64)
    return accuracies.reshape(n_tasks, -1), aucs.reshape(n_tasks, -1)


def _shown(figures: Sequence[ArmFigures], scores: Sequence[ProbeScore]) -> dict[str, Any]:
    return {
        "figures": [dataclasses.asdict(one) for one in figures],
        "scores": [dataclasses.asdict(score) for score in scores],
    }
