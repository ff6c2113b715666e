"""Reconstruction and sparsity by what stands at a position, and by the norm of the row.

An activation cache leaves out BOS, separators and the first token of a context, so the language
model reads the held-out contexts again, at every position.
"""

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...kernels.numerics import row_norms
from ...sae.common.errors import InputError
from ...sae.language_model.model import LanguageModel
from ...sae.language_model.sites import read_sites
from ..chosen_precision import measuring_precision, products_in
from ..data.cache.reader import ActivationCache
from .config import EvalSettings
from .standard_errors import ratio_standard_error
from .subjects import Subject

CLASSES = ("special", "first", "delimiter", "content")
"""BOS, EOS and padding as text; the first other token of a context; other tokens of punctuation and
white space alone; all the rest. Autoencoders are trained on the last two."""
_SPECIAL, _FIRST, _DELIMITER, _CONTENT = range(len(CLASSES))

NORM_QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
"""Ends of the groups of rows by their norm."""

_CONTEXTS_AT_ONCE = 8


@dataclass(frozen=True)
class _Positions:
    """Every position with text, in order: N of C contexts."""

    kind: Int[Tensor, "N"]
    """Index into `CLASSES`."""
    context: Int[Tensor, "N"]

    @property
    def is_trained(self) -> Bool[Tensor, "N"]:
        return self.kind >= _DELIMITER


@dataclass
class _Sums:
    """What is found about every position, float64 on the CPU."""

    residual: list[Tensor]
    """||x - x_hat||^2."""
    square: list[Tensor]
    """||x - mean||^2."""
    active: list[Tensor]
    norm: list[Tensor]


