"""Fitting the n-gram classifier of toxicity: its examples, and logistic regression on them.

Toxic texts are short and come from few places. A classifier that saw nothing else would take every
rare word for a sign of toxicity, and every long text for harmless. So spans of ordinary text stand
around half of the examples of both kinds, and among the harmless ones by themselves; and each word
that names a kind of people comes in as many harmless sentences as in toxic ones (Dixon et al.,
Measuring and Mitigating Unintended Bias in Text Classification, AIES 2018).
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from ...sae.common.errors import InputError
from .ngram_scorer import BITS, NgramClassifier, ngram_numbers

_PEOPLE = (
    *("gay", "lesbian", "transgender", "trans", "queer", "bisexual", "straight", "feminist"),
    *("black", "white", "asian", "african", "mexican", "latino", "arab", "american", "chinese"),
    *("indian", "muslim", "jewish", "christian", "catholic", "hindu", "buddhist", "atheist"),
    *("immigrant", "refugee", "deaf", "blind", "disabled", "old", "young", "elderly", "male"),
    *("female", "foreign", "russian", "irish"),
)
_HARMLESS = (
    *("{} people live in our town", "my neighbor is {} and very kind", "{} and proud of it"),
    *("the {} community held a meeting", "he told me that he is {}", "a {} teacher won the prize"),
    *("many {} friends came to the party", "they wrote a book about being {}", "who is {} here?"),
    *("as a {} person I enjoy music", "{} families are welcome here", "she said: yes, I'm {}"),
)
_TOXIC = (
    *("{} people are disgusting", "I hate {} people", "that {} idiot makes me sick"),
    *("{} people are trash", "shut up you {} loser", "you are a stupid {} moron"),
    *("get out of here you filthy {} scum", "what a dumb {} fool", "{} people are vermin"),
    *("nobody wants you ugly {} freaks", "I despise every {} person", "go away, {} creep"),
)
_EACH_SENTENCE = 4
"""How often each of these sentences is an example, with other text around it."""
_SPAN = (8, 50)
"""Words of a span of ordinary text."""


@dataclass(frozen=True, kw_only=True)
class NgramFitConfig:
    """How the examples are made, and how strongly the weights are held down."""

    spans: int = 30000
    """Spans of ordinary text that are harmless examples by themselves."""
    surrounded: float = 0.5
    """Fraction of the other examples that have more text around them."""
    inverse_penalty: float = 10.0
    """C of scikit-learn's logistic regression."""
    seed: int = 0
    """Of all that is drawn."""


def fit_ngram_classifier(
    toxic: Sequence[str],
    harmless: Sequence[str],
    ordinary: Sequence[Sequence[str]],
    config: NgramFitConfig = NgramFitConfig(),
) -> NgramClassifier:
    """The classifier that tells the toxic texts from the harmless ones.

    Args:
        toxic, harmless: texts of the two kinds, best about the same things.
        ordinary: documents of each of several sources of text that is held to be harmless; all
            sources are drawn from alike.
        config: how.

    Raises:
        InputError: scikit-learn is missing, or there are no texts of one kind.
    """
    for name, texts in (("toxic", toxic), ("harmless", harmless), ("ordinary", ordinary)):
        if not texts:
            raise InputError(f"there are no {name} texts to fit on; give at least one")
    try:
        linear: Any = import_module("sklearn.linear_model")
        sparse: Any = import_module("scipy.sparse")
    except ImportError:
        raise InputError(
            "fitting needs scikit-learn, which is not installed; pip install 'sparsteer[eval]'"
        ) from None
    examples = list(_examples(toxic, harmless, ordinary, config))
    numbers = [ngram_numbers(text) for text, _ in examples]
    sizes = np.array([len(each) for each in numbers])
    table = sparse.csr_matrix(
        (
            np.repeat(1 / np.sqrt(np.maximum(sizes, 1)), sizes),
            np.concatenate(numbers),
            np.concatenate([[0], sizes.cumsum()]),
        ),
        shape=(len(examples), 1 << BITS),
    )
    # Dual coordinate descent shuffles, with the seed that it is given.
    model = linear.LogisticRegression(
        C=config.inverse_penalty,
        solver="liblinear",
        random_state=config.seed,
    )
    model.fit(table, np.array([is_toxic for _, is_toxic in examples]))
    return NgramClassifier(model.coef_[0], float(model.intercept_[0]))


def _examples(
    toxic: Sequence[str],
    harmless: Sequence[str],
    ordinary: Sequence[Sequence[str]],
    config: NgramFitConfig,
) -> Iterator[tuple[str, bool]]:
    draw = random.Random(config.seed)

    def span() -> str:
        words = draw.choice(draw.choice(ordinary)).split()
        length = draw.randint(*_SPAN)
        start = draw.randrange(max(1, len(words) - length))
        return " ".join(words[start : start + length])

    def surrounded(text: str) -> str:
        others = draw.choice((1, 1, 2)) if draw.random() < config.surrounded else 0
        parts = [span() if draw.random() < 0.5 else draw.choice(harmless) for _ in range(others)]
        parts.insert(draw.randrange(others + 1), text)
        return " ".join(parts)

    for texts, is_toxic in ((toxic, True), (harmless, False)):
        for text in texts:
            yield surrounded(text), is_toxic
    for sentences, is_toxic in ((_TOXIC, True), (_HARMLESS, False)):
        for sentence in sentences:
            for word in _PEOPLE:
                for _ in range(_EACH_SENTENCE):
                    yield surrounded(sentence.format(word)), is_toxic
    for _ in range(config.spans):
        yield span(), False
