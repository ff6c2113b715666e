"""A quiz on features: half of a feature's examples are shown, and further ones are to be told from
near misses, two texts at a time.

Which features, examples and near misses follows from the index and the seed alone. Examples of the
largest activations and random ones take turns, so that a feature whose largest activations alone
have a sense is found out.
"""

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from ...sae.common.errors import InputError
from ...sae.common.text import visible
from ..features.feature import Example, Feature
from ..features.index import FeatureIndex
from ..labels.evidence import other_examples, peak_place

FORMAT = "sparsteer-feature-quiz"

Choice = Literal["A", "B"]

_LEAST_SHOWN = 3
_DRAWS = 50
"""Draws from other features for each text that is still missing."""


@dataclass(frozen=True)
class Text:
    """A text with a marked token, as a reader sees it."""

    tokens: tuple[str, ...]
    marked: int
    """Which token is marked."""
    strengths: tuple[float, ...] = ()
    """Of a text that is shown: the activation at each token, 1 being the feature's largest."""


@dataclass(frozen=True)
class Pair:
    """Two texts, on one of which the feature fires."""

    texts: tuple[Text, Text]
    right: Choice
    example: Literal["top", "random"]
    """What the right one is an example of: the largest activations, or all."""
    other: Literal["near_miss", "other"]
    """What the wrong one is: where the feature came nearest to firing, or a firing of another."""


@dataclass(frozen=True)
class Question:
    """What is asked about a feature."""

    feature: int
    shown: tuple[Text, ...]
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class Quiz:
    """Questions about random features."""

    questions: tuple[Question, ...]
    n_alive: int
    """Features that ever fired."""
    n_skipped: int
    """Of those that were drawn, how many had too few examples of different documents."""

    @property
    def identity(self) -> str:
        """A hash of all that is asked, by which answers are known to be to this quiz."""
        content = json.dumps([asdict(question) for question in self.questions], sort_keys=True)
        return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def make_quiz(
    index: FeatureIndex,
    n_features: int,
    n_pairs: int,
    *,
    seed: int,
    report: Callable[[int, int, str], None] = lambda done, total, more: None,
) -> Quiz:
    """Draw features and make a question of each.

    Args:
        index: the feature index.
        n_features: how many, if so many have enough examples.
        n_pairs: of each.
        seed: of all draws.
        report: told of progress.

    Raises:
        InputError: no feature has enough examples.
    """
    alive = np.flatnonzero(index.statistics["fired"] > 0).tolist()
    order = random.Random(seed).sample(alive, len(alive))
    draw_other = other_examples(index, seed)
    questions: list[Question] = []
    n_drawn = 0
    for number in order:
        if len(questions) == n_features:
            break
        n_drawn += 1
        question = question_of(index.feature(number), n_pairs, draw_other=draw_other, seed=seed)
        if question is not None:
            questions.append(question)
            report(len(questions), n_features, "")
    if not questions:
        raise InputError(
            f"no feature has {n_pairs} examples in other documents than those shown; give fewer "
            "--pairs, or build the index with more --examples of more text"
        )
    return Quiz(tuple(questions), len(alive), n_drawn - len(questions))


def question_of(
    feature: Feature,
    n_pairs: int,
    *,
    draw_other: Callable[[random.Random], Example],
    seed: int,
) -> Question | None:
    """The question about a feature; None if it has too few examples or texts to tell them from.

    Every other example, of a document of its own each, is shown; the rest is asked about. The wrong
    texts are the nearest misses, the feature being silent on the whole text, as far as there are
    any; then firings of random other features, on one of which this one might fire, too.
    """
    source = random.Random(f"{seed} {feature.feature}")
    top = _distinct(feature.top, set())
    sampled = _distinct(feature.random, {example.document for example in top})
    shown = [*top[::2], *sampled[::2]]
    asked = [*_turns(top[1::2], sampled[1::2])][:n_pairs]
    if len(asked) < n_pairs or len(shown) < _LEAST_SHOWN:
        return None
    documents = {example.document for example in (*top, *sampled)}
    silent = (e for e in feature.near_misses if not any(e.activations))
    near = _distinct(silent, documents)[:n_pairs]
    others = _others(n_pairs - len(near), feature, documents, draw_other, source)
    wrong = [*((e, "near_miss") for e in near), *((e, "other") for e in others)]
    if len(wrong) < n_pairs:
        return None
    source.shuffle(wrong)
    largest = feature.max_activation
    of_top = {example.row for example in top}
    pairs: list[Pair] = []
    for example, (miss, kind) in zip(asked, wrong, strict=True):
        right: Choice = source.choice(("A", "B"))
        true, false = _text(example), _text(miss)
        pairs.append(
            Pair(
                (true, false) if right == "A" else (false, true),
                right,
                "top" if example.row in of_top else "random",
                "near_miss" if kind == "near_miss" else "other",
            )
        )
    source.shuffle(pairs)
    shown.sort(key=lambda example: -example.activation)
    return Question(feature.feature, tuple(_text(e, largest) for e in shown), tuple(pairs))


def questions_of(quiz: Quiz) -> list[dict[str, Any]]:
    """What a reader may see, as plain values: questions by their place, without the feature's
    number and without what is right."""
    return [
        {
            "question": number,
            "shown": [asdict(text) for text in question.shown],
            "pairs": [
                {side: asdict(text) for side, text in zip("AB", pair.texts, strict=True)}
                for pair in question.pairs
            ],
        }
        for number, question in enumerate(quiz.questions, start=1)
    ]


def key_of(quiz: Quiz) -> list[dict[str, Any]]:
    """What is right, as plain values, in the order of the questions."""
    return [
        {
            "question": number,
            "feature": question.feature,
            "pairs": [
                {"right": pair.right, "example": pair.example, "other": pair.other}
                for pair in question.pairs
            ],
        }
        for number, question in enumerate(quiz.questions, start=1)
    ]


def _text(example: Example, largest: float | None = None) -> Text:
    strengths = () if not largest else tuple(round(a / largest, 3) for a in example.activations)
    return Text(tuple(visible(text) for text in example.texts), peak_place(example), strengths)


def _distinct(examples: Iterable[Example], documents: set[int]) -> list[Example]:
    """The first of each document, but for those of the documents that are given."""
    seen = set(documents)
    found: list[Example] = []
    for example in examples:
        if example.document not in seen:
            seen.add(example.document)
            found.append(example)
    return found


def _turns(one: Sequence[Example], other: Sequence[Example]) -> Iterable[Example]:
    """Of each in turn, and the rest of the longer one."""
    for place in range(max(len(one), len(other))):
        yield from one[place : place + 1]
        yield from other[place : place + 1]


def _others(
    most: int,
    feature: Feature,
    documents: set[int],
    draw_other: Callable[[random.Random], Example],
    source: random.Random,
) -> list[Example]:
    """So many firings of other features, in documents where this one is not known to fire."""
    known = documents | {example.document for example in feature.near_misses}
    found: list[Example] = []
    for _ in range(_DRAWS * most):
        if len(found) == most:
            break
        example = draw_other(source)
        if example.document not in known:
            known.add(example.document)
            found.append(example)
    return found
