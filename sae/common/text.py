"""Text that cannot deceive a terminal or a reader, and sentences that stay readable."""

import re
import unicodedata

_NAMED = {"\n": "\u23ce", "\t": "\u21e5"}

_INVALID_BYTES = range(0xDC80, 0xDD00)
"""Surrogates by which `surrogateescape` stands for bytes that are not UTF-8."""

LONGEST_SENTENCE = 400
"""Characters of the longest sentence about an error."""

_SHORTEST_CUT = 60
"""Words of so many characters are never shortened."""


def visible(text: str) -> str:
    """The text with everything that is not plainly visible written out.

    A line break becomes a return sign and a tab an arrow. Control characters, terminal escapes,
    marks that reverse or hide text, odd spaces, unassigned and private characters become their
    code points between angle brackets; bytes that are not UTF-8 likewise.
    """
    if text.isprintable():  # the usual case, by the same rule as `_visible_character`
        return text
    return "".join(_visible_character(character) for character in text)


def visible_lines(text: str) -> str:
    """As `visible`, but line breaks stay."""
    return "\n".join(visible(line) for line in text.split("\n"))


def error_sentence(message: str) -> str:
    """The message on one line, plainly visible, in at most `LONGEST_SENTENCE` characters.

    What is too long loses the middle: first of its longest words, such as paths and values, so that
    the sentence around them stays, and else of the whole.
    """
    # Cut before it is made visible, too: a value may have millions of characters.
    return _cut_to_fit(visible(_cut_to_fit(" ".join(message.split()))))


def _cut_to_fit(sentence: str) -> str:
    sentence = without_middle(sentence, 10 * LONGEST_SENTENCE)
    while len(sentence) > LONGEST_SENTENCE:
        longest = max(re.findall(r"\S+", sentence), key=len)
        if len(longest) <= _SHORTEST_CUT:
            return without_middle(sentence, LONGEST_SENTENCE)
        excess = len(sentence) - LONGEST_SENTENCE
        cut = without_middle(longest, max(_SHORTEST_CUT, len(longest) - excess))
        sentence = sentence.replace(longest, cut)
    return sentence


def without_middle(text: str, length: int) -> str:
    """The text in at most `length` characters, an ellipsis in place of its middle if need be."""
    if len(text) <= length:
        return text
    end = (length - 1) // 2
    return f"{text[: length - 1 - end]}\u2026{text[len(text) - end :]}"


def _visible_character(character: str) -> str:
    if character in _NAMED:
        return _NAMED[character]
    if ord(character) in _INVALID_BYTES:
        return f"\u27e8byte {ord(character) - 0xDC00:02X}\u27e9"
    # C*: control, format (bidi, zero width), surrogate, private, unassigned; Z*: separators.
    if character != " " and unicodedata.category(character)[0] in "CZ":
        return f"\u27e8U+{ord(character):04X}\u27e9"
    return character


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without its full stop; its type where it has none."""
    line, *_ = str(error).strip().splitlines() or [type(error).__name__]
    return line.strip().rstrip(".")
