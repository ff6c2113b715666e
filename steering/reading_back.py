"""What the unsteered model makes of a text that was written: how likely it is, and what fires.

Whatever wrote the text, steered or not, the model that reads it here is steered by nothing, so the
numbers of different texts compare.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..sae.autoencoder import SparseAutoencoder
from .loading import LoadedRun


@dataclass(frozen=True, kw_only=True)
class ReadBack:
    """What the unsteered model says of one continuation."""

    perplexity: float | None
    """exp of its mean cross entropy on the continuation's tokens, given what stands before them;
    None for a continuation without a token."""
    activations: dict[int, float]
    """For each of the latents asked for, its mean activation over the continuation's content
    tokens, in the autoencoder's scaled units; 0 where there is no such token."""


@torch.no_grad()
def read_back(
    loaded: LoadedRun,
    prompt: Sequence[int],
    continuation: Sequence[int],
    latents: Sequence[int] = (),
) -> ReadBack:
    """Read a prompt and its continuation in one forward pass, without steering.

    Args:
        loaded: the language model, its site and the autoencoder.
        prompt: its token ids, BOS included where the model has one; at least one.
        continuation: ids of the tokens behind it.
        latents: numbers of the latents whose activations are wanted.

    Raises:
        InputError: the two together are longer than the model's context.
    """
    if not continuation:
        return ReadBack(perplexity=None, activations=dict.fromkeys(latents, 0.0))
    model, site, sae = loaded
    tokens_1L = torch.tensor([[*prompt, *continuation]])
    seen: list[Tensor] = []

    def take(acts_BLD: Tensor) -> None:
        seen.append(acts_BLD.clone())

    with model.network.hooked(site.name, take):
        losses_T = model.next_token_loss(tokens_1L)[0, len(prompt) - 1 :]
    content_L = ~model.excluded_tokens(tokens_1L)[0]
    content_L[: len(prompt)] = False
    rows_CD = seen[-1][0][content_L.to(seen[-1].device)]
    return ReadBack(
        perplexity=math.exp(min(float(losses_T.double().mean()), _LARGEST_LOSS)),
        activations=_means(sae, rows_CD, latents),
    )


_LARGEST_LOSS = 700.0
"""Nats beyond which exp would overflow; no text is that unlikely."""


def _means(
    sae: SparseAutoencoder, rows_CD: Float[Tensor, "C D"], latents: Sequence[int]
) -> dict[int, float]:
    if not len(rows_CD) or not latents:
        return dict.fromkeys(latents, 0.0)
    codes = sae.encode(rows_CD.to(sae.W_enc.device))
    return {
        latent: float(torch.where(codes.indices == latent, codes.values, 0).sum(1).double().mean())
        for latent in latents
    }
