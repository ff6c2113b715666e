"""The verb `site check`."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..sae.common.wording import count, counted
from ..training.evaluation.site.site_advice import recommendation, token_name
from ..training.evaluation.site.site_check_config import SiteCheckConfig
from .console import Report, Terminal, headed_grid, table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..training.evaluation.site.site_findings import Carriers, SiteFindings

_KINDS = {
    "bos": "BOS",
    "separator": "separator",
    "first_token": "first token",
    "content": "content",
}
_GEOMETRY = {
    "content": "as training reads",
    "excluded": "with what it excludes",
    "outliers": "without outliers",
    "massive_coordinates": "without massive coordinates",
}
_LEAST = 3
"""Coordinates that are shown where none has a massive value."""
_MUCH = 0.1
"""Part of the mean squared norm with which a coordinate is shown, massive or not."""
_IN_A_CELL = 3
"""Positions or tokens of a coordinate."""


def check(config: SiteCheckConfig, terminal: Terminal) -> Report:
    """Say before training what at a site would spoil it, and what to leave out.

    Looks for massive activations, in which coordinates, positions and tokens they are, and for rows
    of enormous norm; measures what they do to the input scale that training would estimate. Give
    --model and --dataset, or --cache.
    """
    from ..training.evaluation.site.site_check import check_site

    with terminal.progress("reading", "rows") as update:
        found = check_site(
            config, say=terminal.say, progress=lambda done, total: update(done, total, "")
        )
    advice = recommendation(found)
    shown: list[RenderableType] = [
        _title(found),
        _norms(found),
        "norms of rows that training reads, by the fraction of them below, in units of the median: "
        + ", ".join(f"{100 * float(q):g}% {x:.3g}" for q, x in found.norm_quantiles.items()),
        *_outliers(found),
        _coordinates_title(found),
        _coordinates(found),
        "the input scale that training would estimate, and the mean cosine of two rows:",
        _geometry(found),
        "recommendation:",
        *(f"- {sentence}" for sentence in advice),
        *(f"not known: {sentence}" for sentence in found.unknown),
    ]
    return Report(values=_values(found, advice), shown=shown)


def _values(found: "SiteFindings", advice: Sequence[str]) -> dict[str, Any]:
    """The findings by the names of their fields, and the sentences about them."""
    return {**dataclasses.asdict(found), "recommendation": list(advice)}


def _title(found: "SiteFindings") -> str:
    where = f"cached in {found.cache}" if found.cache else f"on {found.dataset}"
    return (
        f"{found.site} of {found.model}, {where}: {counted(found.rows, 'row')} that training "
        f"reads, of width {found.d_model}, in contexts of {count(found.context_length)} tokens"
    )


def _norms(found: "SiteFindings") -> "RenderableType":
    grid = headed_grid("rows", ">number", ">median norm", ">largest", ">with massive values")
    for name, kind in found.kinds.items():
        grid.add_row(
            _KINDS[name],
            count(kind.rows),
            f"{kind.median_norm:.4g} ({kind.ratio:.3g}x)",
            f"{kind.largest_norm:.4g} ({kind.largest_ratio:.3g}x)",
            count(kind.massive_rows),
        )
    return grid


def _outliers(found: "SiteFindings") -> "list[RenderableType]":
    """The rows of enormous norm, and where they are; nothing where there are none."""
    outliers = found.outliers
    if not outliers.rows:
        return []
    return [
        f"{counted(outliers.rows, 'row')} ({100 * outliers.fraction:.2g}%) above "
        f"{found.outlier_norm:g} times the median norm, by position and token:",
        table(*_places(outliers.carriers)),
    ]


def _places(carriers: "Carriers") -> list[tuple[str, str, str]]:
    return [
        *(
            (f"position {one.position}", count(one.rows), f"of {counted(one.of, 'row')} there")
            for one in carriers.positions
        ),
        *(
            (token_name(one), count(one.rows), f"of {counted(one.of, 'row')} at it")
            for one in carriers.tokens
        ),
    ]


def _coordinates_title(found: "SiteFindings") -> str:
    massive = found.median_magnitude * found.massive_ratio
    what = "with massive values" if found.massive_coordinates else "with the largest values"
    return (
        f"coordinates {what}, which are massive from {massive:.4g} on, {found.massive_ratio:g} "
        f"times the median magnitude ({counted(found.massive_coordinates, 'coordinate')} in all):"
    )


def _coordinates(found: "SiteFindings") -> "RenderableType":
    grid = headed_grid(
        ">coordinate",
        ">largest",
        ">excluded",
        ">share",
        ">centered",
        ">rows",
        "positions",
        "tokens",
    )
    striking = [
        one
        for one in found.coordinates
        if one.massive or max(one.share, one.share_centered) >= _MUCH
    ]
    for one in striking or found.coordinates[:_LEAST]:
        carriers = one.carriers
        grid.add_row(
            str(one.coordinate),
            f"{one.ratio:,.4g}x",
            "" if one.ratio_excluded is None else f"{one.ratio_excluded:,.4g}x",
            f"{100 * one.share:.2g}%",
            f"{100 * one.share_centered:.2g}%",
            count(carriers.rows),
            ", ".join(str(place.position) for place in carriers.positions[:_IN_A_CELL]),
            " ".join(token_name(token) for token in carriers.tokens[:_IN_A_CELL]),
        )
    return grid


def _geometry(found: "SiteFindings") -> "RenderableType":
    grid = headed_grid("rows", ">number", ">input scale", ">ratio", ">cosine", ">centered")
    names: Mapping[str, str] = _GEOMETRY
    for name, one in found.geometry.items():
        grid.add_row(
            names[name],
            count(one.rows),
            f"{one.input_scale:.4g}",
            f"{one.scale_ratio:.3g}",
            f"{one.mean_cosine:.3f}",
            f"{one.mean_cosine_centered:.3f}",
        )
    return grid
