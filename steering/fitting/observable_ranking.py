"""Features ranked by what they do to chosen tokens, before any text is written."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...kernels.numerics import row_norms
from ...sae.autoencoder import SparseAutoencoder
from ...sae.common.errors import InputError
from ...sae.compatibility import require_fits
from ...sae.language_model.model import LanguageModel
from ..texts import prompt_tokens
from .observable import observable_direction
from .observable_gradients import PromptGradient
from .observables import Observable
from .trained_config import ObservableConfig

_NULL_DRAWS = 20


@dataclass(frozen=True)
class RankedFeature:
    """What one feature does to an observable, to first order."""

    feature: int
    effect: float
    """Logits of the observable for an activation of 1, in the autoencoder's scaled units: d . y /
    input_scale. Negative where it lowers the observable."""
    cosine: float
    """Cosine between decoder row and direction of the observable."""
    attribution: float | None
    """Sum over a prompt's tokens of activation times effect there, the mean over prompts: what the
    feature adds to the observable of these prompts. None where no gradient was taken."""


@dataclass(frozen=True)
class ObservableRanking:
    """Features by their effect on an observable, and what chance would give."""

    observable: str
    site: str
    how: str
    features: tuple[RankedFeature, ...]
    """Those that raise or lower the observable most, the largest absolute effect first."""
    n_prompts: int
    chance_cosine: float
    """The largest absolute cosine of any feature with a random direction, the mean over 20: a
    feature near it may be luck."""

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return asdict(self)


def rank_by_observable(
    model: LanguageModel,
    sae: SparseAutoencoder,
    config: ObservableConfig,
    *,
    top: int = 20,
    prompts: Sequence[str] = (),
    pairs: Sequence[tuple[str, str]] = (),
    seed: int = 0,
) -> ObservableRanking:
    """Rank the features of an autoencoder by d . y: decoder row times direction of an observable.

    No text is generated and no example is needed, so it is an output score that is free of inputs:
    it says what a feature would do, not when it fires. It is first-order; a strong push may do
    otherwise.

    Args:
        model: the language model.
        sae: an autoencoder of the site.
        config: the observable, site and how; see `observable_direction`. `gradient` also gives each
            feature's attribution at the prompts.
        top: features to give, at most.
        prompts, pairs: beginnings of texts; by default six plain openings, and pairs only for
            `boundary`.
        seed: of the random directions behind `chance_cosine`.

    Raises:
        InputError: as `observable_direction`; the autoencoder has another width or is a transcoder.
    """
    site = model.site(config.site)
    require_fits(sae, site=site)
    if sae.config.transcoder:
        raise InputError("a transcoder's features are ranked at the site that it writes to only")
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
    y_D = found.y_D.to(sae.W_dec)
    W_dec_FD = sae.W_dec.detach()
    effects_F = W_dec_FD @ y_D / sae.decoder_scale
    cosines_F = effects_F * sae.decoder_scale / _lengths(W_dec_FD, y_D)
    attributions_F = attributions(sae, found.gradients) if config.how == "gradient" else None
    order = effects_F.abs().argsort(descending=True, stable=True)[:top]
    return ObservableRanking(
        observable=config.observable,
        site=site.name,
        how=config.how,
        features=tuple(
            RankedFeature(
                feature=number,
                effect=float(effects_F[number]),
                cosine=float(cosines_F[number]),
                attribution=None if attributions_F is None else float(attributions_F[number]),
            )
            for number in map(int, order)
        ),
        n_prompts=found.n_prompts,
        chance_cosine=_chance(W_dec_FD, seed),
    )


@torch.no_grad()
def attributions(sae: SparseAutoencoder, gradients: Sequence[PromptGradient]) -> Float[Tensor, "F"]:
    """What each latent adds to an observable to first order: activation times decoder row times
    gradient, summed over the tokens of a prompt; the mean over prompts."""
    total_F = sae.W_dec.new_zeros(sae.config.n_latents)
    for each in gradients:
        codes = sae.encode(each.h_LD)
        gradient_LD = each.gradient_LD.to(sae.W_dec)
        if codes.row_scale is not None:
            gradient_LD = gradient_LD * codes.row_scale
        # Of a token only the rows of its active latents are needed.
        rows_LMD = sae.W_dec[codes.indices]
        effects_LM = (rows_LMD * gradient_LD[:, None, :]).sum(-1) / sae.decoder_scale
        total_F.index_add_(0, codes.indices.flatten(), (codes.values * effects_LM).flatten())
    return total_F / len(gradients)


def _lengths(W_dec_FD: Float[Tensor, "F D"], y_D: Float[Tensor, "D"]) -> Float[Tensor, "F"]:
    lengths_F = row_norms(W_dec_FD) * row_norms(y_D)
    return torch.where(lengths_F > 0, lengths_F, 1)


def _chance(W_dec_FD: Float[Tensor, "F D"], seed: int) -> float:
    """The mean over random directions of the largest absolute cosine with any decoder row."""
    draw = torch.Generator().manual_seed(seed)
    width = W_dec_FD.shape[1]
    drawn_ND = torch.randn(_NULL_DRAWS, width, generator=draw).to(W_dec_FD)
    cosines_FN = (
        torch.nn.functional.normalize(W_dec_FD, dim=-1)
        @ torch.nn.functional.normalize(drawn_ND, dim=-1).T
    )
    return float(cosines_FN.abs().amax(0).mean())
