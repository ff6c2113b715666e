"""What a latent's decoder direction says by itself: positive and negative logits, and similar
latents."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...sae.language_model.model import LanguageModel

_LOGITS_AT_ONCE = 1 << 22
_COSINES_AT_ONCE = 1 << 23
"""Floats of the blocks that are in memory at a time."""


class Best(NamedTuple):
    """For each latent the N best of something, best first."""

    numbers: Int[Tensor, "F N"]
    """int32: token ids or latents."""
    values: Float[Tensor, "F N"]


@torch.no_grad()
def extreme_logits(
    model: LanguageModel, W_dec_FD: Float[Tensor, "F D"], n_tokens: int
) -> tuple[Best, Best]:
    """The tokens whose logits each decoder direction raises most, and those it lowers most.

    The direction goes through the final norm and the unembedding as if it were the residual, at
    root mean square 1. What the norm's and the unembedding's biases give without it is taken away,
    and so is the mean over the vocabulary, which changes no probability. Values are logits; they
    compare tokens of one latent, and are not the change under a given steering.

    Returns:
        Tokens of the most positive and of the most negative logits, [F, n_tokens] or as many as
        there are, on the CPU.
    """
    n_tokens = min(n_tokens, model.network.n_vocab)
    rows_at_once = max(1, _LOGITS_AT_ONCE // model.network.n_vocab)
    bias_V = _logits(model, W_dec_FD.new_zeros(1, W_dec_FD.shape[1]))
    highest: list[Best] = []
    lowest: list[Best] = []
    for block_BD in torch.split(_at_unit_rms(W_dec_FD), rows_at_once):
        effect_BV = _logits(model, block_BD) - bias_V
        effect_BV -= effect_BV.mean(-1, keepdim=True)
        highest.append(_best(effect_BV, n_tokens))
        down = _best(effect_BV.neg_(), n_tokens)
        lowest.append(Best(down.numbers, -down.values))
    return _joined(highest), _joined(lowest)


@torch.no_grad()
def decoder_neighbors(W_dec_FD: Float[Tensor, "F D"], n_neighbors: int) -> Best:
    """The other latents with the largest cosine between decoder directions, exactly.

    Returns:
        [F, n_neighbors], or as many as there are others, on the CPU.
    """
    n_latents = len(W_dec_FD)
    unit_FD = torch.nn.functional.normalize(W_dec_FD.float(), dim=-1)
    parts: list[Best] = []
    numbers_F = torch.arange(n_latents, device=unit_FD.device)
    for block_B in torch.split(numbers_F, max(1, _COSINES_AT_ONCE // n_latents)):
        cosine_BF = unit_FD[block_B] @ unit_FD.T
        cosine_BF.scatter_(1, block_B[:, None], -torch.inf)
        parts.append(_best(cosine_BF, min(n_neighbors, n_latents - 1)))
    return _joined(parts)


def _at_unit_rms(x_FD: Float[Tensor, "F D"]) -> Float[Tensor, "F D"]:
    return torch.nn.functional.normalize(x_FD, dim=-1) * x_FD.shape[-1] ** 0.5


def _logits(model: LanguageModel, residual_BD: Float[Tensor, "B D"]) -> Float[Tensor, "B V"]:
    residual_B1D = residual_BD[:, None].to(model.device, model.dtype)
    return model.bridge.unembed(model.bridge.ln_final(residual_B1D))[:, 0].float()


def _best(values_BX: Float[Tensor, "B X"], n_best: int) -> Best:
    values_BN, numbers_BN = values_BX.topk(n_best, dim=-1)
    return Best(numbers_BN.int().cpu(), values_BN.cpu())


def _joined(parts: list[Best]) -> Best:
    return Best(
        torch.cat([part.numbers for part in parts]), torch.cat([part.values for part in parts])
    )
