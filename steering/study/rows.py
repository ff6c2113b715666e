"""Rows of a study as comparisons read them: a way to steer at one cost, with a figure a prompt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from ...sae.common.errors import InputError
from .arm import Cost

PER_PROMPT = "per_prompt"
"""The key of a row under which its figures of single prompts stand."""

LEVELS = ("clamp", "min_clamp")
"""Edits whose strength is a level to which latents are led."""


def relative_score(scores: Mapping[str, float], unsteered: Mapping[str, float]) -> float:
    """A score divided by the unsteered model's, averaged over scorers.

    Args:
        scores: by scorer.
        unsteered: of the unsteered model; a score of 0 counts as 1e-12.
    """
    return float(np.mean([score / max(unsteered[name], 1e-12) for name, score in scores.items()]))


@dataclass(frozen=True, eq=False)
class StudyRow:
    """One way to steer at one strength, with what was measured of it.

    Attributes:
        values: the row as it is saved.
    """

    values: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Of the row, which no other one has."""
        return str(self.values["name"])

    @property
    def arm(self) -> str:
        """Of the way to steer."""
        return str(self.values["arm"])

    @property
    def method(self) -> str:
        """By which the way to steer was found."""
        return str(self.values["method"])

    @property
    def family(self) -> str:
        """See `Family`."""
        return str(self.values["family"])

    @property
    def is_level(self) -> bool:
        """Whether the strength is a level to which latents are led, so that 0 takes them away
        rather than leaving the model as it is."""
        return self.values["edit"] in LEVELS

    @property
    def strength(self) -> float:
        """In the units of the way to steer; 0 where there is none."""
        return float(self.values["strength"] or 0.0)

    @property
    def cost(self) -> Cost | None:
        """The cost that the strength was chosen for."""
        found = self.values["cost"]
        return None if found is None else Cost.of(found)

    @property
    def within_budget(self) -> bool:
        """Whether the calibration came to the cost, or stayed below it, as where a gate hardly
        opens. A row that costs more than the others is not compared with them."""
        cost, dose = self.cost, self.values["dose"]
        if self.values["reached"] or cost is None:
            return True
        return dose is not None and dose < cost.target

    @property
    def scorers(self) -> tuple[str, ...]:
        """By which the continuations were scored."""
        return tuple(self.values[PER_PROMPT]["emt"])

    def maxima(self, scorer: str) -> Float[np.ndarray, "P"]:
        """The largest score among each prompt's continuations."""
        return np.array(self.values[PER_PROMPT]["emt"][scorer], dtype=np.float64)

    def measured_cost(self, kind: str, unsteered: "StudyRow") -> float | None:
        """The cost of a kind on the study's own texts, None where it was not measured.

        `kl` is the 95th percentile over the tokens that were written, in nats, `kl_mean` their
        mean; `perplexity` and
        `continuation_perplexity` are rises as a fraction, of neutral text and of what was written;
        `repetition` is the rise of the fraction of repeated runs of three tokens.
        """
        own, base = self.values, unsteered.values
        match kind:
            case "kl":
                return own["kl_p95"]
            case "kl_mean":
                return own["kl"]
            case "perplexity":
                ratio = own["neutral_ratio"]
                return None if ratio is None else ratio - 1
            case "continuation_perplexity":
                if own["perplexity"] is None or not base["perplexity"]:
                    return None
                return own["perplexity"] / base["perplexity"] - 1
            case "repetition":
                return own["repetition"] - base["repetition"]
            case _:
                return None


def read_rows(rows: Sequence[Mapping[str, Any]]) -> tuple[StudyRow, list[StudyRow]]:
    """The unsteered row and the others.

    Raises:
        InputError: there is not exactly one unsteered row, two rows have one name, or rows are not
            of the same prompts, as many continuations and the same scorers.
    """
    found = [StudyRow(row) for row in rows]
    unsteered = [row for row in found if row.family == "none"]
    if len(unsteered) != 1:
        raise InputError(
            f"{len(unsteered)} rows are of the unsteered model, but there must be one to compare "
            "the others with; measure the method none once"
        )
    names = [row.name for row in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"two rows have the name {twice[0]!r}; give each way to steer its own")
    (first,) = unsteered
    alike = ("prompts_hash", "prompts", "n")
    for row in found:
        different = [key for key in alike if row.values[key] != first.values[key]]
        if row.scorers != first.scorers:
            different.append("scorers")
        if different:
            raise InputError(
                f"the row {row.name} differs from the unsteered one in {different[0]}, so that "
                "they do not compare; measure both on the same prompts"
            )
    return first, [row for row in found if row is not first]
