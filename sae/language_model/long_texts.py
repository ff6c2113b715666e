"""Long texts in pieces: a tokenizer needs up to 250 times the size of what it reads at once."""

import re
from collections.abc import Iterator

PIECE_CHARACTERS = 262_144
"""A text of up to so many characters is read at once, a longer one in pieces of at most as many."""

_LOOKED_THROUGH = 4096
"""Characters before a cut that are looked through for a better place."""

_BETWEEN_WORDS = re.compile(r"(?<=\w) (?=\w)")
_WHITE_SPACE = re.compile(r"(?<=\S)\s")


def text_pieces(text: str) -> Iterator[str]:
    """Cut a text into pieces, losing nothing: one if it is short, none if it is empty.

    A piece begins with the space before a word, where most tokenizers begin a token; failing that
    with other white space, and only in a text without any in the middle of a word.
    """
    start = 0
    while len(text) - start > PIECE_CHARACTERS:
        end = start + PIECE_CHARACTERS
        window = text[max(start, end - _LOOKED_THROUGH) : end + 1]
        for pattern in (_BETWEEN_WORDS, _WHITE_SPACE):
            places = [match.start() for match in pattern.finditer(window) if match.start()]
            if places:
                end -= len(window) - 1 - places[-1]
                break
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]
