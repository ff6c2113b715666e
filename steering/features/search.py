"""Find the features that tell two sets of texts apart."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...sae.common.errors import InputError
from ...sae.common.wording import counted
from ...sae.fingerprint import sae_fingerprint
from ..encoding import encode_texts, read_limit
from ..loading import LoadedRun, load_run_of
from .config import FindConfig, Ranking
from .pooling import Pooled, PooledTexts, pool_texts
from .ranking import AUROC, area, mean_over
from .text_lists import read_text_list

_SHUFFLES = 20

_MAX_LENGTH = 256
"""Tokens read of a text unless the caller says otherwise or the model's context is shorter."""


@dataclass(frozen=True)
class FoundFeature:
    """How one feature differs between the positive and the negative texts.

    Activations are in the autoencoder's scaled units; a text is pooled over its content tokens.
    """

    feature: int
    auroc_mean: float
    """AUROC of the mean activation of a text: 1 if it is larger in every positive text."""
    auroc_max: float
    """AUROC of the largest activation in a text."""
    difference: float
    """mean_positive - mean_negative."""
    mean_positive: float
    """Mean over the positive texts of the mean activation of a text."""
    mean_negative: float
    firing_positive: float
    """Fraction of the positive texts in which it fires at all."""
    firing_negative: float


@dataclass(frozen=True)
class TextSet:
    """What was read of one set of texts."""

    texts: int
    """Texts that count."""
    without_content: int
    """Texts left out because no token of theirs counts."""
    truncated: int
    """Texts of which only the beginning was read."""
    mean_length: float
    """Mean number of content tokens read of a text."""


@dataclass(frozen=True)
class Search:
    """The features found, and what to hold them against."""

    features: tuple[FoundFeature, ...]
    """Best first."""
    rank_by: Ranking
    considered: int
    """Features that fire in enough of the positive texts to be ranked."""
    positive: TextSet
    negative: TextSet
    length_auroc: float
    """AUROC of a text's number of content tokens alone. Far from 0.5, length tells the sets apart,
    and features may be found for it."""
    chance: float
    """The best `rank_by` of the same search when the labels of the texts are shuffled, the mean
    over 20 shuffles; a feature near it may be luck."""

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return asdict(self)


def find(
    config: FindConfig, *, say: Callable[[str], None] = lambda sentence: None
) -> dict[str, Any]:
    """Rank the features of a run by how they differ between two files of texts.

    Returns:
        What `Search.to_dict` gives, and `run`, `model`, `site` and `sae` (its fingerprint).

    Raises:
        InputError: a file has no texts, or run and language model do not belong together.
    """
    positive = read_text_list(config.positive, config.text_field, what="--positive")
    negative = read_text_list(config.negative, config.text_field, what="--negative")
    loaded = load_run_of(config, say)
    say(f"reading {len(positive):,} positive and {counted(len(negative), 'negative text')}")
    search = find_features(
        loaded,
        positive,
        negative,
        top=config.top,
        rank_by=config.rank_by,
        min_firing=config.min_firing,
        max_length=config.max_length,
        batch_size=config.batch_size,
        seed=config.seed,
    )
    return {
        "run": config.run,
        "model": loaded.model.name,
        "site": loaded.site.name,
        "sae": sae_fingerprint(loaded.sae),
        **search.to_dict(),
    }


