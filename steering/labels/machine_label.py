"""A label that a language model wrote, and how well it tells where its feature fires."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from ...sae.common.errors import InputError
from ...sae.common.validation import require_given, require_integer

_Z = 1.959964
"""Standard errors on either side of a 95 percent interval."""


@dataclass(frozen=True, kw_only=True)
class Detection:
    """How well a model that read only the label told texts on which the feature fires from others.

    None of the texts was shown for the label.
    """

    positives: int
    """Texts on which the feature fires."""
    found: int
    """Of those, how many were said to fit."""
    near_misses: int
    """Texts on which it almost fires."""
    near_misses_refused: int
    """Of those, how many were said not to fit."""
    others: int
    """Texts drawn at random from the examples of other features."""
    others_refused: int

    def __post_init__(self) -> None:
        for part, whole in (
            ("found", "positives"),
            ("near_misses_refused", "near_misses"),
            ("others_refused", "others"),
        ):
            for name in (part, whole):
                require_integer(name, getattr(self, name), least=0)
            if getattr(self, part) > getattr(self, whole):
                raise InputError(f"{part} is {getattr(self, part)}, more than {whole}", field=part)
        if not all(self._trials):
            raise InputError("a detection needs texts on which the feature fires, and others")

    @property
    def balanced_accuracy(self) -> float:
        """Mean of the fraction of the positives found and that of the others refused; 0.5 is what
        guessing gives."""
        return (self._rates[0] + self._rates[1]) / 2

    @property
    def interval(self) -> tuple[float, float]:
        """95 percent interval of the balanced accuracy, about: the Wilson intervals of the two
        rates, joined by the distances to their ends (Newcombe's method for a sum)."""
        lower, upper = 0.0, 0.0
        for rate, trials in zip(self._rates, self._trials, strict=True):
            low, high = wilson(rate, trials)
            lower += (rate - low) ** 2
            upper += (high - rate) ** 2
        center = self.balanced_accuracy
        return max(0.0, center - math.sqrt(lower) / 2), min(1.0, center + math.sqrt(upper) / 2)

    @property
    def _trials(self) -> tuple[int, int]:
        return self.positives, self.near_misses + self.others

    @property
    def _rates(self) -> tuple[float, float]:
        positives, negatives = self._trials
        return self.found / positives, (self.near_misses_refused + self.others_refused) / negatives

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON, the balanced accuracy and its interval among them."""
        low, high = self.interval
        return {
            **asdict(self),
            "balanced_accuracy": self.balanced_accuracy,
            "low": low,
            "high": high,
        }


@dataclass(frozen=True, kw_only=True)
class MachineLabel:
    """What a language model said that a feature stands for. A person's label goes before it."""

    feature: int
    label: str
    """A few words on one line; free text that a model wrote, to be shown as such."""
    model: str
    """Name of the language model."""
    endpoint: str
    """Address of the server without user name and key, or `local`."""
    method: str
    """What it was shown, and how it was scored."""
    detection: Detection | None
    """None where it was not scored."""
    made: str
    """When, in UTC, as ISO 8601."""

    def __post_init__(self) -> None:
        require_integer("feature", self.feature, least=0)
        for name in ("label", "model", "endpoint", "method", "made"):
            require_given(name, getattr(self, name))

    @property
    def shown(self) -> str:
        """The label with who made it and its score, as every view shows it."""
        return f"{self.label} (by {self.model}, {self.shown_score})"

    @property
    def shown_score(self) -> str:
        """The score with its interval; that there is none; that it is no better than a guess."""
        if self.detection is None:
            return "not scored"
        low, high = self.detection.interval
        guess = ", no better than a guess" if low <= 0.5 else ""
        return f"detection {self.detection.balanced_accuracy:.2f} [{low:.2f}, {high:.2f}]{guess}"

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        detection = self.detection.to_dict() if self.detection else None
        return {**asdict(self), "detection": detection}


def wilson(rate: float, trials: int) -> tuple[float, float]:
    """Wilson's 95 percent interval of a rate that was found in so many trials, at least one."""
    spread = _Z * _Z / trials
    center = (rate + spread / 2) / (1 + spread)
    half = math.sqrt(spread * (rate * (1 - rate) + spread / 4)) / (1 + spread)
    return max(0.0, center - half), min(1.0, center + half)
