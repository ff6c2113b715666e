"""What the unsteered and the steered model predict at each token of texts that are given.

All tokens are given to both models (teacher forcing), so that they are asked the same questions.
A continuation is read as generation reads it: the prompt in one pass, then the continuation from
its cache, so that a gate that asks what the prompt holds is open exactly where it was open when
the text was written.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...kernels.numerics import at_least_float32
from ...sae.common.errors import InputError
from ...sae.language_model.kv_cache import new_cache
from ...sae.language_model.model import LanguageModel
from ...training.evaluation.probing.result import Interval
from ..errors import TooStrong
from ..texts import left_padded
from .statistics import ratio_over_prompts

Steered = Callable[[], AbstractContextManager[Any]]
"""Begins to steer: within the context that it gives the model is steered; the context of
`contextlib.nullcontext` is the unsteered model. It is called anew for each batch of texts."""

_LOGITS_AT_ONCE = 1 << 24
"""Logits of one model held at once: 64 MB in float32."""


@dataclass(frozen=True, eq=False, kw_only=True)
class TokenFigures:
    """What both models say of each of N tokens, given all before it; on the CPU, in float64."""

    texts_N: Int[Tensor, "N"]
    """Of which text each is, counted from 0; those of a text stand together and in order."""
    base_loss_N: Float[Tensor, "N"]
    """Its cross entropy under the unsteered model, in nats."""
    steered_loss_N: Float[Tensor, "N"]
    """The same under the steered model."""
    kl_N: Float[Tensor, "N"]
    """KL(steered || unsteered) of the predictions of this token, in nats."""
    prompts_T: Int[Tensor, "T"]
    """For each of the T texts, those without a token included, the number of the prompt that it
    continues: equal prompts have one number. Texts that continue none have one each."""

    def sums(self, values_N: Float[Tensor, "N"]) -> Float[Tensor, "P"]:
        """The sum of one of the figures over the tokens of each prompt's texts."""
        n_prompts = int(self.prompts_T.max()) + 1 if len(self.prompts_T) else 0
        of_N = self.prompts_T[self.texts_N]
        return values_N.new_zeros(n_prompts).index_add_(0, of_N, values_N)

    @property
    def tokens_P(self) -> Float[Tensor, "P"]:
        """How many tokens each prompt's texts have."""
        return self.sums(torch.ones_like(self.kl_N))

    def per_token(self, values_N: Float[Tensor, "N"], without_tokens: str) -> Interval:
        """The mean of one of the figures over tokens, with its bootstrap interval over prompts.

        Raises InputError with the sentence `without_tokens` if there is no token.
        """
        tokens_P = self.tokens_P.numpy()
        if not tokens_P.sum():
            raise InputError(without_tokens)
        # In a resample of prompts without any token nothing would be left to divide by.
        return ratio_over_prompts(self.sums(values_N).numpy()[tokens_P > 0], tokens_P[tokens_P > 0])


@torch.no_grad()
def read_continuations(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    steered: Steered = nullcontext,
    *,
    batch_size: int = 16,
) -> TokenFigures:
    """What both models say of the tokens of continuations, such as `Continuation.tokens`.

    Args:
        model: the language model.
        prompts: token ids that each continuation follows, BOS included; at least one of each.
        continuations: token ids, of any number; of those without a token nothing is said.
        steered: how the steered model is steered.
        batch_size: continuations in a pass; fewer where the logits would take much memory.

    Raises:
        InputError: a prompt with its continuation is longer than the model's context, the model's
            key-value cache does not work, without which a continuation cannot be told from its
            prompt.
        TooStrong: the steered model's logits are no numbers.
        ArithmeticError: the unsteered model's are not.
    """
    if not model.kv_cache_works:
        raise InputError(
            f"{model.name} has no key-value cache that works, and continuations are read with one; "
            "take another language model"
        )
    if len(prompts) != len(continuations) or not all(prompts):
        raise InputError(
            f"{len(prompts)} prompts do not fit {len(continuations)} continuations, or one has no "
            "token; give each continuation a prompt"
        )
    longest = max((len(a) + len(b) for a, b in zip(prompts, continuations, strict=True)), default=0)
    if longest > model.max_context:
        raise InputError(
            f"a prompt with its continuation has {longest} tokens, more than the "
            f"{model.max_context} that {model.name} can hold; shorten it"
        )
    found: dict[int, _Said] = {}
    for batch in _batches(model, prompts, continuations, batch_size):
        rows = ([prompts[each] for each in batch], [continuations[each] for each in batch])
        base_BCV = continuation_logits(model, *rows, nullcontext)
        steered_BCV = base_BCV if steered is nullcontext else None
        if steered_BCV is None:
            steered_BCV = continuation_logits(model, *rows, steered)
        for row, number in enumerate(batch):
            length = len(continuations[number])
            found[number] = _said(
                base_BCV[row, :length],
                steered_BCV[row, :length],
                torch.tensor(continuations[number], device=base_BCV.device),
                model,
            )
    numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
    return _joined(found, [numbers[tuple(prompt)] for prompt in prompts])


