"""Massive activations: few values hundreds of times as large as all others, and what they do.

Language models keep them in a few coordinates, mostly at the first token and at delimiters, where
attention goes that has nothing else to do (arXiv 2402.17762). One of them can be most of a row's
norm, and a few such rows most of the mean squared norm by which training scales its input.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ....kernels.numerics import row_blocks, row_norms
from ....sae.common.errors import InputError
from ...initialize import geometric_median
from .site_findings import (
    Carriers,
    CoordinateFigures,
    Geometry,
    KindFigures,
    OutlierFigures,
    PositionCount,
    TokenCount,
)
from .site_rows import KINDS, SiteRows

_ROWS_AT_ONCE = 2048
_CENTER_ROWS = 16_384
"""Most rows of which the geometric median is taken, as in training."""
_MEDIAN_VALUES = 2**22
"""Most values of which the median magnitude is taken."""
_MUCH = 0.1
"""Part of the mean squared norm with which a coordinate is listed whatever its values."""
_QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 1.0)


def median_magnitude(x: Float[Tensor, "N D"]) -> float:
    """The median of |x| over all values; of more than four million, over those of evenly spread
    rows.

    Raises InputError if it is 0, beside which every value would be large.
    """
    some_MD = _evenly_spread(x, max(1, _MEDIAN_VALUES // x.shape[1]))
    median = float(some_MD.abs().median())
    if not median:
        raise InputError(
            "half of the values at the site are 0, so that none can be compared with their median; "
            "choose another site"
        )
    return median


def largest_of_rows(x: Float[Tensor, "N D"]) -> Float[Tensor, "N"]:
    """The largest magnitude in each row."""
    return torch.maximum(x.amax(1), -x.amin(1))


def kind_figures(rows: SiteRows, massive_from: float) -> dict[str, KindFigures]:
    """The norms of each kind of rows that there is.

    Args:
        massive_from: the magnitude from which on a value is massive.
    """
    norms_N, massive_N = row_norms(rows.acts), largest_of_rows(rows.acts) >= massive_from
    typical = float(norms_N[rows.is_content].median())
    found: dict[str, KindFigures] = {}
    for number, name in enumerate(KINDS):
        of_kind_N = rows.kind == number
        if of_kind_N.any():
            median, largest = float(norms_N[of_kind_N].median()), float(norms_N[of_kind_N].max())
            found[name] = KindFigures(
                rows=int(of_kind_N.sum()),
                median_norm=median,
                largest_norm=largest,
                ratio=median / typical,
                largest_ratio=largest / typical,
                massive_rows=int((massive_N & of_kind_N).sum()),
            )
    return found


def norm_quantiles(x: Float[Tensor, "N D"]) -> dict[str, float]:
    """The norms of rows that a fraction of them lies below, in units of the median norm, by the
    fraction."""
    norms_N = row_norms(x).double().sort().values
    places = [int(fraction * (len(norms_N) - 1)) for fraction in _QUANTILES]
    median = float(norms_N[(len(norms_N) - 1) // 2])
    return {
        f"{fraction:g}": float(norms_N[place]) / median
        for fraction, place in zip(_QUANTILES, places, strict=True)
    }


def massive_coordinates(x: Float[Tensor, "N D"], massive_from: float) -> Bool[Tensor, "D"]:
    """Which coordinates have a massive value in some row."""
    return largest_of_rows(x.T) >= massive_from


def coordinate_figures(
    rows: SiteRows, unit: float, massive_from: float, top: int
) -> tuple[CoordinateFigures, ...]:
    """The coordinates with the largest values in rows of any kind, and those that hold a tenth or
    more of the mean squared norm of content rows; the largest values first.

    Args:
        unit: the median magnitude.
        massive_from: the magnitude from which on a value is massive.
        top: how many of the largest values; that of the content rows is always among them.
    """
    content_MD = rows.acts[rows.is_content]
    others_RD = rows.acts[~rows.is_content]
    largest_D = largest_of_rows(content_MD.T)
    excluded_D = largest_of_rows(others_RD.T) if len(others_RD) else torch.zeros_like(largest_D)
    mean_D, square_D = _moments(content_MD)
    center_D = _center(content_MD)
    centered_D = square_D - 2 * center_D * mean_D + center_D.square()
    variance_D = (square_D - mean_D.square()).clamp(min=0)
    share_D, share_centered_D = square_D / square_D.sum(), centered_D / centered_D.sum()
    any_kind_D = torch.maximum(largest_D, excluded_D)
    order = any_kind_D.argsort(descending=True, stable=True)
    listed_D = torch.maximum(share_D, share_centered_D) >= _MUCH
    listed_D[order[:top]] = True
    listed_D[largest_D.argmax()] = True
    return tuple(
        CoordinateFigures(
            coordinate=d,
            massive=float(any_kind_D[d]) >= massive_from,
            largest=float(largest_D[d]),
            ratio=float(largest_D[d]) / unit,
            ratio_excluded=float(excluded_D[d]) / unit if len(others_RD) else None,
            mean=float(mean_D[d]),
            spread=float(variance_D[d].sqrt()),
            share=float(share_D[d]),
            share_centered=float(share_centered_D[d]),
            carriers=carriers(rows, rows.acts[:, d].abs() >= massive_from, top),
        )
        for d in map(int, order[listed_D[order]])
    )


def outlier_figures(rows: SiteRows, outlier_N: Bool[Tensor, "N"], top: int) -> OutlierFigures:
    """The content rows that are outliers, see `outlier_rows`, and where they are."""
    content_MD = rows.acts[rows.is_content]
    squares_M = _squared_distances(content_MD, _center(content_MD))
    held = float(squares_M[outlier_N[rows.is_content]].sum() / squares_M.sum())
    n_rows = int(outlier_N.sum())
    return OutlierFigures(
        rows=n_rows,
        fraction=n_rows / len(content_MD),
        share=held,
        carriers=carriers(rows, outlier_N, top),
    )


def outlier_rows(rows: SiteRows, times: float) -> Bool[Tensor, "N"]:
    """The content rows whose norm is above so many times the median norm of content rows."""
    norms_N = row_norms(rows.acts)
    return rows.is_content & (norms_N > times * norms_N[rows.is_content].median())


def carriers(rows: SiteRows, chosen_N: Bool[Tensor, "N"], top: int) -> Carriers:
    """Of which kinds the chosen rows are, and at which positions and tokens most of them are."""
    positions = _counts(rows.position, chosen_N, top)
    tokens = _counts(rows.tokens, chosen_N, top)
    kinds = [int(number) for number in torch.bincount(rows.kind[chosen_N], minlength=len(KINDS))]
    return Carriers(
        rows=int(chosen_N.sum()),
        kinds={name: number for name, number in zip(KINDS, kinds, strict=True) if number},
        positions=tuple(PositionCount(position=p, rows=n, of=of) for p, n, of in positions),
        tokens=tuple(
            TokenCount(
                token=t, text=None if rows.text_of is None else rows.text_of(t), rows=n, of=of
            )
            for t, n, of in tokens
        ),
    )


def all_alike(x: Float[Tensor, "N D"]) -> bool:
    """Whether there are no two different rows, of which no scale can be estimated."""
    return not len(x) or bool((x == x[0]).all())


def geometry(x: Float[Tensor, "N D"], scale_of_content: float | None = None) -> Geometry:
    """The input scale that training would estimate from rows, and their mean cosine.

    The scale is that of `initialize_from_rows`: sqrt(D / mean squared distance from the geometric
    median), the latter of at most 16,384 rows.

    Args:
        x: [N, D] rows.
        scale_of_content: the scale to compare with; None: these are the content rows.

    Raises InputError if the rows are all alike.
    """
    if all_alike(x):
        raise InputError(
            f"the {len(x):,} rows at the site are all alike; choose another site, or more tokens"
        )
    center_D = _center(x)
    scale = float((x.shape[1] / _squared_distances(x, center_D).mean()).sqrt())
    return Geometry(
        rows=len(x),
        coordinates=x.shape[1],
        input_scale=scale,
        scale_ratio=1.0 if scale_of_content is None else scale / scale_of_content,
        mean_cosine=_mean_cosine(x, torch.zeros_like(center_D)),
        mean_cosine_centered=_mean_cosine(x, center_D),
    )


def _mean_cosine(x: Float[Tensor, "N D"], center_D: Float[Tensor, "D"]) -> float:
    """Over all pairs of different rows, less a center; a row that is the center has cosine 0."""
    sum_D, own = torch.zeros_like(center_D), 0.0
    for block in row_blocks(len(x), _ROWS_AT_ONCE):
        unit_BD = torch.nn.functional.normalize(x[block].double() - center_D, dim=-1)
        sum_D += unit_BD.sum(0)
        own += float(unit_BD.square().sum())
    return (float(sum_D.square().sum()) - own) / max(len(x) * (len(x) - 1), 1)


def _moments(x: Float[Tensor, "N D"]) -> tuple[Float[Tensor, "D"], Float[Tensor, "D"]]:
    """The mean and the mean square of each coordinate, in float64."""
    sum_D = torch.zeros(x.shape[1], dtype=torch.float64)
    square_D = torch.zeros_like(sum_D)
    for block in row_blocks(len(x), _ROWS_AT_ONCE):
        wide_BD = x[block].double()
        sum_D += wide_BD.sum(0)
        square_D += wide_BD.square().sum(0)
    return sum_D / len(x), square_D / len(x)


def _squared_distances(x: Float[Tensor, "N D"], center_D: Float[Tensor, "D"]) -> Float[Tensor, "N"]:
    """In float64."""
    blocks = row_blocks(len(x), _ROWS_AT_ONCE)
    return torch.cat([(x[block].double() - center_D).square().sum(-1) for block in blocks])


def _center(x: Float[Tensor, "N D"]) -> Float[Tensor, "D"]:
    """The geometric median in float64, of evenly spread rows if they are many."""
    return geometric_median(_evenly_spread(x, _CENTER_ROWS).double())


def _evenly_spread(x: Float[Tensor, "N D"], most: int) -> Float[Tensor, "M D"]:
    """At most so many rows."""
    n_rows = min(len(x), most)
    return x if n_rows == len(x) else x[torch.arange(n_rows) * len(x) // n_rows]


def _counts(
    labels_N: Int[Tensor, "N"], chosen_N: Bool[Tensor, "N"], top: int
) -> list[tuple[int, int, int]]:
    """The labels that most of the chosen rows have, each with how many of them and how many rows in
    all have it; the smaller label first of equals."""
    if not chosen_N.any():
        return []
    n_chosen_V = torch.bincount(labels_N[chosen_N])
    n_all_V = torch.bincount(labels_N, minlength=len(n_chosen_V))
    order = [int(v) for v in n_chosen_V.argsort(descending=True, stable=True)[:top]]
    return [(v, int(n_chosen_V[v]), int(n_all_V[v])) for v in order if n_chosen_V[v]]
