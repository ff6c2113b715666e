"""What fitting a steering method gives: the parts of an intervention, and what is known of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..interventions.intervention import Intervention
from ..interventions.layout import Parts
from ..interventions.spec import Cap, Edit, Gate, Positions
from ..interventions.vectors import Vectors


@dataclass(frozen=True, kw_only=True)
class FitReport:
    """What is known of a fit."""

    method: str
    n_texts: int
    """Texts that were fitted to; of pairs both."""
    n_tokens: int
    """Tokens of those texts that count: content tokens; with reft_r1 and observable all, with
    BOS."""
    separation: Mapping[str, float] | None = None
    """On texts that were not fitted to: `auroc` of the projection on the direction, `d_prime`
    where it is measured, and how many texts these are of, `n_positive` and `n_negative`; None where
    none were held out."""
    neutral_kl: float | None = None
    """Mean of KL(steered || base) of the next token, in nats, at strength 1 over the content tokens
    of neutral texts; None where it was not measured."""
    change_norm: Mapping[str, float] | None = None
    """Length of the change at strength 1 as a fraction of the activation's norm, over tokens of
    neutral texts: `median`, `p5` and `p95`; None where it was not measured."""
    moved: float | None = None
    """Fraction of elements that a diagonal map moves; None for other kinds."""
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What only this method has to say."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Fitted:
    """A fitted method: what it does at strength 1, in the units of the model's activations."""

    method: str
    edits: tuple[Edit, ...]
    """Empty where the method gives a gate or a cap alone, or where its maps change nothing."""
    gate: Gate | None = None
    """None is everywhere."""
    cap: Cap | None = None
    positions: Positions = "all"
    report: FitReport

    @property
    def parts(self) -> Parts:
        """What an intervention is made of."""
        return Parts(
            edits=self.edits, gate=self.gate or Gate(), positions=self.positions, cap=self.cap
        )

    @property
    def intervention(self) -> Intervention:
        """The fit as what steers.

        Raises:
            InputError: it has no edit.
        """
        return Intervention.of_parts(self.parts, f"the fit of {self.method}")


def fitted_edit(kind: str, site: str, tensors: Mapping[str, Tensor]) -> Edit:
    """An edit with what was fitted; the class of its kind, among `EDITS`, says which tensors.

    Raises:
        InputError: a tensor holds NaN.
    """
    return Edit(kind=kind, site=site, vectors=Vectors(tensors))
