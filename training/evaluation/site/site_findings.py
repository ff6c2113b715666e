"""What the check of a site finds; imports no torch.

A *content row* is one that training would read: `sparsteer cache` and a stream leave out BOS,
separators and the first token of a context, which are the other kinds of rows here.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PositionCount:
    """Rows of some kind at a position of the context."""

    position: int
    """Column of the context, from 0, where BOS stands if there is one."""
    rows: int
    of: int
    """Rows at this position in all."""


@dataclass(frozen=True, kw_only=True)
class TokenCount:
    """Rows of some kind at a token."""

    token: int
    """Its id."""
    text: str | None
    """As the tokenizer decodes it; None where rows are of a cache."""
    rows: int
    of: int
    """Rows at this token in all."""


@dataclass(frozen=True, kw_only=True)
class Carriers:
    """The rows that something was found in, and where they are."""

    rows: int
    kinds: Mapping[str, int]
    """How many of each kind."""
    positions: tuple[PositionCount, ...]
    """Those with most of them first."""
    tokens: tuple[TokenCount, ...]
    """Those with most of them first."""


@dataclass(frozen=True, kw_only=True)
class CoordinateFigures:
    """A coordinate of the activations; figures are of content rows unless they say otherwise."""

    coordinate: int
    massive: bool
    """Whether some row, also one that training leaves out, has a massive value in it."""
    largest: float
    """Largest magnitude."""
    ratio: float
    """The largest magnitude in units of the median magnitude of all values."""
    ratio_excluded: float | None
    """As `ratio`, of the rows that training leaves out; None where there are none."""
    mean: float
    spread: float
    """Standard deviation."""
    share: float
    """Part of the mean squared norm of rows that lies in it."""
    share_centered: float
    """As `share`, of rows less their geometric median, as training takes them."""
    carriers: Carriers
    """Rows of all kinds with a massive value in it."""


@dataclass(frozen=True, kw_only=True)
class KindFigures:
    """The norms of one kind of rows."""

    rows: int
    median_norm: float
    largest_norm: float
    ratio: float
    """Their median norm in units of the content rows' median norm."""
    largest_ratio: float
    """As `ratio`, of their largest norm."""
    massive_rows: int
    """Rows with a massive value in some coordinate."""


@dataclass(frozen=True, kw_only=True)
class OutlierFigures:
    """Content rows whose norm is far above the median."""

    rows: int
    fraction: float
    """Of all content rows."""
    share: float
    """Part of the sum of squared norms, less the center, that they hold."""
    carriers: Carriers


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """What training would make of some rows."""

    rows: int
    coordinates: int
    """That are looked at: D, or fewer."""
    input_scale: float
    """The factor by which training would multiply rows: after it their mean squared distance from
    the geometric median is `coordinates`."""
    scale_ratio: float
    """The input scale in units of that of the content rows."""
    mean_cosine: float
    """Mean cosine of two different rows."""
    mean_cosine_centered: float
    """As `mean_cosine`, of rows less their geometric median."""


@dataclass(frozen=True, kw_only=True)
class SiteFindings:
    """What the check of a site found."""

    model: str
    dataset: str
    cache: str | None
    """Folder of the cache that was looked at; None where the model was read."""
    site: str
    d_model: int
    context_length: int
    rows: int
    """Content rows that were looked at."""
    median_magnitude: float
    """Median of |x| over all values of content rows."""
    massive_ratio: float
    outlier_norm: float
    kinds: Mapping[str, KindFigures]
    """By `bos`, `separator`, `first_token` and `content`; those of which there are rows."""
    norm_quantiles: Mapping[str, float]
    """Of content rows, in units of the median norm, by the fraction of rows below."""
    coordinates: tuple[CoordinateFigures, ...]
    """Those with the largest values first."""
    massive_coordinates: int
    """Coordinates with a massive value in some row, also those that are not listed."""
    outliers: OutlierFigures
    geometry: Mapping[str, Geometry]
    """Of `content` rows; with those `excluded`, without `outliers`, and without
    `massive_coordinates`; what would be the same as `content` is missing."""
    rounding: Mapping[str, float]
    """By dtype, the variance that storing content rows in it adds, as a fraction of theirs."""
    unknown: tuple[str, ...]
    """Sentences about what could not be looked at."""
