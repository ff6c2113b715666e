"""What fitting a steering method gives: edits, a gate, and what is known of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedEdit:
    """What an edit does at one site, in the units of the model's activations.

    The tensors of each kind, with D the width of the site:

    - `add`: `v` [D], so that h becomes h + v;
    - `project_out`: `u` [D], of unit norm, so that h becomes h - (h.u) u;
    - `diagonal`: `w` and `b` [D], so that h becomes w * h + b, and if only where it is within them,
      coordinate by coordinate, `low` and `high` [D];
    - `lowrank`: `R` and `W` [r, D] and `b` [r], so that h becomes h + R^T (W h + b - R h);
    - `rotate`: `b1` and `b2` [D], an orthonormal basis of the plane of rotation;
    - `latents`: `latents` [n], int64, and `w` and `b` [n], a map of each latent's activation.
    """

    kind: str
    site: str
    """Where, such as `blocks.15.hook_resid_post`."""
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedGate:
    """Where an edit applies, or how far it may go, read from the activations of one site."""

    kind: str
    site: str
    tensors: Mapping[str, Tensor]
    settings: Mapping[str, float | str] = field(default_factory=dict[str, float | str])


@dataclass(frozen=True, kw_only=True)
class FitReport:
    """What is known of a fit."""

    method: str
    n_texts: int
    """Texts that were fitted to; of pairs both."""
    n_tokens: int
    """Content tokens of those texts."""
    separation: Mapping[str, float] | None = None
    """On texts that were not fitted to: `auroc` of the projection on the direction, `d_prime`, and
    how many texts these are of, `n_positive` and `n_negative`; None where none were held out."""
    neutral_kl: float | None = None
    """Mean KL divergence, in nats, of the steered model's next token from the base model's, at
    strength 1 over the tokens of neutral texts; None where it was not measured."""
    change_norm: Mapping[str, float] | None = None
    """Length of the change at strength 1 as a fraction of the activation's norm, over tokens of
    neutral texts: `median`, `p5` and `p95`; None where it was not measured."""
    moved: float | None = None
    """Fraction of elements that a diagonal map moves; None for other kinds."""
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What only this method has to say."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Fitted:
    """A fitted method: what it does at strength 1, its gate if it has one, and its report."""

    method: str
    edits: tuple[FittedEdit, ...]
    gate: FittedGate | None = None
    report: FitReport