def figures_by_class(
    subjects: Sequence[Subject],
    cache: ActivationCache,
    settings: EvalSettings,
    model: LanguageModel,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[dict[str, Any]]:
    """Measure autoencoders at every position of the cache's held-out contexts, by class and norm.

    The model runs once for all of them.

    Args:
        subjects: autoencoders.
        cache: the cache of the settings.
        settings: `contexts` of it are read.
        model: the language model of the cache.
        progress: told the tokens read so far, and those in all.

    Returns:
        For each autoencoder `contexts`, how many were read; `classes`, figures by the names in
        `CLASSES`, those of which there are rows; and `norm_quantiles`, a list of figures of the
        rows of the classes delimiter and content, grouped by the norm of the row that is read:
        `from` and `to`, as fractions of the rows, and `norm_from` and `norm_to`. Figures are
        `rows`; `share`, the fraction of all rows (of the rows grouped); `fvu`, squared error over
        squared distance from the mean row of the cache's held-out rows, so that it means the same
        in all classes, where a mean of their own would leave the all but constant row of BOS with
        no variance; `l0`, mean active latents; `mean_norm`; and `fvu_standard_error` and
        `l0_standard_error` over contexts, see `ratio_standard_error`.

    Raises:
        InputError: `contexts` is 0, or an activation is not finite.
    """
    if not settings.contexts:
        raise InputError("contexts is 0, but classes are measured in contexts; give 1 or more")
    tokens_CL, mask_CL = cache.held_out_contexts(settings.contexts)
    positions = positions_of(tokens_CL, mask_CL, model)
    names = list(dict.fromkeys(site for subject in subjects for site in subject.sites))
    reader = model.fastest(names)
    sites = [reader.site(name) for name in names]
    means = {
        subject.written: cache.held_out(site=subject.written, limit=settings.rows).double().mean(0)
        for subject in subjects
    }
    sums = [_Sums([], [], [], []) for _ in subjects]
    done = 0
    batches = (torch.split(part, _CONTEXTS_AT_ONCE) for part in (tokens_CL, mask_CL))
    for tokens_BL, mask_BL in zip(*batches, strict=True):
        # Padding stands behind the text, where causal attention does not see it.
        acts = read_sites(reader, sites, tokens_BL)
        rows = {name: acts[name][mask_BL.to(acts[name].device)].float() for name in names}
        for name, rows_ND in rows.items():
            if not rows_ND.isfinite().all():
                raise InputError(
                    f"the model gives NaN or infinite activations at {name}; check its weights, "
                    "or give a wider --model-dtype"
                )
        for subject, found in zip(subjects, sums, strict=True):
            _add(found, subject, rows, means[subject.written], settings)
        done += tokens_BL.numel()
        progress(done, tokens_CL.numel())
    return [_figures(found, positions, len(tokens_CL)) for found in sums]


def positions_of(
    tokens_CL: Int[Tensor, "C L"], mask_CL: Bool[Tensor, "C L"], model: LanguageModel
) -> _Positions:
    """The class of every position with text."""
    special = torch.isin(tokens_CL, torch.tensor(model.special_ids, dtype=tokens_CL.dtype))
    kind = torch.full_like(tokens_CL, _FIRST)
    kind[special] = _SPECIAL
    is_trained = ~model.excluded_tokens(tokens_CL, mask_CL)
    kind[is_trained] = _CONTENT
    tokenizer: Any = model.tokenizer
    used = sorted({int(token) for token in tokens_CL[is_trained]})
    texts = {token: str(tokenizer.decode([token])) for token in used}
    delimiters = [token for token, text in texts.items() if is_delimiter(text)]
    kind[is_trained & torch.isin(tokens_CL, torch.tensor(delimiters, dtype=tokens_CL.dtype))] = (
        _DELIMITER
    )
    contexts = torch.arange(len(tokens_CL))[:, None].expand_as(tokens_CL)
    return _Positions(kind[mask_CL], contexts[mask_CL])


def is_delimiter(text: str) -> bool:
    """Whether a token is nothing but punctuation and white space."""
    return bool(text) and all(c.isspace() or unicodedata.category(c)[0] == "P" for c in text)


@torch.no_grad()
def _add(
    found: _Sums,
    subject: Subject,
    rows: Mapping[str, Float[Tensor, "N D"]],
    mean_D: Float[Tensor, "D"],
    settings: EvalSettings,
) -> None:
    """Add what an autoencoder makes of the rows of some contexts."""
    sae = subject.sae
    device = sae.W_dec.device
    x_ND, target_ND = rows[subject.site].to(device), rows[subject.written].to(device).double()
    with products_in(measuring_precision(settings.precision, device), device):
        codes = sae.encode(x_ND)
        rebuilt_ND = sae.reconstruct(x_ND, codes).double()
    found.residual.append((target_ND - rebuilt_ND).square().sum(-1).cpu())
    found.square.append((target_ND - mean_D.to(device)).square().sum(-1).cpu())
    found.active.append((codes.values > 0).sum(-1).double().cpu())
    found.norm.append(row_norms(x_ND).double().cpu())


def _figures(found: _Sums, positions: _Positions, n_contexts: int) -> dict[str, Any]:
    residual_N, square_N, active_N, norm_N = (
        torch.cat(parts) for parts in (found.residual, found.square, found.active, found.norm)
    )

    def of(chosen_N: Tensor, n_of: int) -> dict[str, Any]:
        context_M = positions.context[chosen_N]
        n_rows = int(chosen_N.sum())
        is_there_C = torch.bincount(context_M, minlength=n_contexts) > 0

        def per_context(values_M: Tensor) -> Tensor:
            sums_C = torch.zeros(n_contexts, dtype=torch.float64).index_add_(0, context_M, values_M)
            return sums_C[is_there_C]

        rows_C = per_context(torch.ones(n_rows, dtype=torch.float64))
        missed_C, about_mean_C = per_context(residual_N[chosen_N]), per_context(square_N[chosen_N])
        active_C = per_context(active_N[chosen_N])
        total = float(about_mean_C.sum())
        return {
            "rows": n_rows,
            "share": n_rows / n_of,
            "fvu": float(missed_C.sum()) / total if total else None,
            "fvu_standard_error": ratio_standard_error(missed_C, about_mean_C),
            "l0": float(active_C.sum()) / n_rows,
            "l0_standard_error": ratio_standard_error(active_C, rows_C),
            "mean_norm": float(norm_N[chosen_N].mean()),
        }

    trained_N = positions.is_trained
    return {
        "contexts": n_contexts,
        "classes": {
            name: of(chosen_N, len(norm_N))
            for number, name in enumerate(CLASSES)
            if (chosen_N := positions.kind == number).any()
        },
        "norm_quantiles": [
            {
                "from": low,
                "to": high,
                "norm_from": float(norm_N[chosen_N].min()),
                "norm_to": float(norm_N[chosen_N].max()),
                **of(chosen_N, int(trained_N.sum())),
            }
            for low, high, chosen_N in _by_norm(norm_N, trained_N)
        ],
    }


def _by_norm(
    norm_N: Float[Tensor, "N"], trained_N: Bool[Tensor, "N"]
) -> list[tuple[float, float, Tensor]]:
    """Groups of the rows that are trained on by rank of their norm, those that are not empty."""
    numbers_M = trained_N.nonzero()[:, 0]
    sorted_M = numbers_M[norm_N[numbers_M].argsort(stable=True)]
    groups: list[tuple[float, float, Tensor]] = []
    for low, high in pairwise(NORM_QUANTILES):
        part = sorted_M[round(low * len(sorted_M)) : round(high * len(sorted_M))]
        if len(part):
            chosen_N = torch.zeros_like(trained_N)
            chosen_N[part] = True
            groups.append((low, high, chosen_N))
    return groups
