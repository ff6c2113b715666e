"""What a fit does to texts of no special kind: how far it shifts the model, and its gate's rate."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...kernels.numerics import row_norms
from ...sae.autoencoder import SparseAutoencoder
from ...sae.language_model.model import LanguageModel
from ...sae.language_model.sites import Site
from ..interventions.intervention import Intervention
from ..interventions.steering import SteeringRun, steer
from .capture import batches_by_length, padded, tokenize_texts
from .config import FitConfig, Pool
from .fitted import Fitted
from .pooling import last_token, pooled_rows, text_mean, token_rows
from .shift import measure_shift
from .site_fit import SiteGate

_QUANTILES = {"p5": 0.05, "median": 0.5, "p95": 0.95}

_Part = tuple[Intervention, SparseAutoencoder | None]


def with_neutral(
    fitted: Fitted,
    model: LanguageModel,
    texts: Sequence[str],
    *,
    saes: Mapping[str, SparseAutoencoder] | None = None,
    batch_size: int,
    max_length: int | None = None,
) -> Fitted:
    """The fit with what it does to texts that it is not meant for, at their content tokens.

    Args:
        fitted: what was fitted; nothing is measured where it has no edit.
        model: the language model.
        texts: nothing is measured where there are none.
        saes: the autoencoder of each site at which latents are edited.
        batch_size: texts in one forward pass.
        max_length: tokens read of each text, by default 256.

    Returns:
        The same with `neutral_kl` and `change_norm` in its report, and among its details
        `neutral`, the fields of a `Shift`.

    Raises:
        InputError: no text has a content token, or steering so gives NaN.
    """
    if not texts or not fitted.edits:
        return fitted
    parts: list[_Part] = [(fitted.intervention, None)]
    if saes:
        whole = fitted.intervention
        parts = [(_at(whole, name), saes.get(name)) for name in whole.sites]

    def steering() -> AbstractContextManager[object]:
        stack = ExitStack()
        for intervention, sae in parts:
            stack.enter_context(steer(model, sae, intervention))
        return stack

    shift = measure_shift(model, steering, texts, batch_size=batch_size, max_length=max_length)
    report = dataclasses.replace(
        fitted.report,
        neutral_kl=shift.kl_steered_base,
        change_norm=change_norms(model, parts, texts, batch_size=batch_size, max_length=max_length),
        details={**fitted.report.details, "neutral": dataclasses.asdict(shift)},
    )
    return dataclasses.replace(fitted, report=report)


@torch.no_grad()
def change_norms(
    model: LanguageModel,
    parts: Sequence[_Part],
    texts: Sequence[str],
    *,
    batch_size: int,
    max_length: int | None = None,
) -> dict[str, float]:
    """How long the change is beside the activation that it is added to.

    Args:
        model: the language model.
        parts: interventions and the autoencoder of each; all steer at once.
        texts, batch_size, max_length: as for `with_neutral`.

    Returns:
        `p5`, `median` and `p95` of |h' - h| / |h| over the content tokens at all edited sites; h is
        what the edits there find, which edits at earlier sites have changed.
    """
    ratios: list[Tensor] = []
    reads = tokenize_texts(model, texts, max_length)
    at_once = 1 if "right" in model.wrong_padding else batch_size
    for numbers in batches_by_length(reads, at_once):
        chosen = [reads[number] for number in numbers]
        tokens_BL, mask_BL = padded(model, chosen)
        content_BL = torch.zeros_like(mask_BL)
        for row, text in enumerate(chosen):
            content_BL[row, : len(text.ids)] = text.content_L

        def note(
            h_BLD: Tensor, change: Tensor, content_BL: Bool[Tensor, "B L"] = content_BL
        ) -> None:
            at_BL = content_BL.to(h_BLD.device)
            rows_ND, change_ND = h_BLD[at_BL].double(), change.expand_as(h_BLD)[at_BL].double()
            ratios.append((row_norms(change_ND) / row_norms(rows_ND).clamp(min=1e-300)).cpu())

        with ExitStack() as stack:
            for intervention, sae in parts:
                stack.enter_context(_NotingRun(intervention, model, sae, note))
            model.before_head(tokens_BL, mask_BL)
    ratios_N = torch.cat(ratios)
    return {name: float(ratios_N.quantile(at)) for name, at in _QUANTILES.items()}


class _NotingRun(SteeringRun):
    """Steers, and tells of each change."""

    def __init__(
        self,
        intervention: Intervention,
        model: LanguageModel,
        sae: SparseAutoencoder | None,
        note: Callable[[Tensor, Tensor], None],
    ) -> None:
        super().__init__(intervention, model, sae)
        self._note = note

    def change_at(self, site: Site, h_BLD: Float[Tensor, "B L D"]) -> Float[Tensor, "..."] | None:
        change = super().change_at(site, h_BLD)
        if change is not None:
            self._note(h_BLD, change)
        return change


def _at(intervention: Intervention, site: str) -> Intervention:
    """The intervention's edits at one of its sites."""
    edits = tuple(edit for edit in intervention.edits if edit.site == site)
    return dataclasses.replace(intervention, edits=edits)


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
