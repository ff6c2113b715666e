"""What steering does to the distribution of the next token."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ...kernels.numerics import at_least_float32, row_blocks
from ...sae.common.errors import InputError
from ...sae.language_model.model import LanguageModel
from .capture import BATCH_TOKENS, TextTokens, batches_by_length, padded, tokenize_texts

_LOGITS_AT_ONCE = 1 << 22
"""Logits that are compared at once."""

_MOST_LOGITS = 1 << 28
"""Logits of one forward pass, which all are held where a model changes them behind its head."""

Steering = Callable[[], AbstractContextManager[object]]
"""Called without arguments it gives a context in which the model is steered."""


@dataclass(frozen=True, kw_only=True)
class Shift:
    """How the next-token distribution q under steering differs from the base model's p.

    Means are over tokens: of each text's content tokens, or of its last one. All in nats.
    """

    n_texts: int
    n_tokens: int
    kl_base_steered: float
    """Mean of KL(p || q), the sum over tokens of p (log p - log q)."""
    kl_steered_base: float
    """Mean of KL(q || p), the direction of `evaluation.dose`, which counts a text's other tokens,
    too."""
    kl_steered_base_p95: float
    """What 95 percent of the tokens' KL(q || p) do not exceed."""
    entropy: float
    """Mean entropy of the base model."""
    entropy_change: float
    """Mean entropy under steering minus that."""
    top1_agreement: float
    """Fraction of tokens after which both hold the same token for the likeliest."""


def measure_shift(
    model: LanguageModel,
    steering: Steering,
    texts: Sequence[str],
    *,
    last: bool = False,
    batch_size: int = 16,
    max_length: int | None = None,
) -> Shift:
    """Read texts with and without steering, and compare the distributions of the next token.

    Args:
        model: the language model.
        steering: `lambda: steer(model, sae, intervention)`, or anything else that edits the model
            as long as a context lasts.
        texts: neutral ones, if the side effects of steering are to be known. Steering and the base
            model read the same tokens.
        last: compare behind each text's last content token only, not behind each of them.
        batch_size: texts in one forward pass.
        max_length: tokens read of each text, by default 256.

    Raises:
        InputError: no text has a content token, or the steered model gives NaN.
    """
    reads = [text for text in tokenize_texts(model, texts, max_length) if text.n_content]
    if not reads:
        raise InputError(
            "no text has a content token to compare the models after; give longer ones"
        )
    parts: list[dict[str, Tensor]] = []
    for numbers in _batches(model, reads, batch_size):
        parts += _of_batch(model, steering, [reads[number] for number in numbers], last=last)
    values = {name: torch.cat([part[name] for part in parts]).double() for name in parts[0]}
    if not bool(values["kl_base_steered"].isfinite().all()):
        raise InputError(
            "under this steering the model's next-token distribution has NaN or infinite values; "
            "steer less"
        )
    entropies_N, steered_N = values["entropy"], values["steered_entropy"]
    return Shift(
        n_texts=len(reads),
        n_tokens=len(entropies_N),
        kl_base_steered=float(values["kl_base_steered"].mean()),
        kl_steered_base=float(values["kl_steered_base"].mean()),
        kl_steered_base_p95=float(values["kl_steered_base"].quantile(0.95)),
        entropy=float(entropies_N.mean()),
        entropy_change=float((steered_N - entropies_N).mean()),
        top1_agreement=float(values["agrees"].mean()),
    )


@torch.no_grad()
def next_token_entropies(
    model: LanguageModel, texts: Sequence[TextTokens], batch_size: int = 16
) -> Float[Tensor, "N"]:
    """The entropy of the next token behind each text, in nats, float64; NaN of one without tokens.

    Args:
        model: the language model.
        texts: of `tokenize_texts`.
        batch_size: texts in one forward pass.
    """
    found_N = torch.full((len(texts),), torch.nan, dtype=torch.float64)
    for numbers in _batches(model, texts, batch_size):
        tokens_BL, mask_BL = padded(model, [texts[number] for number in numbers])
        hidden_BLD, head = model.before_head(tokens_BL, mask_BL)
        for row, number in enumerate(numbers):
            logits_V = head(hidden_BLD[row, len(texts[number].ids) - 1][None])[0]
            found_N[number] = float(_entropies(_log_probabilities(logits_V)))
    return found_N


def _batches(
    model: LanguageModel, texts: Sequence[TextTokens], batch_size: int
) -> Iterator[list[int]]:
    most_tokens = min(BATCH_TOKENS, max(1, _MOST_LOGITS // model.network.n_vocab))
    at_once = 1 if "right" in model.wrong_padding else batch_size
    return batches_by_length(texts, at_once, most_tokens)


@torch.no_grad()
def _of_batch(
    model: LanguageModel, steering: Steering, texts: Sequence[TextTokens], *, last: bool
) -> list[dict[str, Tensor]]:
    """The figures of every compared token, a few tokens at a time."""
    tokens_BL, mask_BL = padded(model, texts)
    compared_BL = torch.zeros_like(mask_BL)
    for row, text in enumerate(texts):
        places = text.content_L.nonzero()[:, 0]
        compared_BL[row, places[-1:] if last else places] = True
    base_BLD, base_head = model.before_head(tokens_BL, mask_BL)
    with steering():
        steered_BLD, steered_head = model.before_head(tokens_BL, mask_BL)
        chosen_BL = compared_BL.to(base_BLD.device)
        base_ND, steered_ND = base_BLD[chosen_BL], steered_BLD[chosen_BL]
        at_once = max(1, _LOGITS_AT_ONCE // model.network.n_vocab)
        return [
            _compared(base_head(base_ND[part]), steered_head(steered_ND[part]))
            for part in row_blocks(len(base_ND), at_once)
        ]


def _compared(
    base_NV: Float[Tensor, "N V"], steered_NV: Float[Tensor, "N V"]
) -> dict[str, Float[Tensor, "N"]]:
    p_NV, q_NV = _log_probabilities(base_NV), _log_probabilities(steered_NV)
    difference_NV = p_NV - q_NV
    found = {
        "kl_base_steered": _expected(p_NV, difference_NV),
        "kl_steered_base": -_expected(q_NV, difference_NV),
        "entropy": _entropies(p_NV),
        "steered_entropy": _entropies(q_NV),
        "agrees": (p_NV.argmax(dim=-1) == q_NV.argmax(dim=-1)).double(),
    }
    return {name: values_N.cpu() for name, values_N in found.items()}


def _log_probabilities(logits: Float[Tensor, "... V"]) -> Float[Tensor, "... V"]:
    return logits.to(at_least_float32(logits.dtype)).log_softmax(dim=-1)


def _expected(
    log_probabilities: Float[Tensor, "... V"], values: Float[Tensor, "... V"]
) -> Float[Tensor, "..."]:
    """The mean of values under a distribution; what cannot come adds nothing."""
    probabilities = log_probabilities.exp()
    return torch.where(probabilities > 0, probabilities * values, 0.0).sum(dim=-1)


def _entropies(log_probabilities: Float[Tensor, "... V"]) -> Float[Tensor, "..."]:
    return -_expected(log_probabilities, log_probabilities)
