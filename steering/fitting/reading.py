"""From texts to the examples of each site: those that are fitted to, and those held out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ...sae.common.errors import InputError
from ...sae.language_model.model import LanguageModel
from ...sae.language_model.sites import Site
from .capture import TextTokens, tokenize_texts
from .config import FitConfig, Pool
from .examples import Examples, held_out_groups
from .pooling import (
    Rows,
    Weights,
    answer_token,
    last_token,
    matched_positions,
    pooled_rows,
    text_mean,
    token_from_end,
    token_mean,
    token_rows,
)
from .shift import next_token_entropies
from .sources import Source, scored_texts


@dataclass(frozen=True, eq=False)
class ReadExamples:
    """The rows of all texts at each site."""

    source: Source
    """With the scores that were computed, and without the texts that have no row."""
    by_site: Mapping[str, Examples]
    is_held_out_N: Bool[Tensor, "N"]
    """Which rows are of held-out texts."""
    texts_N: Int[Tensor, "N"]
    """The text of each row, by its place in the source."""
    n_tokens: int
    """Content tokens of the texts that are fitted to."""
    n_texts: int
    """Texts that are fitted to."""
    without_content: int
    """Texts that were left out since they have no token that counts; of pairs both texts."""
    truncated: int
    """Texts of which only the beginning was read."""


def read_examples(
    model: LanguageModel, sites: Sequence[Site], source: Source, config: FitConfig, pool: Pool
) -> ReadExamples:
    """Read the texts once and give the rows of each site.

    Raises:
        InputError: no text has a token that counts, one side is too small to hold some out, or the
            pooling does not go with these texts.
    """
    texts = tokenize_texts(model, source.texts, config.max_length)
    if config.score == "entropy":
        source, texts = _with_entropies(model, source, texts, config)
    usable = _usable(source, texts, pool, config)
    kept = [n for n, group in enumerate(source.groups) if group in usable]
    without_content = len(texts) - len(kept)
    if not kept:
        raise InputError("no text has a token that counts; give texts of at least two tokens")
    source, texts = _taken(source, kept), [texts[number] for number in kept]
    held_out = held_out_groups(source, config.held_out, config.seed)
    is_held_out = [group in held_out for group in source.groups]
    rows = _rows(model, sites, source, texts, is_held_out, config, pool)
    of_text = torch.tensor(is_held_out)
    scores = torch.tensor(source.scores or (0.0,) * len(texts), dtype=torch.float64)
    groups = torch.tensor(source.groups)
    fitted_to = [text for text, out in zip(texts, is_held_out, strict=True) if not out]
    return ReadExamples(
        source=source,
        by_site={
            name: Examples(
                kind=source.kind,
                rows_ND=rows_ND,
                scores_N=scores[rows.texts_N],
                groups_N=groups[rows.texts_N],
                weights_N=rows.weights_N,
            )
            for name, rows_ND in rows.rows.items()
        },
        is_held_out_N=of_text[rows.texts_N],
        texts_N=rows.texts_N,
        n_tokens=sum(text.n_content for text in fitted_to),
        n_texts=len(fitted_to),
        without_content=without_content,
        truncated=sum(text.truncated for text in texts),
    )


def _with_entropies(
    model: LanguageModel, source: Source, texts: list[TextTokens], config: FitConfig
) -> tuple[Source, list[TextTokens]]:
    """The texts scored by the entropy of the next token; those without any token are left out."""
    entropies_N = next_token_entropies(model, texts, config.batch_size)
    kept = [int(number) for number in entropies_N.isfinite().nonzero()[:, 0]]
    scored = scored_texts(
        [source.texts[number] for number in kept],
        [float(entropies_N[number]) for number in kept],
        [source.groups[number] for number in kept] if config.center == "group" else None,
    )
    return scored, [texts[number] for number in kept]


def _usable(
    source: Source, texts: Sequence[TextTokens], pool: Pool, config: FitConfig
) -> frozenset[int]:
    """The groups all of whose texts have a token that counts; of scored ones those with any."""
    if pool == "answer":
        has_row = [bool(weights_L.any()) for weights_L in _answer(source, texts, config)]
    else:
        has_row = [text.n_content > 0 for text in texts]
    with_row = {g for g, has in zip(source.groups, has_row, strict=True) if has}
    without = {g for g, has in zip(source.groups, has_row, strict=True) if not has}
    return frozenset(with_row - without if source.kind == "pairs" else with_row)


def _taken(source: Source, kept: Sequence[int]) -> Source:
    return replace(
        source,
        texts=tuple(source.texts[n] for n in kept),
        scores=tuple(source.scores[n] for n in kept) if source.scores else (),
        groups=tuple(source.groups[n] for n in kept),
    )


def _rows(
    model: LanguageModel,
    sites: Sequence[Site],
    source: Source,
    texts: Sequence[TextTokens],
    is_held_out: Sequence[bool],
    config: FitConfig,
    pool: Pool,
) -> Rows:
    if pool == "each":
        return token_rows(model, sites, texts, config.batch_size, seed=config.seed)
    weights: Weights
    if pool == "matched":
        weights = _matched(source, texts, is_held_out)
    elif pool == "answer":
        weights = _answer(source, texts, config)
    else:
        pooling = {"tokens": token_mean, "texts": text_mean, "last": last_token}[pool]
        weights = pooling(texts)
    return pooled_rows(model, sites, texts, weights, config.batch_size)


def _matched(
    source: Source, texts: Sequence[TextTokens], is_held_out: Sequence[bool]
) -> list[Tensor]:
    """Weights that match positions among the texts that are fitted to, and among the others."""
    found: dict[int, Tensor] = {}
    for side in (False, True):
        numbers = [n for n, out in enumerate(is_held_out) if out == side]
        of_side = matched_positions(
            [texts[n] for n in numbers], [source.is_positive[n] for n in numbers]
        )
        found |= dict(zip(numbers, of_side, strict=True))
    return [found[number] for number in range(len(texts))]


def _answer(source: Source, texts: Sequence[TextTokens], config: FitConfig) -> Weights:
    if config.answer_token is not None:
        return token_from_end(texts, config.answer_token)
    if source.kind != "pairs":
        raise InputError(
            "pool is 'answer', which compares the texts of a pair; give --pairs, or with "
            "--answer-token -1 take each text's last token",
            field="pool",
        )
    return answer_token(texts)
