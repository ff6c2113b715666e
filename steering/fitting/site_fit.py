"""What a method that looks at one site finds there."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor

from ..errors import NotDefined
from .config import FitConfig
from .examples import Examples


@dataclass(frozen=True, eq=False, kw_only=True)
class SiteGate:
    """A gate, or a cap, that was fitted at a site."""

    kind: str
    """One of `GATES`, or `cap`, whose setting is the budget."""
    tensors: Mapping[str, Tensor]
    threshold: float = 0.0
    settings: Mapping[str, float | str] = field(default_factory=dict[str, float | str])
    opening: Callable[[Float[Tensor, "N D"]], Float[Tensor, "N"]]
    """How far it is open for each row, from 0 to 1."""


@dataclass(frozen=True, eq=False, kw_only=True)
class SiteFit:
    """A direction, or a gate."""

    scores: Callable[[Float[Tensor, "N D"]], Float[Tensor, "N"]] | None = None
    """A number for each row, larger for positive texts, by which the separation is measured; None
    where telling texts apart is not what the method does."""
    direction_D: Float[Tensor, "D"] | None = None
    """What is added at strength 1; None where the method gives a gate alone."""
    gate: SiteGate | None = None
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """For the report."""
    on_held_out: Callable[[Examples], Mapping[str, Any]] | None = None
    """What else the report says of the rows that were held out, of which there are some."""


SiteFunction = Callable[[Examples, FitConfig], SiteFit]
"""From the rows at a site to what is found there; raises NotDefined where it is not defined."""


def along(direction_D: Float[Tensor, "D"], **details: Any) -> SiteFit:
    """The fit that is a direction; texts are told apart by their projection on it.

    Raises:
        NotDefined: it is 0 or not finite, so there is no direction.
    """
    require_direction(direction_D)
    return SiteFit(
        direction_D=direction_D, scores=lambda rows_ND: rows_ND @ direction_D, details=details
    )


def require_direction(direction_D: Float[Tensor, "D"]) -> None:
    """Raise NotDefined unless the vector is finite and not 0."""
    if not bool(direction_D.isfinite().all()) or not bool(direction_D.any()):
        raise NotDefined(
            "the two sides have the same activations here, so there is no direction between them; "
            "give other texts, or a later --site"
        )
