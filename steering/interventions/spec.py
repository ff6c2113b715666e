"""The parts of an intervention: which features, what is done to an activation, where and how far.

They are plain frozen values; `intervention.py` puts them together. Nothing here imports torch.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, cast, get_args

from ...sae.common.errors import InputError
from ...sae.common.validation import (
    require_choice,
    require_finite,
    require_integer,
    require_positive,
)
from ...sae.config import build_dataclass
from ..registries import DIRECTIONS, EDITS, GATES
from .vectors import Vectors

Unit = Literal["max_activation", "p99", "norm", "raw"]
"""What a strength is a multiple of; see `Edit.unit`."""

Positions = Literal["all", "prompt", "generated", "last"]
"""Which tokens are steered at all; see `Intervention.positions`."""

Setting = bool | int | float | str
"""A value that a kind of edit or gate has beside its vectors."""

UNITS: tuple[Unit, ...] = get_args(Unit)
POSITIONS: tuple[Positions, ...] = get_args(Positions)


@dataclass(frozen=True, kw_only=True)
class SteeredFeature:
    """One feature of an intervention: which latent, and how far the residual stream is moved."""

    index: int
    """The latent's number in the autoencoder, from 0."""

    strength: float = 1.0
    """Size of the change, in multiples of `max_activation`; negative suppresses."""

    sign: Literal[1, -1] = 1
    """A factor of the strength: 1 promotes the feature, -1 suppresses it."""

    max_activation: float
    """The feature's own largest activation, in the autoencoder's scaled units (the feature index
    has it)."""

    p99: float | None = None
    """The 99th percentile of its activation where it fires, in scaled units (`p99_activation` of
    the feature index); only edits of the unit `p99` need it."""

    def __post_init__(self) -> None:
        require_integer("feature", self.index, least=0)
        where = f"feature {self.index}"
        require_finite("strength", self.strength)
        if self.sign not in (1, -1):
            raise InputError(f"{where}: sign is {self.sign!r}; give 1 or -1")
        require_finite("max_activation", self.max_activation)
        if self.max_activation <= 0:
            raise InputError(
                f"{where}: max_activation is {self.max_activation!r}, so it never fired; "
                "choose another feature"
            )
        if self.p99 is not None:
            require_positive("p99", self.p99)

    @property
    def amount(self) -> float:
        """Signed size of the change along the decoder direction, in scaled units."""
        return self.sign * self.strength * self.max_activation

    def in_units(self, unit: Unit) -> float:
        """Signed strength times the unit: scaled units for `max_activation` and `p99`, else the
        signed strength alone.

        Raises:
            InputError: the unit is `p99` and the feature has none.
        """
        if unit == "max_activation":
            return self.amount
        if unit != "p99":
            return self.sign * self.strength
        if self.p99 is None:
            raise InputError(
                f"feature {self.index} has no p99, of which the unit p99 is; give it its "
                "p99_activation of the feature index, or choose unit max_activation"
            )
        return self.sign * self.strength * self.p99


@dataclass(frozen=True, kw_only=True)
class Gate:
    """Where edits apply: a number from 0 to 1 for each token, most often one of the two."""

    kind: Annotated[str, GATES] = "constant"
    """`constant`, `per_input` and `per_token` are the tiers: everywhere, or by where features fire.
    `cosine`, `logistic` and `probe` read a score from the activation with fitted vectors."""

    threshold: float = 0.0
    """A feature fires above this activation, in multiples of its `max_activation`; 0 is whenever it
    is active at all, and a negative one (also minus infinity) always. Other kinds compare their
    score with it: a cosine, or of `logistic` and `probe` the log-odds, whose 0 is probability one
    half."""

    site: str | None = None
    """Where the activation is read, not behind the edits; by default at the first of them."""

    features: tuple[SteeredFeature, ...] = ()
    """The features that have to fire; by default those of the edits."""

    vectors: Vectors | None = None
    """What was fitted, for the kinds that need it."""

    settings: Mapping[str, Setting] = field(default_factory=dict[str, Setting], hash=False)
    """Of the kind: see its class."""

    def __post_init__(self) -> None:
        if self.site is not None:
            require_site(self.site)
        object.__setattr__(self, "features", steered_features(self.features, "gate"))
        GATES.require(self.kind)
        if self.threshold != -math.inf:
            require_finite("threshold", self.threshold, "a number, or minus infinity for always")
        require_settings(self.settings)

    @property
    def tensors(self) -> Mapping[str, Any]:
        """The tensors of its vectors by their names; none where it has no vectors."""
        return {} if self.vectors is None else self.vectors.tensors


