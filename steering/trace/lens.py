"""The logit lens: what the model would say if the residual stream ended after a layer.

The final norm and the unembedding read each layer's residual (nostalgebraist, interpreting GPT: the
logit lens, 2020). Early layers write in a basis of their own, so that its words mean little there.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...sae.common.errors import InputError
from ...sae.language_model.head import LOGITS_AT_ONCE
from ...sae.language_model.model import LanguageModel
from ..fitting.final_norm import final_norm


class LogitLens:
    """Final norm and unembedding of a model, before anything that it may do to its logits behind
    the unembedding, such as capping them."""

    def __init__(self, model: LanguageModel) -> None:
        """Find out what the final norm computes.

        Raises:
            InputError: it is neither a LayerNorm nor an RMSNorm.
        """
        self._model = model
        try:
            self._norm = final_norm(model)
        except InputError:
            raise InputError(
                f"the final norm of {model.name} is neither a LayerNorm nor an RMSNorm of the "
                "residual's width, so no logit lens reads its layers; take another language model"
            ) from None

    @torch.no_grad()
    def mass(self, rows_ND: Float[Tensor, "N D"], tokens_T: Int[Tensor, "T"]) -> Float[Tensor, "N"]:
        """The probability that some tokens have together where the residual is each row; float64,
        on the CPU."""
        at_once = max(1, LOGITS_AT_ONCE // self._model.network.n_vocab)
        parts: list[Tensor] = [torch.zeros(0, dtype=torch.float64)]
        for start in range(0, len(rows_ND), at_once):
            normed_ND = self._norm(rows_ND[start : start + at_once].to(self._norm.gain_D))
            parts.append(mass_of(self._head(normed_ND), tokens_T))
        return torch.cat(parts)

    @torch.no_grad()
    def top_tokens(self, vectors_ND: Float[Tensor, "N D"], n: int) -> Int[Tensor, "N n"]:
        """The tokens whose logits each vector raises most when it is added to a residual, the size
        of which the norm divides by being taken as it is: the vector's vocabulary projection. On
        the CPU, the most raised first."""
        raised_ND = self._norm.gain_D * vectors_ND.to(self._norm.gain_D)
        if self._norm.centered:
            centered_ND = vectors_ND - vectors_ND.mean(dim=-1, keepdim=True)
            raised_ND = self._norm.gain_D * centered_ND.to(self._norm.gain_D)
        logits_NV = self._head(raised_ND) - self._head(torch.zeros_like(raised_ND[:1]))
        return logits_NV.topk(min(n, logits_NV.shape[-1]), dim=-1).indices.cpu()

    def _head(self, hidden_ND: Float[Tensor, "N D"]) -> Float[Tensor, "N V"]:
        given_1ND = hidden_ND[None].to(self._model.device, self._model.dtype)
        return self._model.network.head(given_1ND)[0]


def mass_of(logits_NV: Float[Tensor, "N V"], tokens_T: Int[Tensor, "T"]) -> Float[Tensor, "N"]:
    """The probability of some tokens together; float64, on the CPU."""
    p_NV = logits_NV.double().softmax(dim=-1)
    return p_NV[:, tokens_T.to(p_NV.device)].sum(dim=-1).cpu()


def tokens_of_words(model: LanguageModel, words: Sequence[str]) -> list[int]:
    """The tokens with which some words begin, each as written, lower and capital, with and without
    a space before it.

    Of a spelling that is one token that is the one; of a word none of whose spellings is, the
    first token of its spelling behind a space.
    """
    found: dict[int, None] = {}
    for word in (each.strip() for each in words):
        spelled = dict.fromkeys((word, word.lower(), word[:1].upper() + word[1:]))
        ids = [model.tokenize(space + each) for each in spelled for space in (" ", "")]
        whole = [each[0] for each in ids if len(each) == 1]
        found |= dict.fromkeys(whole or [each[0] for each in ids[:1] if each])
    return list(found)


def overlap(one: Sequence[int], other: Sequence[int]) -> float:
    """The Jaccard index of two lists of tokens: how many are in both, of those in either; 1 of two
    empty ones."""
    either = set(one) | set(other)
    return len(set(one) & set(other)) / len(either) if either else 1.0
