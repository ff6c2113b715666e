"""The features that a text activates, by how unusual that is for each of them."""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from ...kernels.codes import Codes
from ...sae.common.errors import InputError
from ..encoding import EncodedText, encode_texts, read_limit
from ..loading import LoadedRun
from .index import FeatureIndex
from .listing import rarity

MAX_LENGTH = 512
"""Tokens read of the text unless the caller says otherwise or the model's context is shorter."""

_MOST_FIRINGS = 12


@dataclass(frozen=True)
class Firing:
    """A token of the text on which a feature fires."""

    token: int
    """Which of the text's tokens, from 0."""
    text: str
    activation: float
    share: float
    """Of the feature's own largest activation in the index."""


@dataclass(frozen=True)
class TextMatch:
    """A feature that fires in the text."""

    feature: int
    score: float
    """share (at most 1) times rarity: the search ranks by this."""
    share: float
    """Largest activation in the text as a fraction of the feature's own largest in the index."""
    rarity: float
    """log(1 / density) / log(rows of the index): 1 for a feature that fired once, 0 for one that
    always fires."""
    activation: float
    """The largest in the text."""
    density: float
    """Fraction of the rows of the index on which it fired."""
    fired: int
    """Tokens of the text on which it fires."""
    firings: tuple[Firing, ...]
    """The strongest of them, strongest first."""


@dataclass(frozen=True)
class TextSearch:
    """The features that a text activates."""

    tokens: tuple[str, ...]
    """The text as it was read, a text for each token."""
    counts: tuple[bool, ...]
    """Which tokens count; special tokens and the attention sink at the start do not."""
    truncated: bool
    """Whether only the beginning of the text was read."""
    firing: int
    """Features that fire in the text at all."""
    too_dense: int
    """How many of them were left out for their density."""
    unknown: int
    """How many were left out because they never fired in the index, so that they have no unit."""
    features: tuple[TextMatch, ...]
    """Best first."""

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return asdict(self)


def search_text(
    loaded: LoadedRun,
    index: FeatureIndex,
    text: str,
    *,
    top: int = 20,
    max_density: float = 0.1,
    max_length: int | None = None,
    at: Collection[int] | None = None,
) -> TextSearch:
    """Rank the features that fire in a text.

    They are ranked by share times rarity, never by the size of the activation: sizes of unlike
    features cannot be compared, and the largest are mostly those that fire everywhere.

    Args:
        loaded: language model, site and autoencoder, from `load_run`.
        index: the feature index of the same autoencoder.
        text: what is read.
        top: features to give, at most.
        max_density: features that fire on a larger fraction of the index's rows are left out.
        max_length: tokens read, BOS not counted; by default 512, or the model's context if shorter.
        at: numbers of the tokens at which to look; by default all that count.

    Raises:
        InputError: no token of the text counts, or `at` names one that it does not have.
    """
    limit = read_limit(loaded.model, max_length, MAX_LENGTH)
    (read,) = encode_texts(*loaded, [text], max_length=limit)
    kept_T = read.kept.numpy()
    if not kept_T.any():
        raise InputError("no token of the text counts; give a text of at least two words")
    places_C = np.flatnonzero(kept_T)
    used_C = np.ones(len(places_C), dtype=bool)
    if at is not None:
        if wrong := [place for place in at if not 0 <= place < len(kept_T)]:
            raise InputError(f"there is no token {wrong[0]}; the text has {len(kept_T)}")
        used_C = np.isin(places_C, list(at))
    largest_F = _largest(read.codes, torch.tensor(used_C), index.n_latents)
    own_F = index.statistics["max_activation"]
    density_F = index.statistics["density"]
    fires_F = largest_F > 0
    known_F = own_F > 0
    dense_F = density_F > max_density
    candidates = np.flatnonzero(fires_F & known_F & ~dense_F)
    share = largest_F[candidates] / own_F[candidates]
    rare = rarity(density_F[candidates], index.manifest["rows"])
    score = share.clip(max=1) * rare
    order = np.argsort(-score, kind="stable")[:top]
    texts = tuple(index.vocabulary.texts([int(id_) for id_ in read.tokens]))
    return TextSearch(
        tokens=texts,
        counts=tuple(kept_T.tolist()),
        truncated=read.truncated,
        firing=int(fires_F.sum()),
        too_dense=int((fires_F & known_F & dense_F).sum()),
        unknown=int((fires_F & ~known_F).sum()),
        features=tuple(
            TextMatch(
                feature=int(feature := candidates[place]),
                score=float(score[place]),
                share=float(share[place]),
                rarity=float(rare[place]),
                activation=float(largest_F[feature]),
                density=float(density_F[feature]),
                **_firings(read, texts, places_C, int(feature), float(own_F[feature])),
            )
            for place in order
        ),
    )


def _largest(codes: Codes, used_C: torch.Tensor, n_latents: int) -> np.ndarray:
    """The largest activation of every latent over the rows that are used; 0 where none fires."""
    values = codes.values[used_C].float().clamp(min=0).flatten()
    largest_F = torch.zeros(n_latents)
    largest_F.scatter_reduce_(0, codes.indices[used_C].long().flatten(), values, "amax")
    return largest_F.numpy()


def _firings(
    read: EncodedText, texts: tuple[str, ...], places_C: np.ndarray, feature: int, own: float
) -> dict[str, Any]:
    """`fired` and `firings` of a feature."""
    found_CM = (read.codes.indices == feature) & (read.codes.values > 0)
    activations_C = (read.codes.values.float() * found_CM).sum(dim=-1)
    rows_C = activations_C.argsort(descending=True, stable=True)
    firings: list[Firing] = []
    for row in map(int, rows_C[:_MOST_FIRINGS]):
        activation, place = float(activations_C[row]), int(places_C[row])
        if activation > 0:
            firings.append(Firing(place, texts[place], activation, activation / own))
    return {"fired": int((activations_C > 0).sum()), "firings": tuple(firings)}