@dataclass(frozen=True, kw_only=True)
class Edit:
    """What is done to the activation h at one site: h' = h + gate * strength * (T(h) - h).

    T is of a kind, and has features of an autoencoder or fitted vectors. Every T at a site reads
    the same h, as it was before any edit there, and their changes add up.
    """

    kind: Annotated[str, EDITS] = "add"
    """Name of T: add, clamp, min_clamp, ablate, latents, project_out, diagonal, lowrank, rotate, or
    one of an installed package. Its class says which vectors and settings it takes."""

    site: str
    """The activation that is written to, for example blocks.15.hook_resid_post."""

    strength: float = 1.0
    """Of the whole edit, a factor of T(h) - h; 0 changes nothing. `add` takes any number; the other
    kinds go from h at 0 to T(h) at 1."""

    unit: Unit | None = None
    """What strengths are multiples of: `max_activation` or `p99` of each feature, `norm` of the
    activation at that very token, or `raw`. By default max_activation where there are features,
    else raw; other kinds than add and the clamps take no p99 and no norm."""

    features: tuple[SteeredFeature, ...] = ()
    """Latents, each with a strength of its own: the signed size of what `add` adds, or the
    activation that clamps lead to."""

    direction: Annotated[str, DIRECTIONS] = "decoder"
    """Along which vector each feature pushes: `decoder`, its decoder row; `random`, that of another
    latent, drawn at random."""

    seed: int = 0
    """Seed of a direction that draws at random."""

    vectors: Vectors | None = None
    """What was fitted, such as the `v` that is added."""

    settings: Mapping[str, Setting] = field(default_factory=dict[str, Setting], hash=False)
    """Of the kind, such as the `angle` of a rotation."""

    gate: Gate | None = None
    """A gate of this edit alone, in place of the intervention's."""

    def __post_init__(self) -> None:
        require_site(self.site)
        object.__setattr__(self, "features", steered_features(self.features, "features"))
        EDITS.require(self.kind)
        DIRECTIONS.require(self.direction)
        require_integer("seed", self.seed, least=0)
        require_finite("strength", self.strength)
        if self.unit is None:
            object.__setattr__(self, "unit", "max_activation" if self.features else "raw")
        require_choice("unit", self.unit, UNITS)
        if not self.features and self.unit in ("max_activation", "p99"):
            raise InputError(
                f"unit is {self.unit}, which only features have; give norm or raw", field="unit"
            )
        require_settings(self.settings)

    @property
    def tensors(self) -> Mapping[str, Any]:
        """The tensors of its vectors by their names; none where it has no vectors."""
        return {} if self.vectors is None else self.vectors.tensors


@dataclass(frozen=True, kw_only=True)
class Cap:
    """Keeps what is steered among ordinary activations (IDS, arXiv 2510.13285).

    At each token the change of the intervention is made as large as it may be, up to what was asked
    for: so large that the Mahalanobis distance of h' from the mean, in some principal components,
    is at most the budget. A token that is further away already is left alone.
    """

    vectors: Vectors
    """`mean` [D], `basis` [K, D] of orthonormal rows, and `variances` [K] along them."""

    budget: float
    """Largest distance; the method takes the 95th percentile of that of the fitted activations."""

    site: str | None = None
    """Where the change is limited; by default at the first edit's site."""

    def __post_init__(self) -> None:
        if self.site is not None:
            require_site(self.site)
        require_positive("budget", self.budget)


def require_site(site: object) -> None:
    """Raise an InputError unless it can be a site's name."""
    if not isinstance(site, str) or not site.strip():
        raise InputError(f"site is {site!r}; give a site's name", field="site")


def require_settings(settings: object) -> None:
    """Raise an InputError unless these are names with texts, finite numbers or truths."""
    if not isinstance(settings, Mapping):
        raise InputError(f"settings is {settings!r}; give names and values", field="settings")
    for name, value in cast(Mapping[object, object], settings).items():
        if not isinstance(value, str | bool):
            require_finite(f"setting {name}", value, "a finite number, a text, true or false")


def steered_features(features: object, where: str) -> tuple[SteeredFeature, ...]:
    """The features, of which each may also be a mapping of its values.

    Raises:
        InputError: they are no list, one is no feature, or one stands there twice.
    """
    if not isinstance(features, list | tuple):
        raise InputError(f"features is {features!r}; give a tuple of features", field="features")
    found = tuple(
        each if isinstance(each, SteeredFeature) else feature_of(each, where)
        for each in cast(list[object], features)
    )
    numbers: set[int] = set()
    for feature in found:
        if feature.index in numbers:
            raise InputError(f"feature {feature.index} is given twice; give it once")
        numbers.add(feature.index)
    return found


def feature_of(values: object, where: str) -> SteeredFeature:
    """A feature from plain values; an InputError, which begins with `where`, if it is none."""
    if not isinstance(values, Mapping):
        raise InputError(
            f'{where}: {values!r} is not a feature; give {{"index": N, "strength": S, ...}}'
        )
    return build_dataclass(SteeredFeature, dict(cast(Mapping[str, object], values)), where)
