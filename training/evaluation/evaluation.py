"""Evaluation on held-out text: reconstruction, sparsity, overlap, and the model with the SAE in."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...sae.common.devices import resolve_device
from ...sae.fingerprint import sae_fingerprint
from ...sae.language_model.model import LanguageModel
from ...sae.metrics import ReconstructionMetrics, measure_rows
from ..cautions import cautions, cautions_of_few
from ..chosen_precision import measuring_precision, products_in
from ..data.cache.reader import ActivationCache
from .config import EvalConfig, EvalSettings
from .conversion_faults import Rows, likely_causes
from .language_model_figures import (
    Progress,
    TokenProgress,
    language_model_figures,
    model_of_cache,
)
from .standard_errors import fvu_standard_error
from .subjects import Subject, opened_subject

_DENSITY_EDGES = [-6.0 + 0.25 * step for step in range(25)]
"""log10 of the firing rate, from one row in a million to every row."""
_MOST_OVERLAP_ROWS = 16_384
_OVERLAP_ROWS_AT_ONCE = 1024
_ROWS_IN_PLOT = 400


def evaluate(
    config: EvalConfig,
    *,
    say: Callable[[str], None] = lambda sentence: None,
    progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Measure one autoencoder; see `evaluate_all`."""
    (result,) = evaluate_all([config.sae], config, say=say, progress=progress)
    return result


def evaluate_all(
    saes: Sequence[str],
    settings: EvalSettings,
    *,
    say: Callable[[str], None] = lambda sentence: None,
    progress: Progress = lambda done, total: None,
) -> list[dict[str, Any]]:
    """Measure the autoencoders of folders, or of runs, on the cache's held-out part.

    See `evaluate_subjects`, which measures autoencoders in memory and says what is found.

    Args:
        saes: folders of autoencoders, or of runs.
        settings: the cache, and how much of it.
        say: sentences for a person.
        progress: see `Progress`.
    """
    device = resolve_device(settings.device)
    measuring_precision(settings.precision, device)  # before anything is read
    cache = ActivationCache(settings.cache)
    subjects = [opened_subject(path, cache, settings, device, say) for path in saes]
    return evaluate_subjects(subjects, cache, settings, say=say, progress=progress)


def evaluate_subjects(
    subjects: Sequence[Subject],
    cache: ActivationCache,
    settings: EvalSettings,
    *,
    load_model: Callable[[], LanguageModel] | None = None,
    say: Callable[[str], None] = lambda sentence: None,
    progress: Progress = lambda done, total: None,
) -> list[dict[str, Any]]:
    """Measure autoencoders on the cache's held-out part; they share everything that can be shared.

    Held-out rows are read once a site, the untouched model and its ablations run once a site. All
    autoencoders are in memory together. A transcoder is measured against the site that it predicts:
    there its output for what it reads in the same forward pass is put, and there is ablated.

    Args:
        subjects: autoencoders, see `subject_of`.
        cache: the cache of the settings.
        settings: how much of it.
        load_model: gives the language model; by default it is loaded, unless `contexts` is 0.
        say: sentences for a person.
        progress: see `Progress`.

    Returns:
        For each autoencoder its `fingerprint`, see `sae_fingerprint`; `precision`, what its
        products multiplied while its rows were measured, float32 or tf32; the measures of
        `ReconstructionMetrics.result`; `fvu_standard_error`, see `fvu_standard_error`, and over how
        many `documents`; `warnings`, sentences; `decoder_overlap`, see `mean_absolute_cosine`;
        `density_histogram` with `log10_edges`, `latents` in each bin and `dead`; `norms` of up to
        400 of the rows, for the ZF plot, as `row` and `code`, see `ReconstructionMetrics.norms`;
        and `language_model`, None where `contexts` is 0: for the model untouched, with the
        autoencoder, zero-ablated and mean-ablated its mean next-token loss (`loss`,
        `loss_with_sae`, ...) and the mean KL divergence from the untouched predictions
        (`kl_with_sae`, ...), both in nats; `loss_recovered` = (zero_ablated - with_sae) /
        (zero_ablated - loss), `kl_recovered` = 1 - kl_with_sae / kl_zero_ablated, both also
        `_from_mean`, None where ablation costs nothing that could be recovered; each also with
        `_standard_error`, see `ratio_standard_error`, the contexts being the clusters; and the
        contexts and tokens they rest on. `site` is where it reads; a transcoder has `target_site`,
        too.

    Raises:
        InputError: autoencoder, cache and language model do not belong together, or all rows are
            the same.
    """
    device = resolve_device(settings.device)
    precision = measuring_precision(settings.precision, device)
    tokens = TokenProgress(progress)
    sites = list(dict.fromkeys(site for subject in subjects for site in subject.sites))
    rows = {site: cache.held_out(site=site, limit=settings.rows) for site in sites}
    documents_N = cache.held_out_documents(limit=settings.rows)
    tokens.total = sum(len(rows[subject.site]) for subject in subjects)
    losses: list[dict[str, float | int | None] | None] = [None] * len(subjects)
    if settings.contexts:
        say(f"putting autoencoders into {settings.model or cache.manifest.model}")
        load = load_model or (lambda: model_of_cache(cache, settings, device, say))
        losses = [*language_model_figures(subjects, cache, settings, rows, tokens, load())]
    results: list[dict[str, Any]] = []
    for subject, language_model in zip(subjects, losses, strict=True):
        given = (rows[site] for site in subject.sites)
        with products_in(precision, device):
            measures = measure_rows(subject.sae, *given, progress=tokens.add)
        found = measures.result()
        elsewhere = {}
        if found["fvu"] > 1:
            others = [site for site in cache.sites if site not in subject.sites]
            elsewhere = {s: cache.held_out(site=s, limit=settings.rows) for s in others}
        result: dict[str, Any] = {
            "sae": subject.path,
            "cache": settings.cache,
            "site": subject.site,
            **({"target_site": subject.target_site} if subject.target_site else {}),
            **subject.sae.description(),
            "fingerprint": sae_fingerprint(subject.sae),
            "precision": precision,
            **found,
            "fvu_standard_error": fvu_standard_error(
                measures.residual_squares(), rows[subject.written], documents_N
            ),
            "documents": (n_documents := len(np.unique(documents_N.numpy()))),
            "warnings": [
                *cautions_of_few(len(documents_N), n_documents, language_model),
                *_conversion_hints(subject, found, rows, elsewhere),
                *cautions(found),  # last, where it cannot be missed
            ],
            "decoder_overlap": mean_absolute_cosine(subject.sae.W_dec.detach()),
            "density_histogram": density_histogram(measures.firing_rates()),
            "norms": _norms(measures),
            "language_model": language_model,
        }
        if language_model is not None:
            result["loss_recovered"] = language_model["loss_recovered"]
        results.append(result)
    return results


