"""Nested dictionaries at every prefix, and between, beside others of those widths.

As nested representations are evaluated (Matryoshka representation learning, arXiv 2205.13147): at
every trained size, at sizes between, and against what was trained for a size alone.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch

from ....sae.common.errors import InputError
from ....sae.language_model.model import LanguageModel
from ....sae.metrics import ReconstructionMetrics, measure_rows
from ...data.cache.reader import ActivationCache
from ..config import EvalSettings
from ..language_model_figures import (
    Progress,
    TokenProgress,
    language_model_figures,
    model_of_cache,
)
from ..standard_errors import fvu_standard_error
from ..subjects import Subject
from .prefix_view import PrefixView

_ROWS_AT_ONCE = 2048


def widths_of(prefixes: Sequence[int], n_latents: int) -> list[int]:
    """The prefixes, half of the first, the geometric means between neighbors, and the whole."""
    trained = [*prefixes, n_latents]
    between = [round(math.sqrt(a * b)) for a, b in pairwise(trained)]
    return sorted({max(1, trained[0] // 2), *trained, *between})


def measure_prefixes(
    nested: Subject,
    others: Sequence[Subject],
    cache: ActivationCache,
    settings: EvalSettings,
    *,
    widths: Sequence[int] | None = None,
    load_model: Callable[[], LanguageModel] | None = None,
    say: Callable[[str], None] = lambda sentence: None,
    progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Measure a nested dictionary cut after so many latents, and autoencoders beside it.

    A row is encoded once for all prefixes, and the language model runs untouched once.

    Args:
        nested: the dictionary, trained with `prefixes`.
        others: autoencoders of the same site, such as some trained at these widths.
        cache, settings: what they are measured on.
        widths: where to cut; by default as `widths_of`.
        load_model: gives the language model; by default it is loaded, unless `contexts` is 0.
        say: sentences for a person.
        progress: see `Progress`.

    Returns:
        `prefixes`, from the smallest, and `others`: for each `sae`, `latents`, `trained` (whether
        the loss had this prefix; true of others), the measures of `ReconstructionMetrics.result`,
        `fvu_standard_error` over documents and `language_model`, as `evaluate_all` gives them. `l0`
        is that within the prefix, which is not k: compare it before the FVU. `dead_fraction` is of
        the prefix's latents.

    Raises:
        InputError: the dictionary is not nested and no widths are given, or an autoencoder is of
            another site.
    """
    sae = nested.sae
    if widths is None:
        if not sae.config.prefixes:
            raise InputError(
                f"{nested.path} was trained without prefixes, so that none of its parts stands "
                "alone; give one trained with --prefixes"
            )
        widths = widths_of(sae.config.prefixes, sae.config.n_latents)
    for other in others:
        if other.sites != nested.sites:
            raise InputError(
                f"{other.path} stands at {' and '.join(other.sites)}, not where {nested.path} "
                "does; give autoencoders of one site"
            )
    views = [PrefixView(sae, width) for width in sorted(widths)]
    subjects = [Subject(nested.path, view, nested.site, nested.target_site) for view in views]
    subjects += others
    rows = {site: cache.held_out(site=site, limit=settings.rows) for site in nested.sites}
    documents_N = cache.held_out_documents(limit=settings.rows)
    tokens = TokenProgress(progress)
    tokens.total = (1 + len(others)) * len(documents_N)
    losses: list[dict[str, float | int | None] | None] = [None] * len(subjects)
    if settings.contexts:
        load = load_model or (lambda: model_of_cache(cache, settings, sae.W_dec.device, say))
        losses = [*language_model_figures(subjects, cache, settings, rows, tokens, load())]
    given = [rows[site] for site in nested.sites]
    measures = _measure_views(views, given, tokens)
    measures += [measure_rows(other.sae, *given, progress=tokens.add) for other in others]
    trained = {*sae.config.prefixes, sae.config.n_latents}
    results = [
        {
            "sae": subject.path,
            "latents": subject.sae.config.n_latents,
            "trained": number >= len(views) or subject.sae.config.n_latents in trained,
            **measured.result(),
            "fvu_standard_error": fvu_standard_error(
                measured.residual_squares(), given[-1], documents_N
            ),
            "language_model": language_model,
        }
        for number, (subject, measured, language_model) in enumerate(
            zip(subjects, measures, losses, strict=True)
        )
    ]
    return {"prefixes": results[: len(views)], "others": results[len(views) :]}


@torch.no_grad()
def _measure_views(
    views: Sequence[PrefixView], given: Sequence[torch.Tensor], tokens: TokenProgress
) -> list[ReconstructionMetrics]:
    measures = [ReconstructionMetrics(view) for view in views]
    device = views[0].W_dec.device
    for parts in zip(*(torch.split(rows, _ROWS_AT_ONCE) for rows in given), strict=True):
        on_device = [part.to(device) for part in parts]
        codes = views[0].whole.encode(on_device[0])
        for view, measured in zip(views, measures, strict=True):
            measured.update(*on_device, codes=view.restricted(codes))
        tokens.add(len(parts[0]))
    return measures
