"""The check of a site before an autoencoder is trained there."""

from collections.abc import Callable

import torch

from ....sae.language_model.model import LanguageModel
from ...data.cache.rounding import rounding_fraction
from .massive_activations import (
    all_alike,
    coordinate_figures,
    geometry,
    kind_figures,
    massive_coordinates,
    median_magnitude,
    norm_quantiles,
    outlier_figures,
    outlier_rows,
)
from .site_check_config import SiteCheckConfig
from .site_findings import Geometry, SiteFindings
from .site_rows import SiteRows, rows_of_cache, rows_of_model

_STORED = ("float16", "bfloat16")
"""Dtypes that a cache takes by default, on one device or the other."""
_ROUNDED_ROWS = 4096


def check_site(
    config: SiteCheckConfig,
    *,
    model: LanguageModel | None = None,
    say: Callable[[str], None] = lambda sentence: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> SiteFindings:
    """Look at massive activations and rows of enormous norm at a site, and at what they do to the
    input scale that training would estimate. `recommendation` of site_advice.py says what to make
    of it.

    Args:
        config: the site, of a model on a corpus or of a cache.
        model: `config.model` if it is loaded already.
        say: sentences for a person.
        progress: told the rows read so far, and those wanted.

    Raises:
        InputError: the source is not found or does not have the site, or its rows are all alike,
            not finite, or mostly 0.
        FetchError: a fetched name cannot be brought.
    """
    if config.cache is not None:
        return measure_site(rows_of_cache(config), config)
    return measure_site(rows_of_model(config, model=model, say=say, progress=progress), config)


def measure_site(rows: SiteRows, config: SiteCheckConfig) -> SiteFindings:
    """What rows of a site show; see `check_site`.

    Args:
        rows: all that were read.
        config: what counts as large, and how much is listed.

    Raises InputError if content rows are all alike, or half of their values 0.
    """
    content_MD = rows.acts[rows.is_content]
    of_content = geometry(content_MD)
    unit = median_magnitude(content_MD)
    massive_from = unit * config.massive_ratio
    outlier_N = outlier_rows(rows, config.outlier_norm)
    some_ND = content_MD[:: max(1, len(content_MD) // _ROUNDED_ROWS)]
    dtypes = _STORED if rows.dtype is None else (rows.dtype,)
    return SiteFindings(
        model=rows.model,
        dataset=rows.dataset,
        cache=config.cache,
        site=rows.site,
        d_model=rows.acts.shape[1],
        context_length=rows.context_length,
        rows=len(content_MD),
        median_magnitude=unit,
        massive_ratio=config.massive_ratio,
        outlier_norm=config.outlier_norm,
        kinds=kind_figures(rows, massive_from),
        norm_quantiles=norm_quantiles(content_MD),
        coordinates=coordinate_figures(rows, unit, massive_from, config.top),
        massive_coordinates=int(massive_coordinates(rows.acts, massive_from).sum()),
        outliers=outlier_figures(rows, outlier_N, config.top),
        geometry={
            "content": of_content,
            **_without(rows, outlier_N, massive_from, of_content.input_scale),
        },
        rounding={dtype: rounding_fraction(some_ND, dtype) for dtype in dtypes},
        unknown=_unknown(config),
    )


def _without(
    rows: SiteRows, outlier_N: torch.Tensor, massive_from: float, scale: float
) -> dict[str, Geometry]:
    """The geometry with the rows that training leaves out, without outliers, and without massive
    coordinates, as far as there are any; not of what would be all alike."""
    content_MD = rows.acts[rows.is_content]
    massive_D = massive_coordinates(content_MD, massive_from)
    others: dict[str, torch.Tensor] = {}
    if not rows.is_content.all():
        others["excluded"] = rows.acts
    if outlier_N.any():
        others["outliers"] = rows.acts[rows.is_content & ~outlier_N]
    if massive_D.any() and not massive_D.all():
        others["massive_coordinates"] = content_MD[:, ~massive_D]
    return {name: geometry(x, scale) for name, x in others.items() if not all_alike(x)}


def _unknown(config: SiteCheckConfig) -> tuple[str, ...]:
    if config.cache is None:
        return ()
    return (
        "a cache does not hold the positions that it left out (BOS, separators, the first token of "
        "a context), so nothing is known of them; give --model and --dataset to look at them",
        "a cache does not hold the text of tokens, so they are shown by their ids",
    )
