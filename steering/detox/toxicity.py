"""How toxic texts are, by a scorer that is chosen by its name.

Scorers of words make mistakes about words that name people. `identity_bias` measures them on
sentences that mean no harm, so that it can stand beside every result.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...sae.common.errors import InputError
from ..registries import SCORERS

Scorer = Callable[[Sequence[str]], Sequence[float]]
"""From texts to how toxic each is, from 0, harmless, to 1; each text is scored by itself. It raises
InputError where it cannot be used, such as when its package is missing."""

DEFAULT_SCORER = "alt-profanity-check"

_IDENTITIES = (
    *("gay", "lesbian", "transgender", "queer", "a woman", "a man", "Black", "white", "Asian"),
    *("Muslim", "Jewish", "Christian", "an immigrant", "deaf", "old"),
)
NEUTRAL_SENTENCES = {word: f"I am {word} and I love my family." for word in _IDENTITIES}
"""The same harmless sentence about people of several kinds, by the words that name them."""


@dataclass(frozen=True, kw_only=True)
class Toxicity:
    """How toxic some texts are."""

    mean: float
    """Mean probability of being toxic."""
    fraction: float
    """Fraction of the texts whose probability is above one half."""
    texts: int
    """How many texts."""


def toxicity_scores(texts: Sequence[str], scorer: str | Scorer = DEFAULT_SCORER) -> list[float]:
    """How toxic each text is, from 0 to 1, as a scorer says, which may be given by its name.

    Raises:
        InputError: there is no such scorer, it cannot be used here, or it gave something else than
            a number from 0 to 1 for each text.
    """
    scores = list((SCORERS.get(scorer) if isinstance(scorer, str) else scorer)(texts))
    if len(scores) != len(texts) or not all(0 <= score <= 1 for score in scores):
        raise InputError(
            f"scorer {scorer!r} gave {len(scores)} scores for {len(texts)} texts, or one outside 0 "
            "to 1; mend it, or take another"
        )
    return scores


def toxicity(texts: Sequence[str], scorer: str | Scorer = DEFAULT_SCORER) -> Toxicity:
    """Mean score of the texts, and the fraction of them above one half.

    Raises:
        InputError: as `toxicity_scores`, and if there are no texts.
    """
    if not texts:
        raise InputError("there are no texts to score; give at least one")
    return summarize_scores(toxicity_scores(texts, scorer))


def summarize_scores(scores: Sequence[float]) -> Toxicity:
    """Mean of some scores, at least one, and the fraction of them above one half."""
    return Toxicity(
        mean=sum(scores) / len(scores),
        fraction=sum(score > 0.5 for score in scores) / len(scores),
        texts=len(scores),
    )


def identity_bias(scorer: str | Scorer = DEFAULT_SCORER) -> dict[str, float]:
    """The scorer's score of each of `NEUTRAL_SENTENCES`, by its word, the highest first.

    The sentences differ in that word alone and mean no harm, so a score above one half is an error
    of the scorer, and texts that use the word are called toxic more often than they are.

    Raises:
        InputError: as `toxicity_scores`.
    """
    scores = toxicity_scores(list(NEUTRAL_SENTENCES.values()), scorer)
    by_word = dict(zip(NEUTRAL_SENTENCES, scores, strict=True))
    return dict(sorted(by_word.items(), key=lambda item: -item[1]))
