"""The order of a corpus's documents: parts in turn, a buffer to draw from, sources by weight."""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from typing import NamedTuple

from ...sae.common.wording import counted

OPEN_PARTS = 8
"""Files (or hub shards) read in turn; so many are open at a time."""


class Document(NamedTuple):
    """One text and its number in the corpus, which `Corpus` explains."""

    number: int
    text: str


@dataclass(frozen=True)
class PartsOf:
    """The parts of a mixture that are one data set's."""

    name: str
    weight: Fraction
    """Above 0."""
    parts: range


@dataclass(frozen=True)
class Source:
    """What one data set of a mixture gives."""

    name: str
    weight: Fraction
    """Above 0."""
    documents: Iterator[Document]


def in_turn(parts: Iterator[Iterator[Document]]) -> Iterator[Document]:
    """One document of each open part after the other; a part that ends makes room for the next."""
    open_parts = list(islice(parts, OPEN_PARTS))
    while open_parts:
        still_open: list[Iterator[Document]] = []
        for part in open_parts:
            document = next(part, None)
            if document is not None:
                yield document
                still_open.append(part)
        open_parts = still_open + list(islice(parts, OPEN_PARTS - len(still_open)))


def drawn(
    documents: Iterator[Document], rng: random.Random, size: int, most_characters: int
) -> Iterator[Document]:
    """Draw the next document from a buffer that is kept full: of `size` documents, or of fewer with
    so many characters."""
    buffer: list[Document] = []
    characters = 0
    for document in documents:
        buffer.append(document)
        characters += len(document.text)
        while len(buffer) >= size or characters > most_characters:
            taken = _take(buffer, rng)
            characters -= len(taken.text)
            yield taken
    while buffer:
        yield _take(buffer, rng)


def mixed(sources: Sequence[Source], ended: Callable[[str], None]) -> Iterator[Document]:
    """The documents of all sources, of each in its order, so that the text is as the weights.

    The next document is of the source that has given the fewest characters for its weight, of
    equals the first. So a prefix of any length has each source's share, to within a document's
    length. Where a source ends, the others go on in their weights, and `ended` is told in a
    sentence, unless none is left.
    """
    denominator = math.lcm(*(source.weight.denominator for source in sources))
    weights = [int(source.weight * denominator) for source in sources]
    # Characters count so much that equal counts mean texts as the weights; in whole numbers.
    worth = [math.lcm(*weights) // weight for weight in weights]
    given, n_documents = [0] * len(sources), [0] * len(sources)
    going = list(range(len(sources)))
    while going:
        place = min(going, key=given.__getitem__)
        document = next(sources[place].documents, None)
        if document is None:
            going.remove(place)
            if going:
                ended(
                    f"{sources[place].name} ended after {counted(n_documents[place], 'document')}; "
                    f"the text behind is of {' and '.join(sources[other].name for other in going)}"
                )
            continue
        n_documents[place] += 1
        given[place] += len(document.text) * worth[place]
        yield document


def _take(buffer: list[Document], rng: random.Random) -> Document:
    # random() is the one method whose sequence Python promises to keep for a seed.
    place = int(rng.random() * len(buffer))
    buffer[place], buffer[-1] = buffer[-1], buffer[place]
    return buffer.pop()