def find_features(
    loaded: LoadedRun,
    positive: Iterable[str],
    negative: Iterable[str],
    *,
    top: int = 20,
    rank_by: Ranking = "auroc_mean",
    min_firing: float = 0.1,
    max_length: int | None = None,
    batch_size: int = 16,
    seed: int = 0,
) -> Search:
    """Rank the features by how they differ between positive and negative texts.

    Args:
        loaded: language model, site and autoencoder, from `load_run`.
        positive, negative: the texts.
        top: features to give, at most.
        rank_by: `auroc_mean`, `auroc_max` or `difference`, see `FoundFeature`.
        min_firing: fraction of the positive texts in which a feature must fire to be ranked.
        max_length: tokens read of each text; by default 256, or the model's context if shorter.
        batch_size: texts in one forward pass.
        seed: of the shuffled labels behind `Search.chance`.

    Raises:
        InputError: one of the sets has no text with content.
    """
    n_latents = loaded.sae.config.n_latents
    limit = read_limit(loaded.model, max_length, _MAX_LENGTH)
    sides: list[PooledTexts] = []
    for name, texts in (("positive", positive), ("negative", negative)):
        encoded = encode_texts(*loaded, texts, batch_size=batch_size, max_length=limit)
        side = pool_texts(encoded, n_latents)
        if not len(side.lengths):
            raise InputError(
                f"no {name} text has a token that counts; give texts of at least two words"
            )
        sides.append(side)
    measures = _Measures(sides[0], sides[1], n_latents)
    found = measures.columns(measures.is_positive_N)
    order_C = ranked(found, rank_by, min_firing)
    return Search(
        features=tuple(
            FoundFeature(int(feature), **{name: float(found[name][feature]) for name in found})
            for feature in order_C[:top]
        ),
        rank_by=rank_by,
        considered=len(order_C),
        positive=_text_set(sides[0]),
        negative=_text_set(sides[1]),
        length_auroc=area(
            torch.cat([side.lengths for side in sides]).double(), measures.is_positive_N
        ),
        chance=_chance(measures, rank_by, min_firing, seed),
    )


Columns = dict[str, Float[Tensor, "F"]]
"""The fields of FoundFeature, float64, for every latent."""


def ranked(columns: Columns, rank_by: Ranking, min_firing: float) -> Int[Tensor, "C"]:
    """The features that fire in enough positive texts, best first; of equal ones the first."""
    candidates_C = (columns["firing_positive"] >= min_firing).nonzero()[:, 0]
    scores_C = columns[rank_by][candidates_C]
    return candidates_C[scores_C.argsort(descending=True, stable=True)]


class _Measures:
    """Both sets joined and ranked once, to be measured under any labels."""

    def __init__(self, positive: PooledTexts, negative: PooledTexts, n_latents: int) -> None:
        n_positive = len(positive.lengths)
        n_texts = n_positive + len(negative.lengths)
        self.is_positive_N = torch.arange(n_texts) < n_positive
        self._n_latents = n_latents
        self._mean = _joined(positive.mean, negative.mean, n_positive)
        largest = _joined(positive.largest, negative.largest, n_positive)
        self._auroc_mean = AUROC(self._mean, n_texts, n_latents)
        self._auroc_max = AUROC(largest, n_texts, n_latents)

    def columns(self, is_positive_N: Bool[Tensor, "N"]) -> Columns:
        fired = self._mean._replace(values=torch.ones_like(self._mean.values))
        means, rates = (
            [
                mean_over(pooled, side_N, self._n_latents)
                for side_N in (is_positive_N, ~is_positive_N)
            ]
            for pooled in (self._mean, fired)
        )
        return {
            "auroc_mean": self._auroc_mean.areas(is_positive_N),
            "auroc_max": self._auroc_max.areas(is_positive_N),
            "difference": means[0] - means[1],
            "mean_positive": means[0],
            "mean_negative": means[1],
            "firing_positive": rates[0],
            "firing_negative": rates[1],
        }


def _joined(positive: Pooled, negative: Pooled, n_positive: int) -> Pooled:
    return Pooled(
        torch.cat([positive.latents, negative.latents]),
        torch.cat([positive.texts, negative.texts + n_positive]),
        torch.cat([positive.values, negative.values]),
    )


def _chance(measures: _Measures, rank_by: Ranking, min_firing: float, seed: int) -> float:
    """The mean over shuffled labels of the best score; 0 if no feature fires often enough."""
    generator = torch.Generator().manual_seed(seed)
    best: list[float] = []
    for _ in range(_SHUFFLES):
        order_N = torch.randperm(len(measures.is_positive_N), generator=generator)
        columns = measures.columns(measures.is_positive_N[order_N])
        best += [float(columns[rank_by][f]) for f in ranked(columns, rank_by, min_firing)[:1]]
    return sum(best) / max(len(best), 1)


def _text_set(side: PooledTexts) -> TextSet:
    return TextSet(
        texts=len(side.lengths),
        without_content=side.without_content,
        truncated=side.truncated,
        mean_length=float(side.lengths.double().mean()),
    )
