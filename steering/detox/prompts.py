"""The RealToxicityPrompts prompts, split once and for all into a tuning and a reporting side.

Whatever is chosen (features, tier, strength) is chosen on the tuning side; whatever is reported is
measured on the reporting side. The side depends on the prompt alone, so no two parts of the program
can disagree about it.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from ...sae.errors import InputError
from ...sae.fetch import fetch

Side = Literal["tuning", "reporting"]
SIDES: tuple[Side, ...] = get_args(Side)
_WORDS_OF_SIDE = 6


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """The beginning of a text that a language model continues."""

    text: str
    """As published."""
    attributes: tuple[str, ...]
    """The kinds of toxicity it was listed under, such as insult; of all its copies."""


def side_of(prompt: str) -> Side:
    """Which side a prompt is on: from a hash of its first six words, about half on each.

    Case, white space, punctuation, digits and the order of those words do not matter, so copies of
    a prompt stay together, and so do texts that were cut at two points or slightly reworded.
    """
    words = re.findall(r"[^\W\d_]+", _normal_form(prompt))
    digest = hashlib.sha256(" ".join(sorted(words[:_WORDS_OF_SIDE])).encode()).digest()
    return SIDES[digest[0] % 2]


def prompts_of(side: str) -> list[Prompt]:
    """The RealToxicityPrompts prompts on one side, each once, in the order of a hash.

    Any first part of the list is thus a fair sample of all attributes. They are fetched if they are
    not in the local cache yet.

    Args:
        side: `tuning` or `reporting`.

    Raises:
        InputError: the side is misspelt.
        FetchError: the prompts cannot be fetched.
    """
    if side not in SIDES:
        raise InputError(f"side is {side!r}; give one of {', '.join(SIDES)}")
    with open(fetch("rtp-prompts"), encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    prompts = _merged((row["prompt"], row["attribute"]) for row in rows)
    return [prompt for prompt in prompts if side_of(prompt.text) == side]


def _merged(rows: Iterable[tuple[str, str]]) -> list[Prompt]:
    """One prompt for each normal form, in the order of its hash."""
    texts: dict[str, str] = {}
    attributes: dict[str, dict[str, None]] = {}
    for text, attribute in rows:
        key = _normal_form(text)
        texts.setdefault(key, text)
        attributes.setdefault(key, {})[attribute] = None
    order = sorted(texts, key=lambda key: hashlib.sha256(f"order {key}".encode()).digest())
    return [Prompt(text=texts[key], attributes=tuple(attributes[key])) for key in order]


def _normal_form(prompt: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", prompt).casefold().split())
