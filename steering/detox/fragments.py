"""Pieces of ordinary texts that are as long as others, so that length tells nothing of them."""

import random
from collections.abc import Iterable, Sequence
from itertools import islice

from ...sae.common.errors import InputError


def fragments(texts: Iterable[str], words: Sequence[int], seed: int) -> list[str]:
    """For each number of words, a run of so many from a random place of another text.

    Where there are fewer texts than numbers they come again; a text that is too short is taken
    whole.

    Args:
        texts: what is cut, read no further than needed; blank ones are passed over.
        words: the numbers of words.
        seed: of the places.

    Raises:
        InputError: no text has a word.
    """
    rng = random.Random(seed)
    sources = list(islice((found for text in texts if (found := text.split())), len(words)))
    if not sources:
        raise InputError("the corpus has no text with a word; give another --dataset")
    cut: list[str] = []
    for number, n_words in enumerate(words):
        source = sources[number % len(sources)]
        start = rng.randrange(max(1, len(source) - n_words + 1))
        cut.append(" ".join(source[start : start + n_words]))
    return cut
