"""Which documents are kept out of training, for evaluation: a hash of the text decides."""

import hashlib
from itertools import islice

from .corpus import Corpus

_HASHES = 2**64

_LOOKED_AT = 10_000
"""Documents that are looked at for one on each side, before it is given up."""


def is_held_out(text: str, below: int) -> bool:
    """Whether the hash of a text is below a bound; so equal texts are on the same side."""
    return _hash(text) < below


def held_out_bound(corpus: Corpus, fraction: float) -> int:
    """The bound on the hash that holds out about `fraction` of the documents.

    It depends on `fraction` alone, so a document is on the same side in every cache, unless all
    documents of a small corpus would be on one side. Then it is moved so that one text is on the
    other; that cannot be done if there is only one text, or `fraction` is 0.
    """
    bound = int(fraction * _HASHES)
    if bound == 0:
        return 0
    lowest, highest = _HASHES, -1
    documents = corpus.documents(seed=0, shuffle_buffer=1)
    for _, text in islice(documents, _LOOKED_AT):
        if text.strip():
            lowest, highest = min(lowest, _hash(text)), max(highest, _hash(text))
        if lowest < bound <= highest:
            return bound
    if lowest >= highest:
        return bound
    return highest if highest < bound else lowest + 1


def _hash(text: str) -> int:
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big")
