"""What a fit does to texts of no special kind: how far it shifts the model, and its gate's rate."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from ...kernels.numerics import row_norms
from ...sae.language_model.model import LanguageModel
from .applying import applied, change_of
from .capture import sites_in_order, tokenize_texts
from .config import FitConfig, Pool
from .fitted import FittedEdit
from .pooling import last_token, pooled_rows, text_mean, token_rows
from .shift import measure_shift
from .site_fit import SiteGate

_QUANTILES = {"p5": 0.05, "median": 0.5, "p95": 0.95}


def shift_of(
    model: LanguageModel, edits: Sequence[FittedEdit], texts: Sequence[str], config: FitConfig
) -> dict[str, Any]:
    """What edits change at strength 1 in the next-token distribution: the fields of `Shift`.

    Raises:
        InputError: no text has a content token.
    """
    shift = measure_shift(
        model,
        lambda: applied(model, edits),
        texts,
        batch_size=config.batch_size,
        max_length=config.max_length,
    )
    return asdict(shift)


def change_norms(
    model: LanguageModel, edits: Sequence[FittedEdit], texts: Sequence[str], config: FitConfig
) -> dict[str, float]:
    """How long the change at strength 1 is beside the activation that it is added to.

    Returns:
        `p5`, `median` and `p95` of |T(h) - h| / |h| over the content tokens at the edits' sites;
        the h are those of the base model.
    """
    sites = sites_in_order(model, [edit.site for edit in edits])
    tokens = tokenize_texts(model, texts, config.max_length)
    rows = token_rows(model, sites, tokens, config.batch_size, seed=config.seed).rows
    ratios: list[Tensor] = []
    for name, rows_ND in rows.items():
        changes = [change_of(edit, rows_ND) for edit in edits if edit.site == name]
        ratios.append(row_norms(torch.stack(changes).sum(0)) / row_norms(rows_ND))
    ratios_N = torch.cat(ratios)
    return {name: float(ratios_N.quantile(at)) for name, at in _QUANTILES.items()}


def mean_opening(
    model: LanguageModel,
    site: str,
    gate: SiteGate,
    texts: Sequence[str],
    config: FitConfig,
    pool: Pool,
) -> float:
    """How far a gate is open: the mean over texts, or over tokens if it was fitted to single ones.

    Of a gate that is open or shut this is the rate at which it fires.
    """
    tokens = tokenize_texts(model, texts, config.max_length)
    sites = [model.site(site)]
    if pool == "each":
        found = token_rows(model, sites, tokens, config.batch_size, seed=config.seed)
    else:
        weights = last_token(tokens) if pool == "last" else text_mean(tokens)
        found = pooled_rows(model, sites, tokens, weights, config.batch_size)
    return float(gate.opening(found.rows[site]).mean())
