"""Observable propagation: the direction at a site that moves chosen tokens, without training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...kernels.numerics import at_least_float32
from ...sae.common.errors import InputError
from ...sae.language_model.model import LanguageModel
from ..texts import prompt_tokens
from .final_norm import final_norm, unembedded
from .fitted import FitReport, Fitted, fitted_edit
from .neutral import with_neutral
from .observable_gradients import (
    PromptGradient,
    boundary_gradients,
    mean_gradient,
    prompt_gradients,
)
from .observables import Observable
from .trained_capture import TextBatch, site_activations, text_batches
from .trained_config import ObservableConfig

OPENINGS = (
    "When I got home last night,",
    "The people in the city said that",
    "In the last few years, there has been",
    "I think that the best way to",
    "She looked at him and",
    "According to the report, the company",
)
"""Prompts at which gradients are taken where none are given."""


@dataclass(frozen=True, eq=False)
class ObservableDirection:
    """A vector y at a site: y . h is the observable to first order, but for a constant."""

    site: str
    y_D: Float[Tensor, "D"]
    """The gradient of the observable: logits for a unit of the activation."""
    n_prompts: int
    n_tokens: int
    """Of the prompts, BOS among them."""
    details: dict[str, Any]
    gradients: tuple[PromptGradient, ...] = ()
    """Of the prompts, where they were taken."""


def observable_direction(
    model: LanguageModel,
    observable: Observable,
    config: ObservableConfig,
    *,
    prompts: Sequence[Sequence[int]] = (),
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]] = (),
) -> ObservableDirection:
    """The direction of an observable at a site (Dunefsky and Cohan, arXiv 2312.16291, ICML 2024).

    - `direct`: the activation goes straight to the final norm. In closed form: the norm's gain
      times W_U^T n, centered for a LayerNorm, over the median size by which the norm divides at the
      last tokens of the prompts. Layers between are ignored. How well the exact gradients there,
      which are not on the boundary, agree with it is among the details.
    - `gradient`: back through all later layers at the prompts, averaged.
    - `boundary`: the same at points between pairs of prompts at which the observable is 0.

    All are first-order: a large push saturates what comes behind.

    Args:
        model: the language model.
        observable: which tokens.
        config: site and how.
        prompts: token ids with BOS; by default those of six plain openings.
        pairs: for `boundary`, token ids of two prompts each, of one length.

    Raises:
        InputError: no pairs are given for `boundary`, or as `boundary_gradients` and `final_norm`.
    """
    site = model.site(config.site).name
    if config.how == "boundary":
        if not pairs:
            raise InputError(
                "how is boundary, which needs pairs of prompts; give them, or take gradient",
                field="how",
            )
        found, n_excluded = boundary_gradients(model, site, observable, pairs)
        details: dict[str, Any] = {
            "pairs_without_two_signs": n_excluded,
            **_agreement([mean_gradient([each], config.positions) for each in found]),
        }
        y_D = mean_gradient(found, config.positions)
        return ObservableDirection(
            site, y_D, len(found), sum(len(each.h_LD) for each in found), details, tuple(found)
        )
    if not prompts:
        prompts = [prompt_tokens(model, text) for text in OPENINGS]
    batches = text_batches(model, prompts, config.batch_size)
    n_tokens = sum(map(len, prompts))
    if config.how == "direct":
        norm, u_H = final_norm(model), unembedded(model, observable)
        h_ND = _last_residuals(model, batches)
        size = norm.size(h_ND).median()
        y_D = norm.boundary_direction(u_H) / size
        exact_ND = norm.gradient(h_ND, u_H)
        cosines_N = torch.nn.functional.cosine_similarity(exact_ND, y_D[None], dim=-1)
        details = {"norm_size": float(size), "cosine_of_exact_gradients": float(cosines_N.mean())}
        return ObservableDirection(site, y_D, len(prompts), n_tokens, details)
    gradients = prompt_gradients(model, site, observable, batches)
    values = [each.value for each in gradients]
    return ObservableDirection(
        site,
        mean_gradient(gradients, config.positions),
        len(prompts),
        n_tokens,
        {
            "observable_mean": sum(values) / len(values),
            **_agreement([mean_gradient([each], config.positions) for each in gradients]),
        },
        tuple(gradients),
    )


def fit_observable(
    model: LanguageModel,
    config: ObservableConfig,
    *,
    prompts: Sequence[str] = (),
    pairs: Sequence[tuple[str, str]] = (),
    neutral: Sequence[str] = (),
) -> Fitted:
    """An `add` edit that raises an observable by one logit at strength 1, to first order.

    The vector is y / |y|^2 for the direction y of `observable_direction`: of all vectors that do so
    the shortest.

    Args:
        model: the language model.
        config: the observable, site and how.
        prompts, pairs: beginnings of texts; see `observable_direction`.
        neutral: texts for the cost that is reported; none are needed.

    Raises:
        InputError: as `Observable.parse` and `observable_direction`, or the direction is 0.
    """
    observable = Observable.parse(config.observable, model)
    found = observable_direction(
        model,
        observable,
        config,
        prompts=[prompt_tokens(model, text) for text in prompts],
        pairs=[
            (prompt_tokens(model, first), prompt_tokens(model, second)) for first, second in pairs
        ],
    )
    squared = float(found.y_D.double().square().sum())
    if not squared > 0:
        raise InputError(
            f"the observable {config.observable!r} does not depend on {found.site}; choose an "
            "earlier site or other tokens"
        )
    v_D = found.y_D / squared
    report = FitReport(
        method=f"observable ({config.how})",
        n_texts=found.n_prompts,
        n_tokens=found.n_tokens,
        details={**found.details, "logits_per_unit": squared**0.5},
    )
    edit = fitted_edit("add", found.site, {"v": v_D})
    fitted = Fitted(method="observable", edits=(edit,), report=report)
    return with_neutral(fitted, model, neutral, batch_size=config.batch_size)


def _agreement(directions: Sequence[Float[Tensor, "D"]]) -> dict[str, float]:
    """The mean cosine between the directions of single prompts; nothing of a single one."""
    n = len(directions)
    if n < 2:
        return {}
    unit_ND = torch.nn.functional.normalize(torch.stack(list(directions)), dim=-1)
    cosines_NN = unit_ND @ unit_ND.T
    return {"mean_cosine_of_prompts": float((cosines_NN.sum() - n) / (n * (n - 1)))}


@torch.no_grad()
def _last_residuals(model: LanguageModel, batches: Sequence[TextBatch]) -> Float[Tensor, "N D"]:
    """What the final norm reads at the last token of each prompt."""
    name = f"blocks.{model.n_layers - 1}.hook_resid_post"
    rows: list[Tensor] = []
    for batch in batches:
        acts_BLD = site_activations(model, [name], batch)[name]
        last_B = batch.mask_BL.sum(1).to(acts_BLD.device) - 1
        rows.append(acts_BLD[torch.arange(len(last_B), device=last_B.device), last_B])
    joined_ND = torch.cat(rows)
    return joined_ND.to(at_least_float32(joined_ND.dtype))
