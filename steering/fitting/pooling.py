"""Which tokens of a text count for a fit, and how much: one row for a text, or for each token.

A row is a weighted mean of a text's activations, so that every pooling is a list of weights of its
tokens. The row of a text has a weight itself: how much the text counts beside others.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...sae.language_model.model import LanguageModel
from ...sae.language_model.sites import Site
from .capture import TextTokens, capture, require_finite_rows

MOST_ROWS = 20_000
"""Rows of single tokens at most; of more a sample is drawn."""

Weights = Sequence[Float[Tensor, "_"]]
"""For each text the weights of its tokens, BOS included, not negative."""


@dataclass(frozen=True, eq=False)
class Rows:
    """N rows of some texts at each of several sites, in float64 on the CPU."""

    rows: Mapping[str, Float[Tensor, "N D"]]
    """By the names of the sites."""
    texts_N: Int[Tensor, "N"]
    """The text of each row, rising; a text that has no weight has no row."""
    weights_N: Float[Tensor, "N"]
    """How much each row counts."""


def token_mean(texts: Sequence[TextTokens]) -> Weights:
    """Every content token counts alike, also in the text's own weight: its number of tokens."""
    return [text.content_L.double() for text in texts]


def text_mean(texts: Sequence[TextTokens]) -> Weights:
    """The mean over content tokens; every text counts alike."""
    return [text.content_L.double() / max(1, text.n_content) for text in texts]


def last_token(texts: Sequence[TextTokens]) -> Weights:
    """The last content token alone."""
    places = [[int(place) for place in text.content_L.nonzero()[-1:, 0]] for text in texts]
    return [_one(text, *found) for text, found in zip(texts, places, strict=True)]


def token_from_end(texts: Sequence[TextTokens], place: int) -> Weights:
    """The token at a place that is counted from the end: -1 the last, -2 the one before.

    A text that is too short for it, and one that was cut, has no weight.
    """
    return [
        _one(text, place) if -place <= len(text.ids) and not text.truncated else _one(text)
        for text in texts
    ]


def answer_token(texts: Sequence[TextTokens]) -> Weights:
    """Of pairs (texts 0 and 1, 2 and 3, ...) the first token in which the two differ.

    In pairs of one question with answers such as `(A` and `(B` that is the answer's letter. A pair
    without such a token has no weight.
    """
    weights: list[Tensor] = []
    for one, other in zip(texts[::2], texts[1::2], strict=True):
        both = zip(one.ids, other.ids, strict=False)
        differing = [place for place, (a, b) in enumerate(both) if a != b][:1]
        weights += [_one(text, *differing) for text in (one, other)]
    return weights


def matched_positions(texts: Sequence[TextTokens], is_positive_N: Sequence[bool]) -> Weights:
    """Content tokens, weighted so that every position counts as much in the positive texts as in
    the negative ones: as much as the smaller number of tokens that it has in either.

    In a causal model the length of a text acts on its activations through positions alone, so a
    difference of means with these weights owes nothing to the lengths of the texts.
    """
    longest = max((len(text.ids) for text in texts), default=0)
    counts_2L = torch.zeros(2, longest, dtype=torch.float64)
    for text, positive in zip(texts, is_positive_N, strict=True):
        counts_2L[int(positive), : len(text.ids)] += text.content_L
    matched_L = counts_2L.min(dim=0).values
    each_2L = matched_L / counts_2L.clamp(min=1)
    return [
        each_2L[int(positive), : len(text.ids)] * text.content_L
        for text, positive in zip(texts, is_positive_N, strict=True)
    ]


def pooled_rows(
    model: LanguageModel,
    sites: Sequence[Site],
    texts: Sequence[TextTokens],
    weights: Weights,
    batch_size: int = 16,
) -> Rows:
    """One row for each text: the weighted mean of its activations.

    Raises:
        InputError: an activation is not finite.
    """
    used = [number for number, weights_L in enumerate(weights) if float(weights_L.sum()) > 0]
    sums: dict[str, dict[int, Tensor]] = {site.name: {} for site in sites}
    for text in capture(model, sites, [texts[number] for number in used], batch_size):
        weights_L = weights[used[text.number]]
        for name, rows_LD in text.rows.items():
            share_L = (weights_L / weights_L.sum()).to(rows_LD.device)
            # Tokens without weight take no part: of attention sinks and BOS they may be enormous.
            kept_L = share_L > 0
            mean_D = share_L[kept_L] @ rows_LD[kept_L].double()
            sums[name][text.number] = mean_D.cpu()
    rows = {name: _stacked(found, model.d_model) for name, found in sums.items()}
    for name, rows_ND in rows.items():
        require_finite_rows(rows_ND, name)
    weights_N = torch.stack([weights[number].sum() for number in used]) if used else _EMPTY
    return Rows(rows, torch.tensor(used, dtype=torch.int64), weights_N)


def token_rows(
    model: LanguageModel,
    sites: Sequence[Site],
    texts: Sequence[TextTokens],
    batch_size: int = 16,
    *,
    most: int = MOST_ROWS,
    seed: int = 0,
) -> Rows:
    """One row for each content token, of weight 1; of more than `most` about as many, drawn alike.

    Which tokens of a text are drawn depends on its tokens and the seed, not on the order of texts.

    Raises:
        InputError: an activation is not finite.
    """
    share = most / max(1, sum(text.n_content for text in texts))
    chosen = [_drawn(text, share, seed) for text in texts]
    parts: dict[str, dict[int, Tensor]] = {site.name: {} for site in sites}
    for text in capture(model, sites, texts, batch_size):
        for name, rows_LD in text.rows.items():
            places = chosen[text.number].to(rows_LD.device)
            parts[name][text.number] = rows_LD[places].double().cpu()
    numbers = [number for number, places in enumerate(chosen) for _ in range(len(places))]
    empty_ND = torch.empty(0, model.d_model, dtype=torch.float64)
    rows = {
        name: torch.cat([empty_ND, *(found[number] for number in sorted(found))])
        for name, found in parts.items()
    }
    for name, rows_ND in rows.items():
        require_finite_rows(rows_ND, name)
    texts_N = torch.tensor(numbers, dtype=torch.int64)
    return Rows(rows, texts_N, torch.ones(len(numbers), dtype=torch.float64))


_EMPTY = torch.empty(0, dtype=torch.float64)


def _one(text: TextTokens, *place: int) -> Float[Tensor, "L"]:
    """All weight on one token, or none on any."""
    weights_L = torch.zeros(len(text.ids), dtype=torch.float64)
    weights_L[list(place)] = 1.0
    return weights_L


def _stacked(found: Mapping[int, Tensor], width: int) -> Float[Tensor, "N D"]:
    if not found:
        return torch.empty(0, width, dtype=torch.float64)
    return torch.stack([found[number] for number in sorted(found)])


def _drawn(text: TextTokens, share: float, seed: int) -> Int[Tensor, "C"]:
    """Places of a text's content tokens, each kept with a probability."""
    places = text.content_L.nonzero()[:, 0]
    if share >= 1:
        return places
    digest = hashlib.sha256(f"{seed} {text.ids}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return places[torch.rand(len(places), generator=generator) < share]