@torch.no_grad()
def read_texts(
    model: LanguageModel,
    texts: Sequence[Sequence[int]],
    steered: Steered = nullcontext,
    *,
    batch_size: int = 8,
) -> TokenFigures:
    """What both models say of each token of texts but the first, each text in one pass.

    To a gate that asks what the prompt holds, the whole text is the prompt.

    Args:
        model: the language model.
        texts: token ids, BOS included where the model has one.
        steered, batch_size: as for `read_continuations`.

    Raises:
        InputError: a text is longer than the model's context.
        TooStrong: the steered model's logits are no numbers.
        ArithmeticError: the unsteered model's are not.
    """
    found: dict[int, _Said] = {}
    order = sorted(
        (n for n, text in enumerate(texts) if len(text) > 1), key=lambda n: len(texts[n])
    )
    at_once = batch_size if "right" not in model.wrong_padding else 1
    for start in range(0, len(order), at_once):
        batch = order[start : start + at_once]
        tokens_BL, mask_BL = right_padded(model, [texts[number] for number in batch])
        hidden: list[tuple[Tensor, Callable[[Tensor], Tensor]]] = []
        for context in (nullcontext, steered)[: 1 if steered is nullcontext else 2]:
            with context():
                hidden.append(model.before_head(tokens_BL, mask_BL))
        for row, number in enumerate(batch):
            length = len(texts[number])
            targets_N = tokens_BL[row, 1:length].to(model.device)
            at_a_time = max(1, _LOGITS_AT_ONCE // model.network.n_vocab)
            parts: list[_Said] = []
            for first in range(0, length - 1, at_a_time):
                part = slice(first, min(first + at_a_time, length - 1))
                logits = [head(acts_BLD[row, part]) for acts_BLD, head in hidden]
                parts.append(_said(logits[0], logits[-1], targets_N[part], model))
            found[number] = torch.cat(parts, dim=1)
    return _joined(found, range(len(texts)))


_Said = Float[Tensor, "3 N"]
"""Base loss, steered loss and KL of each token of one text."""


def _said(
    base_NV: Float[Tensor, "N V"],
    steered_NV: Float[Tensor, "N V"],
    targets_N: Int[Tensor, "N"],
    model: LanguageModel,
) -> _Said:
    if not base_NV.amax(-1).isfinite().all():
        raise ArithmeticError(
            f"the logits of {model.name} are not numbers, though nothing is steered; load it in "
            "float32"
        )
    if not steered_NV.amax(-1).isfinite().all():
        raise TooStrong(
            f"the logits of {model.name} are not numbers any more when it is steered; lower the "
            "strength"
        )
    base_NV, steered_NV = (
        logits_NV.to(at_least_float32(logits_NV.dtype)).log_softmax(-1)
        for logits_NV in (base_NV, steered_NV)
    )
    p_NV = steered_NV.exp()
    # A token of probability 0 adds nothing, and minus infinity less itself is no number.
    kl_N = torch.where(p_NV > 0, p_NV * (steered_NV - base_NV), 0).sum(-1)
    targets_N1 = rearrange(targets_N, "n -> n 1")
    losses = [-log_NV.gather(1, targets_N1)[:, 0] for log_NV in (base_NV, steered_NV)]
    return torch.stack([*losses, kl_N]).double().cpu()


def _joined(found: dict[int, _Said], prompts: Sequence[int]) -> TokenFigures:
    numbers = sorted(found)
    said_3N = torch.cat([torch.zeros(3, 0).double(), *(found[n] for n in numbers)], dim=1)
    lengths = torch.tensor([found[n].shape[1] for n in numbers], dtype=torch.int64)
    texts_N = torch.tensor(numbers, dtype=torch.int64).repeat_interleave(lengths)
    base_N, steered_N, kl_N = said_3N
    # Rounding can leave a divergence a little below 0, which none is.
    return TokenFigures(
        texts_N=texts_N,
        base_loss_N=base_N,
        steered_loss_N=steered_N,
        kl_N=kl_N.clamp(min=0),
        prompts_T=torch.tensor(list(prompts), dtype=torch.int64),
    )


def _batches(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    batch_size: int,
) -> Iterator[list[int]]:
    """The numbers of continuations that are read together, of like lengths."""
    left = [number for number, tokens in enumerate(continuations) if len(tokens)]
    left.sort(key=lambda number: (len(continuations[number]), len(prompts[number])))
    while left:
        # Those at the end are the longest, of which the fewest fit.
        longest = len(continuations[left[-1]])
        fit = max(1, _LOGITS_AT_ONCE // (longest * model.network.n_vocab))
        n = min(batch_size, fit) if not model.wrong_padding else 1
        yield left[-n:]
        del left[-n:]


def continuation_logits(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    steered: Steered,
) -> Float[Tensor, "B C V"]:
    """The logits that predict each token of the continuations; what stands behind a shorter one's
    last has no meaning."""
    name, cache = new_cache(model.network.model)
    keeping: dict[str, Any] = {name: cache, "use_cache": True}
    prompt_BT, prompt_mask_BT = (each.to(model.device) for each in left_padded(model, prompts))
    # The last token is predicted, and predicts nothing that is asked for.
    given_BC, given_mask_BC = right_padded(model, [tokens[:-1] for tokens in continuations])
    given_BC, given_mask_BC = given_BC.to(model.device), given_mask_BC.to(model.device)
    with steered():
        first_B1V = model.network(prompt_BT, prompt_mask_BT.long(), logits_to_keep=1, **keeping)[
            :, -1:
        ]
        if not given_BC.shape[1]:
            return first_B1V
        mask_BT = torch.cat([prompt_mask_BT, given_mask_BC], dim=1).long()
        return torch.cat([first_B1V, model.network(given_BC, mask_BT, **keeping)], dim=1)


def right_padded(
    model: LanguageModel, texts: Sequence[Sequence[int]]
) -> tuple[Int[Tensor, "B L"], Bool[Tensor, "B L"]]:
    """Tokens and mask with the padding behind each text."""
    width = max(map(len, texts))
    tokens_BL = torch.full((len(texts), width), model.pad_id)
    mask_BL = torch.zeros(len(texts), width, dtype=torch.bool)
    for row, text in enumerate(texts):
        tokens_BL[row, : len(text)] = torch.tensor(text, dtype=torch.int64)
        mask_BL[row, : len(text)] = True
    return tokens_BL, mask_BL


def text_tokens(
    model: LanguageModel, texts: Sequence[str], max_length: int = 128
) -> list[list[int]]:
    """The token ids of texts after the model's BOS token, at most `max_length` with it.

    Raises InputError for a text with a token that the model has no embedding for.
    """
    bos = [] if model.bos_id is None else [model.bos_id]
    longest = min(max_length, model.max_context)
    return [(bos + model.tokenize(text))[:longest] for text in texts]


def perplexity(nats: float) -> float:
    """exp of a mean cross entropy; infinity beyond all floats."""
    return math.exp(nats) if nats < _LARGEST_LOSS else math.inf


_LARGEST_LOSS = 709.0
