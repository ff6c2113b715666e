"""Which examples of a feature a label is made from, and on which others it is judged."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

from ...sae.common.text import visible
from ..features.index import Example, Feature, FeatureIndex

_TOKENS_JUDGED = 24
"""Tokens of the longest text that is judged: the longer a text, the likelier that a text drawn at
random holds a firing by chance."""

_OTHER_FEATURES = 256

Kind = Literal["positive", "near_miss", "other"]


@dataclass(frozen=True)
class Evidence:
    """What a labeler is shown of a feature."""

    strongest: tuple[Example, ...]
    middling: tuple[Example, ...]
    promoted: tuple[str, ...]
    """Tokens that its direction makes likelier; empty if the index has no logits."""


@dataclass(frozen=True)
class HeldOut:
    """A text that was not shown, by which a label is judged."""

    kind: Kind
    text: str


def evidence_of(feature: Feature, examples: int) -> Evidence:
    """The examples shown for a label: half the strongest, half middling ones.

    Middling are those of the middle quantiles of its activation, or, in an index without
    quantiles, those of its random firings that are nearest to half of its maximum.
    """
    strongest = feature.top[: -(-examples // 2)]
    taken = {_place(example) for example in strongest}
    middling = [e for e in _middling(feature) if _place(e) not in taken]
    promoted = feature.positive_logits or ()
    return Evidence(
        strongest,
        tuple(middling[: examples // 2]),
        tuple(visible(token.text) for token in promoted),
    )


def held_out_of(
    feature: Feature,
    shown: Evidence,
    n_texts: int,
    *,
    draw_other: Callable[[random.Random], Example],
    seed: int,
) -> list[HeldOut]:
    """Texts to judge a label by, in an order that tells nothing, the same for the same seed.

    Args:
        feature: the feature.
        shown: what its labeler saw; no document of that is judged.
        n_texts: random firings of the feature, if there are so many, and as many texts on which it
            is silent: near misses for up to half of them, the rest drawn from other features.
        draw_other: draws an example of another feature.
        seed: of the draws and the order.

    Returns:
        Empty if there is no firing left that was not shown, or no text to tell it from.
    """
    source = random.Random(f"{seed} {feature.feature}")
    documents = {example.document for example in (*shown.strongest, *shown.middling)}
    positives = _new(feature.random, documents, n_texts)
    if not positives:
        return []
    fired = {_place(example) for example in (*feature.top, *feature.random)}
    near = _new(feature.near_misses, documents, n_texts // 2)
    near = [example for example in near if not any(example.activations)]
    others: list[Example] = []
    for _ in range(20 * n_texts):
        if len(near) + len(others) == n_texts:
            break
        example = draw_other(source)
        if example.document not in documents and _place(example) not in fired:
            others.append(example)
    if not near and not others:
        return []
    kinds: tuple[tuple[Kind, Sequence[Example]], ...] = (
        ("positive", positives),
        ("near_miss", near),
        ("other", others),
    )
    texts = [HeldOut(kind, plain_text(e)) for kind, chosen in kinds for e in chosen]
    source.shuffle(texts)
    return texts


def other_examples(index: FeatureIndex, seed: int) -> Callable[[random.Random], Example]:
    """A function that draws a random firing of one of a few hundred features, drawn with the seed
    from those that ever fired."""
    fired = np.flatnonzero(index.statistics["fired"] > 0).tolist()
    pool = random.Random(seed).sample(fired, min(len(fired), _OTHER_FEATURES))

    @cache
    def examples(number: int) -> tuple[Example, ...]:
        return index.feature(number).random

    def draw(source: random.Random) -> Example:
        return source.choice(examples(source.choice(pool)))

    return draw


def marked_text(example: Example) -> str:
    """The text on one line, the token on which the feature fires most between << and >>."""
    return "".join(_marked(example)).strip()


def short_text(example: Example) -> str:
    """As `marked_text`, but of the few tokens around the peak."""
    marked = peak_place(example)
    return "".join(_marked(example)[max(0, marked - 6) : marked + 4]).strip()


def peak_text(example: Example) -> str:
    """The token on which the feature fires most, on one line."""
    return visible(example.texts[peak_place(example)]).strip()


def peak_place(example: Example) -> int:
    """Which token to mark; of a character made of several tokens the first, which has the text."""
    return max(n for n in range(example.peak + 1) if example.texts[n] or n == 0)


def _marked(example: Example) -> list[str]:
    parts = [visible(text) for text in example.texts]
    parts[peak_place(example)] = f"<<{parts[peak_place(example)]}>>"
    return parts


def plain_text(example: Example) -> str:
    """The tokens around the peak on one line, without a mark: what is judged."""
    after = min(_TOKENS_JUDGED // 3, len(example.texts) - example.peak - 1)
    start = max(0, example.peak + after + 1 - _TOKENS_JUDGED)
    return visible("".join(example.texts[start : start + _TOKENS_JUDGED])).strip()


def _middling(feature: Feature) -> Iterator[Example]:
    quantiles = feature.quantiles
    if quantiles:
        # From the middle one outward, an example of each in turn.
        order = sorted(range(len(quantiles)), key=lambda n: abs(n - (len(quantiles) - 1) / 2))
        most = max(len(group.examples) for group in quantiles)
        for turn in range(most):
            for number in order:
                yield from quantiles[number].examples[turn : turn + 1]
        return
    # The first half of the random firings; the other half is left to judge the label by.
    shown = feature.random[: len(feature.random) // 2]
    yield from sorted(shown, key=lambda e: abs(e.activation - feature.max_activation / 2))


def _new(examples: Sequence[Example], documents: set[int], most: int) -> list[Example]:
    """The first examples from documents that are not among those given."""
    return [example for example in examples if example.document not in documents][:most]


def _place(example: Example) -> tuple[int, int]:
    return example.document, example.position
