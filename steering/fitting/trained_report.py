"""What is measured of a fit: how it separates texts it was not fitted to, and what it costs."""

import random
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...kernels.numerics import row_norms
from ...sae.common.errors import InputError
from ...sae.language_model.model import LanguageModel
from .affine_maps import aurocs
from .trained_capture import SiteEdit, TextBatch, in_order, site_activations


def held_out_split(
    rows: Sequence[list[int]], fraction: float, seed: int
) -> tuple[list[list[int]], list[list[int]]]:
    """Texts to fit to, and those held out: a fraction of them rounded down, drawn with the seed.

    Raises:
        InputError: fewer than two would be left to fit to.
    """
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    n_held_out = int(fraction * len(rows))
    if len(rows) - n_held_out < 2:
        raise InputError(
            f"there are {len(rows)} texts to fit to, of which {n_held_out} are held out; give at "
            "least two more"
        )
    held_out = set(order[:n_held_out])
    fitted = [row for number, row in enumerate(rows) if number not in held_out]
    return fitted, [rows[number] for number in sorted(held_out)]


def separation(
    direction_D: Float[Tensor, "D"],
    positive_ND: Float[Tensor, "N D"],
    negative_MD: Float[Tensor, "M D"],
) -> dict[str, float]:
    """How far a direction tells two sets of rows apart.

    Returns:
        `auroc` of the projection, `d_prime` (gap of the means in pooled standard deviations; 0 if
        nothing varies), `n_positive` and `n_negative`.
    """
    sides = [(rows.double() @ direction_D.double()) for rows in (positive_ND, negative_MD)]
    deviation = torch.stack([side.var(correction=0) for side in sides]).mean().sqrt()
    gap = sides[0].mean() - sides[1].mean()
    return {
        "auroc": float(aurocs(sides[0][:, None], sides[1][:, None])),
        "d_prime": float(gap / deviation) if deviation > 0 else 0.0,
        "n_positive": float(len(positive_ND)),
        "n_negative": float(len(negative_MD)),
    }


@torch.no_grad()
def neutral_measures(
    model: LanguageModel, edits: Mapping[str, SiteEdit], batches: Sequence[TextBatch]
) -> dict[str, Any]:
    """What edits do to texts that they are not meant for, at their content tokens.

    Args:
        model: the language model.
        edits: what changes the activation at each site, all at once.
        batches: the texts; none are allowed.

    Returns:
        `neutral_kl` and `change_norm` as in a `FitReport`; the norms are of all sites together,
        each beside the activation that it finds there. Nothing for no texts.
    """
    if not batches or not edits:
        return {}
    sizes: list[Tensor] = []

    def noted(edit: SiteEdit, content_BL: Tensor) -> SiteEdit:
        def apply(h_BLD: Tensor) -> Tensor:
            changed_BLD = edit(h_BLD)
            moved_N = row_norms((changed_BLD - h_BLD)[content_BL].double())
            sizes.append(moved_N / row_norms(h_BLD[content_BL].double()).clamp(min=1e-300))
            return changed_BLD

        return apply

    divergences: list[Tensor] = []
    for batch in batches:
        base_NV = _log_probabilities(model, batch, {})
        with_edits = {name: noted(edit, batch.content_BL) for name, edit in edits.items()}
        steered_NV = _log_probabilities(model, batch, with_edits)
        divergences.append((steered_NV.exp() * (steered_NV - base_NV)).sum(-1))
    low, median, high = torch.cat(sizes).quantile(torch.tensor([0.05, 0.5, 0.95]).double()).tolist()
    return {
        "neutral_kl": float(torch.cat(divergences).mean().clamp(min=0)),
        "change_norm": {"median": median, "p5": low, "p95": high},
    }


def _log_probabilities(
    model: LanguageModel, batch: TextBatch, edits: Mapping[str, SiteEdit]
) -> Float[Tensor, "N V"]:
    """Of the next token, at the content tokens, in float64."""
    with ExitStack() as stack:
        for name in in_order(model, list(edits)) if edits else []:
            stack.enter_context(model.site(name).write(edits[name]))
        logits_BLV = model.logits(batch.tokens_BL, batch.mask_BL)
    return logits_BLV[batch.content_BL].double().log_softmax(-1)


@torch.no_grad()
def activations_of(
    model: LanguageModel,
    sites: Sequence[str],
    batches: Sequence[TextBatch],
    edits: Mapping[str, SiteEdit] | None = None,
) -> dict[str, list[Tensor]]:
    """The activations [B, L, D] of each batch at each site, by name, without gradients."""
    found: dict[str, list[Tensor]] = {name: [] for name in sites}
    for batch in batches:
        for name, acts_BLD in site_activations(model, sites, batch, edits).items():
            found[name].append(acts_BLD)
    return found