def density_histogram(rates_F: Float[Tensor, "F"]) -> dict[str, Any]:
    """Latents by log10 of their firing rate; those that never fired are counted as dead."""
    alive = rates_F[rates_F > 0]
    edges = torch.tensor(_DENSITY_EDGES, dtype=torch.float64)
    bins = torch.bucketize(alive.log10(), edges[1:-1], right=True)
    counts = torch.bincount(bins, minlength=len(edges) - 1)
    return {
        "log10_edges": _DENSITY_EDGES,
        "latents": [int(count) for count in counts],
        "dead": int((rates_F == 0).sum()),
    }


def _norms(measures: ReconstructionMetrics) -> dict[str, list[float]]:
    row_N, code_N = measures.norms(_ROWS_IN_PLOT).unbind(-1)
    return {
        name: [float(f"{float(norm):.6g}") for norm in norms_N]
        for name, norms_N in (("row", row_N), ("code", code_N))
    }


def mean_absolute_cosine(W_dec: Float[Tensor, "F D"]) -> float:
    """The mean of |cos| over all pairs of decoder rows; 0 for a single row.

    Proposed as a guide to L0, being least where that is the data's own (arXiv 2508.16560). It tells
    of an L0 too low; in examples/recover_known_features.py it does not tell of one too high. Of
    more than 16,384 rows as many are taken, evenly spread.
    """
    if len(W_dec) > _MOST_OVERLAP_ROWS:
        steps = torch.arange(_MOST_OVERLAP_ROWS, device=W_dec.device)
        W_dec = W_dec[steps * len(W_dec) // _MOST_OVERLAP_ROWS]
    unit_FD = torch.nn.functional.normalize(W_dec.float(), dim=-1)
    total = 0.0
    for block_BD in torch.split(unit_FD, _OVERLAP_ROWS_AT_ONCE):
        total += float((block_BD @ unit_FD.T).abs().double().sum())
    own = float(unit_FD.square().sum(-1).double().sum())
    return (total - own) / max(len(unit_FD) * (len(unit_FD) - 1), 1)


def _conversion_hints(
    subject: "Subject",
    found: Mapping[str, float | int],
    rows: Mapping[str, Tensor],
    elsewhere: Mapping[str, Tensor],
) -> list[str]:
    """What explains an FVU above 1, if it is a mistake of conversion or the site."""
    if found["fvu"] <= 1:
        return []
    target = None if subject.target_site is None else rows[subject.target_site]
    others = {f"its site is {site}: give --site {site}": Rows(x) for site, x in elsewhere.items()}
    causes = likely_causes(
        subject.sae,
        Rows(rows[subject.site], target),
        stated_l0=None if (k := subject.sae.config.latents_of_row) is None else float(k),
        elsewhere=others if target is None else {},
    )
    return [
        f"if another library trained it, likely {cause.cause} (its FVU is {cause.fvu:.4g} then)"
        for cause in causes
    ]
