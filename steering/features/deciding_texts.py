"""The texts that decided a feature's place in a ranking, with the tokens on which it fires."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from ..encoding import EncodedText, encode_texts
from ..loading import LoadedRun
from .pooling import Pooled
from .vocabulary import Vocabulary, token_bytes

Role = Literal["for", "against"]
Side = Literal["positive", "negative"]


class SourceText(NamedTuple):
    """A text that counts."""

    side: Side
    number: int
    """Which of the texts of its side, from 0, as they were given."""
    text: str


@dataclass(frozen=True)
class DecidingText:
    """A text that speaks for a feature, or against it."""

    role: Role
    """`for`: a positive text that is above some negative ones; `against`: a text that is ordered
    wrongly against some of the other side."""
    side: Side
    number: int
    """Which of the texts of its side, from 0, as they were given."""
    value: float
    """What the ranking compares: the mean activation over the text's content tokens, or the
    largest."""
    share: float
    """Of the texts of the other side those against which this one is ordered rightly (`for`) or
    wrongly (`against`); equal ones count half. The AUROC is the mean over the positive texts of
    what is ordered rightly."""
    tokens: tuple[str, ...]
    """The text as it was read, a text for each token."""
    counts: tuple[bool, ...]
    """Which tokens count; special ones and the attention sink at the start do not."""
    activations: tuple[float, ...]
    """The feature's activation at each token; 0 at those that do not count."""
    truncated: bool
    """Whether only the beginning was read."""


class _Chosen(NamedTuple):
    role: Role
    text: int
    value: float
    share: float


def deciding_texts(
    loaded: LoadedRun,
    sources: Sequence[SourceText],
    pooled: Pooled,
    features: Sequence[int],
    most: int,
    *,
    max_length: int,
    batch_size: int = 16,
) -> list[tuple[DecidingText, ...]]:
    """For each feature the texts that put it where it is, then those that speak against it.

    Only these texts are read again.

    Args:
        loaded: language model, site and autoencoder.
        sources: the N texts that count, in the order of their numbers in `pooled`.
        pooled: what the ranking compares.
        features: numbers of latents.
        most: texts of each role, at most.
        max_length, batch_size: as of `encode_texts`.
    """
    is_positive_N = torch.tensor([source.side == "positive" for source in sources])
    by_feature = [_chosen(pooled, feature, is_positive_N, most) for feature in features]
    wanted = sorted({one.text for chosen in by_feature for one in chosen})
    encoded = encode_texts(
        *loaded,
        [sources[number].text for number in wanted],
        batch_size=batch_size,
        max_length=max_length,
    )
    read = dict(zip(wanted, encoded, strict=True))
    vocabulary = Vocabulary(token_bytes(loaded.model.tokenizer))
    shown = {
        number: tuple(vocabulary.texts([int(id_) for id_ in text.tokens]))
        for number, text in read.items()
    }
    return [
        tuple(
            DecidingText(
                role=one.role,
                side=sources[one.text].side,
                number=sources[one.text].number,
                value=one.value,
                share=one.share,
                tokens=shown[one.text],
                counts=tuple(bool(counts) for counts in read[one.text].kept),
                activations=_activations(read[one.text], feature),
                truncated=read[one.text].truncated,
            )
            for one in chosen
        )
        for feature, chosen in zip(features, by_feature, strict=True)
    ]


def _chosen(
    pooled: Pooled, feature: int, is_positive_N: Bool[Tensor, "N"], most: int
) -> list[_Chosen]:
    """The texts of both roles, the most telling first; of equal ones the first."""
    values_N = torch.zeros(len(is_positive_N), dtype=torch.float64)
    own_E = pooled.latents == feature
    values_N[pooled.texts[own_E]] = pooled.values[own_E].double()
    above_N = torch.zeros_like(values_N)  # the share of the other side that has smaller values
    for side in (True, False):
        others_M = values_N[is_positive_N != side].sort().values
        own = is_positive_N == side
        below_N = torch.searchsorted(others_M, values_N[own])
        not_above_N = torch.searchsorted(others_M, values_N[own], right=True)
        above_N[own] = (below_N + not_above_N).double() / 2 / len(others_M)
    wrong_N = torch.where(is_positive_N, 1 - above_N, above_N)
    speaking_N = torch.where(is_positive_N & (values_N > 0), above_N, 0)
    by_value = values_N.argsort(descending=True, stable=True)
    best = by_value[speaking_N[by_value] > 0][:most]
    # Of texts that are equally wrong the strongest first, which are negative ones.
    worst = by_value[wrong_N[by_value].argsort(descending=True, stable=True)]
    worst = worst[wrong_N[worst] > 0][:most]
    return [
        *(_Chosen("for", int(n), float(values_N[n]), float(above_N[n])) for n in best),
        *(_Chosen("against", int(n), float(values_N[n]), float(wrong_N[n])) for n in worst),
    ]


def _activations(text: EncodedText, feature: int) -> tuple[float, ...]:
    activations_T = torch.zeros(len(text.tokens))
    own_CM = (text.codes.indices == feature) & (text.codes.values > 0)
    activations_T[text.kept] = (text.codes.values.float() * own_CM).sum(dim=-1)
    return tuple(float(activation) for activation in activations_T)
