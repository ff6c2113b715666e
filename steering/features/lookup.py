"""Look features up in the index, the picks and the labels, without the language model."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ...sae.common.errors import InputError
from ..labels.store import machine_labels
from .feature import Neighbor
from .index import FeatureIndex
from .picks import Picks
from .vocabulary import Vocabulary

_UNSEEN_EXAMPLES = 2
"""Examples on other tokens that a feature is taken to have besides those in the index, so that one
example on the token is less than twenty."""

_MOST_TOKENS_NAMED = 8


@dataclass(frozen=True)
class TokenMatch:
    """A feature that fires most on a token."""

    feature: int
    score: float
    """Fraction of its top examples that are on the token, two others counted with them."""
    examples: int
    """Top examples on the token."""
    of: int
    """Top examples that it has."""
    share: float
    """The largest activation on the token as a fraction of the feature's own largest."""
    tokens: tuple[str, ...]
    """The tokens that were found, most frequent first."""


@dataclass(frozen=True)
class LogitMatch:
    """A feature that raises the logit of a token."""

    feature: int
    place: int
    """Place of the token among those that the feature raises most, from 1."""
    logit: float
    """Relative to the mean over the vocabulary; compares tokens of one feature."""
    share: float
    """Of the logit that the feature raises most."""
    token: str


@dataclass(frozen=True)
class LabelMatch:
    """A feature whose label or note has the words."""

    feature: int
    label: str
    label_source: str
    """person or machine."""
    note: str


def by_token(index: FeatureIndex, token: str, *, top: int = 20) -> list[TokenMatch]:
    """The features whose top examples are on a token, those with most of them first.

    Args:
        index: the feature index.
        token: its text, in any case and with or without spaces around it; where no token is like
            that, part of one.
        top: features to give, at most.

    Raises:
        InputError: there is no such token.
    """
    ids = matching_tokens(index, token)
    tokens_FN, activations_FN = index.peaks()
    on_token_FN = np.isin(tokens_FN, ids)
    found_F, filled_F = on_token_FN.sum(axis=1), (tokens_FN >= 0).sum(axis=1)
    score_F = found_F / (filled_F + _UNSEEN_EXAMPLES)
    largest_F = np.where(on_token_FN, activations_FN, 0).max(axis=1, initial=0)
    own_F = index.statistics["max_activation"]
    share_F = np.divide(largest_F, own_F, out=np.zeros_like(score_F), where=own_F > 0)
    candidates = np.flatnonzero(found_F)
    order = np.lexsort((candidates, -share_F[candidates], -score_F[candidates]))[:top]
    return [
        TokenMatch(
            feature=int(feature),
            score=float(score_F[feature]),
            examples=int(found_F[feature]),
            of=int(filled_F[feature]),
            share=float(share_F[feature]),
            tokens=_by_frequency(index, tokens_FN[feature][on_token_FN[feature]]),
        )
        for feature in candidates[order]
    ]


def by_logit(index: FeatureIndex, token: str, *, top: int = 20) -> list[LogitMatch]:
    """The features that raise the logit of a token most: where it is first among the tokens that a
    feature raises, then where it is second, and so on.

    Args:
        index: the feature index.
        token: as of `by_token`.
        top: features to give, at most.

    Raises:
        InputError: there is no such token, or the index was built without logits.
    """
    promoted = index.promoted()
    if promoted is None:
        raise InputError(
            "this feature index was built with --logits 0, so it does not know what features "
            "promote; build it again without that"
        )
    ids = matching_tokens(index, token)
    numbers_FK, logits_FK = promoted
    found_FK = np.isin(numbers_FK, ids) & (index.statistics["fired"] > 0)[:, None]
    features = np.flatnonzero(found_FK.any(axis=1))
    places = found_FK[features].argmax(axis=1)
    logits = logits_FK[features, places]
    best = logits_FK[features, 0]
    share = np.divide(logits, best, out=np.zeros(len(best)), where=best > 0)
    order = np.lexsort((features, -share, places))[:top]
    return [
        LogitMatch(
            feature=int(features[n]),
            place=int(places[n]) + 1,
            logit=float(logits[n]),
            share=float(share[n]),
            token=_text(index, int(numbers_FK[features[n], places[n]])),
        )
        for n in order
    ]


def by_label(index: FeatureIndex, picks: Picks, words: str, *, top: int = 20) -> list[LabelMatch]:
    """The features whose label or note has all the words, in any case; those that a person labeled
    first. A machine's label is looked at where no person wrote one.

    Args:
        index: the feature index, whose run may have machine labels.
        picks: the picks of the run.
        words: parts of words, separated by spaces.
        top: features to give, at most.
    """
    wanted = words.casefold().split()
    found = [
        match
        for match in _labeled(index, picks)
        if all(word in f"{match.label} {match.note}".casefold() for word in wanted)
    ]
    found.sort(key=lambda match: (match.label_source != "person", match.feature))
    return found[:top]


def by_neighbor(index: FeatureIndex, number: int, *, top: int = 20) -> list[Neighbor]:
    """The features with the most similar decoder direction, as many as the index keeps.

    Raises:
        InputError: there is no feature of that number.
    """
    return list(index.neighbors(number)[:top])


def matching_tokens(index: FeatureIndex, token: str) -> list[int]:
    """The ids of the tokens of a text, case and spaces around it left aside; if there is none, of
    those that it is a part of.

    Raises:
        InputError: there is none either.
    """
    texts = _plain_texts(index.vocabulary)
    wanted = _plain(token) or token
    ids = [id_ for id_, text in enumerate(texts) if text == wanted]
    ids = ids or [id_ for id_, text in enumerate(texts) if wanted in text]
    if not ids:
        raise InputError(
            f"no token of the vocabulary is or has {token!r}; a longer word may be several tokens: "
            "search for a part of it, or by text"
        )
    return ids


@lru_cache(maxsize=2)
def _plain_texts(vocabulary: Vocabulary) -> list[str]:
    return [_plain(part.decode("utf-8", "surrogateescape")) for part in vocabulary.tokens]


def _plain(text: str) -> str:
    return text.strip().casefold()


def _text(index: FeatureIndex, id_: int) -> str:
    return "".join(index.vocabulary.texts([id_]))


def _by_frequency(index: FeatureIndex, ids: np.ndarray) -> tuple[str, ...]:
    values, counts = np.unique(ids, return_counts=True)
    best = values[np.argsort(-counts, kind="stable")][:_MOST_TOKENS_NAMED]
    return tuple(_text(index, int(id_)) for id_ in best)


def _labeled(index: FeatureIndex, picks: Picks) -> Iterator[LabelMatch]:
    named: set[int] = set()
    for pick in picks.picks:
        if pick.label or pick.note:
            yield LabelMatch(pick.feature, pick.label, pick.label_source, pick.note)
        if pick.label:
            named.add(pick.feature)
    machine = machine_labels(index.path.parent, sae=picks.sae)
    for number, label in machine.items():
        if number not in named:
            yield LabelMatch(number, label.label, "machine", "")
