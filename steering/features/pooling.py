"""Codes of texts to one number for each text and latent: the mean, or the largest."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..encoding import EncodedText

_TEXTS_AT_ONCE = 256


class Pooled(NamedTuple):
    """One positive number for each pair of a text and a latent that fires in it."""

    latents: Int[Tensor, "E"]
    texts: Int[Tensor, "E"]
    values: Float[Tensor, "E"]


@dataclass(frozen=True)
class PooledTexts:
    """A set of texts; those without a content token do not count and have no number."""

    mean: Pooled
    """Mean activation over a text's content tokens."""
    largest: Pooled
    """Largest activation over them; the same pairs in the same order."""
    lengths: Int[Tensor, "N"]
    """int64: content tokens of each text."""
    numbers: Int[Tensor, "N"]
    """int64: the place of each among all texts, those that do not count included."""
    without_content: int
    """Texts that do not count."""
    truncated: int
    """Texts that were not read to their end."""


def pool_texts(encoded: Iterable[EncodedText], n_latents: int) -> PooledTexts:
    """Pool texts as they come; only the pairs of text and latent stay in memory."""
    parts = [(torch.empty(0, dtype=torch.int64), torch.empty(0), torch.empty(0))]
    lengths: list[int] = []
    numbers: list[int] = []
    n_texts = truncated = 0
    coming = iter(encoded)
    while texts := list(islice(coming, _TEXTS_AT_ONCE)):
        numbers += [n_texts + n for n, text in enumerate(texts) if len(text.codes.indices)]
        n_texts += len(texts)
        truncated += sum(text.truncated for text in texts)
        counted = [text for text in texts if len(text.codes.indices)]
        if counted:
            parts.append(_pool(counted, first=len(lengths), n_latents=n_latents))
            lengths += [len(text.codes.indices) for text in counted]
    keys_E, sums_E, largest_E = (torch.cat(column) for column in zip(*parts, strict=True))
    lengths_N = torch.tensor(lengths, dtype=torch.int64)
    texts_E, latents_E = keys_E // n_latents, keys_E % n_latents
    return PooledTexts(
        mean=Pooled(latents_E, texts_E, sums_E / lengths_N[texts_E]),
        largest=Pooled(latents_E, texts_E, largest_E),
        lengths=lengths_N,
        numbers=torch.tensor(numbers, dtype=torch.int64),
        without_content=n_texts - len(lengths),
        truncated=truncated,
    )


def _pool(
    texts: list[EncodedText], *, first: int, n_latents: int
) -> tuple[Int[Tensor, "E"], Float[Tensor, "E"], Float[Tensor, "E"]]:
    """Of texts numbered from `first`: keys text * n_latents + latent, sums and largest values."""
    keys: list[Tensor] = []
    values: list[Tensor] = []
    for number, text in enumerate(texts, start=first):
        used_CM = text.codes.values > 0
        keys.append(text.codes.indices[used_CM] + number * n_latents)
        values.append(text.codes.values[used_CM].float())
    keys_E, order = torch.cat(keys).sort(stable=True)
    values_E = torch.cat(values)[order]
    if not len(keys_E):  # segment_reduce takes no empty list of segments
        return keys_E, values_E, values_E
    unique_K, counts_K = _runs(keys_E)
    sums_K = torch.segment_reduce(values_E.double(), "sum", lengths=counts_K)
    return unique_K, sums_K.float(), torch.segment_reduce(values_E, "max", lengths=counts_K)


def _runs(keys_E: Int[Tensor, "E"]) -> tuple[Int[Tensor, "K"], Int[Tensor, "K"]]:
    """The different ones of sorted keys, of which there is at least one, and how often each is."""
    is_new_E = torch.ones_like(keys_E, dtype=torch.bool)
    is_new_E[1:] = keys_E[1:] != keys_E[:-1]
    starts_K = is_new_E.nonzero()[:, 0]
    ends_K = torch.cat([starts_K[1:], starts_K.new_full((1,), len(keys_E))])
    return keys_E[starts_K], ends_K - starts_K
