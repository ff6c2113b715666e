"""What a study compares: ways to steer, and each of them at the strength that has a given cost.

Imports no torch.
"""

import re
from dataclasses import dataclass, replace
from math import isclose
from typing import Any, Literal, cast, get_args

from ...sae.common.errors import InputError
from ...sae.common.validation import require_choice, require_positive

Family = Literal["none", "sae", "other", "random", "prompt"]
"""Kinds of ways to steer: not at all, by an autoencoder's latents, by what is fitted without one,
at random, by a text before the prompt."""

CostKind = Literal[
    "kl", "kl_mean", "perplexity", "continuation_perplexity", "repetition", "strength"
]

_FRACTIONS = ("perplexity", "continuation_perplexity", "repetition")

_COST = re.compile(r"(?P<kind>[a-z_]+)=(?P<number>[0-9.eE+-]+)(?P<percent>%?)")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What every way to steer may cost, so that they are compared alike."""

    kind: CostKind
    """`kl`: the 95th percentile of KL(steered || unsteered) over generated tokens, in nats;
    `kl_mean`: its mean, to which a gate that opens at few tokens adds, too;
    `perplexity`: the rise of the perplexity of neutral text, as a fraction;
    `continuation_perplexity`: the rise of the unsteered model's perplexity of what is written, as a
    fraction; `repetition`: the rise of the fraction of repeated runs of three tokens; `strength`:
    no cost, but the strength itself."""
    target: float
    """0.1 is 10 % of perplexity, or 0.1 nats."""

    def __post_init__(self) -> None:
        require_choice("cost", self.kind, get_args(CostKind))
        require_positive("cost", self.target)

    @property
    def name(self) -> str:
        """As it is written on the command line: `kl=0.3`, `perplexity=10%`."""
        if self.kind in _FRACTIONS:
            return f"{self.kind}={100 * self.target:g}%"
        return f"{self.kind}={self.target:g}"

    @classmethod
    def of(cls, word: str) -> "Cost":
        """Read `KIND=NUMBER`, where the number may be in percent.

        Costs are told apart by their names, so that the target is what its name reads back as.

        Raises:
            InputError: the word is not of that form, or the number is not above 0 or has more
                digits than a name has.
        """
        found = _COST.fullmatch(word)
        try:
            number = float(found["number"]) if found else None
        except ValueError:
            number = None
        if found is None or number is None or found["kind"] not in get_args(CostKind):
            raise InputError(
                f"cost is {word!r}; write kl=0.3, perplexity=10% or strength=1", field="cost"
            )
        target = number / 100 if found["percent"] else number
        read = cls(kind=cast(CostKind, found["kind"]), target=target)
        named = float(read.name.removeprefix(f"{read.kind}=").removesuffix("%"))
        named = named / 100 if read.kind in _FRACTIONS else named
        if not isclose(named, target, rel_tol=1e-12):
            raise InputError(
                f"cost is {word!r}, of more than the six digits that tell costs apart; write "
                f"{read.name}",
                field="cost",
            )
        return replace(read, target=named)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to steer, before its strength is chosen."""

    name: str
    """Unique in the study, and a file's name."""
    method: str
    """Its entry of `STUDY_METHODS`."""
    family: Family
    tier: str | None = None
    """When it steers: constant, per_input, per_token, or the kind of a fitted gate; None where
    there is no intervention."""
    edit: str | None = None
    """What it does to the activation, such as add or ablate; None where there is no
    intervention."""
    draw: int | None = None
    """Which of several random ones it is, from 0."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A way to steer at one strength: one row of the result."""

    arm: Arm
    cost: Cost | None = None
    """What the strength was chosen for; None of one that has no strength."""
    strength: float | None = None
    """A multiple of the arm's own strength; None of one that has none."""
    reached: bool = True
    """Whether the strength has the cost, within the tolerance."""
    dose: float | None = None
    """What it did cost where it was calibrated, in the cost's unit."""
    evaluations: int = 0
    """Strengths that were tried."""

    @property
    def name(self) -> str:
        """Unique in the study, and a file's name."""
        if self.cost is None:
            return self.arm.name
        return f"{self.arm.name}@{self.cost.name.replace('=', '-').replace('%', 'pc')}"

    def values(self) -> dict[str, Any]:
        """Those of a result's row that do not depend on what was measured."""
        return {
            "name": self.name,
            "arm": self.arm.name,
            "method": self.arm.method,
            "family": self.arm.family,
            "tier": self.arm.tier,
            "edit": self.arm.edit,
            "draw": self.arm.draw,
            "cost": None if self.cost is None else self.cost.name,
            "strength": self.strength,
            "reached": self.reached,
            "dose": self.dose,
        }
