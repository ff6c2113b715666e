"""The split of the RealToxicityPrompts prompts into a tuning and a reporting side, for good.

Whatever is trained or chosen (features, tier, strength) may see the tuning side; whatever is
reported is measured on the reporting side. The side depends on the prompt alone, so no two parts of
the program can disagree about it.
"""

import hashlib
import re
import unicodedata
from typing import Literal, get_args

Side = Literal["tuning", "reporting"]
SIDES: tuple[Side, ...] = get_args(Side)
_WORDS_OF_SIDE = 6


def side_of(prompt: str) -> Side:
    """Which side a prompt is on: from a hash of its first six words, about half on each.

    Case, white space, punctuation, digits and the order of those words do not matter, so copies of
    a prompt stay together, and so do texts that were cut at two points or slightly reworded.
    """
    return SIDES[hashlib.sha256(beginning_of(prompt).encode()).digest()[0] % 2]


def beginning_of(prompt: str) -> str:
    """What decides the side of a prompt: its first six words in alphabetical order, in lower case
    and without punctuation."""
    words = re.findall(r"[^\W\d_]+", normal_form(prompt))
    return " ".join(sorted(words[:_WORDS_OF_SIDE]))


def normal_form(prompt: str) -> str:
    """The prompt without what does not make it another one: case, white space, compatible forms."""
    return " ".join(unicodedata.normalize("NFKC", prompt).casefold().split())
