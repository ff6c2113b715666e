"""Several data sets mixed by weight, as one text such as `news:3 chat:1`; imports no torch."""

import glob
import os
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Annotated

from .errors import InputError

Mixture = Annotated[str, "mixture"]
"""Type of an option that names a data set, or several; the command line joins its words."""

_WEIGHTED = re.compile(r"(?P<name>.+):(?P<weight>[0-9]+(\.[0-9]+)?)", re.DOTALL)


@dataclass(frozen=True)
class Share:
    """One data set of a mixture."""

    name: str
    weight: Fraction
    """Above 0; the text of two data sets is as their weights."""


def joined(words: Sequence[str]) -> str:
    """The words of a command line as one text: one word as it is, several as a mixture.

    Each of several is NAME:WEIGHT, or NAME with a weight of 1.

    Raises:
        InputError: a weight is no number above 0, or a data set is named twice.
    """
    if len(words) == 1:
        return words[0]
    text = shlex.join(f"{name}:{weight}" for name, weight in map(_with_weight, words))
    shares_of(text)
    return text


def shares_of(text: str) -> tuple[Share, ...]:
    """The data sets of a mixture; none if the text names a single one, as all texts do that are
    not two or more of NAME:WEIGHT.

    Raises:
        InputError: a weight is 0, or a data set is named twice.
    """
    if os.path.exists(text):
        return ()
    try:
        words = shlex.split(text)
    except ValueError:  # an open quotation mark
        return ()
    found = [match for word in words if (match := _WEIGHTED.fullmatch(word))]
    if len(words) < 2 or len(found) < len(words):
        return ()
    shares = tuple(Share(match["name"], Fraction(match["weight"])) for match in found)
    for place, share in enumerate(shares):
        if not share.weight:
            raise InputError(
                f"dataset has {share.name} with a weight of 0; leave it out, or give it a weight "
                "above 0",
                field="dataset",
            )
        if share.name in [other.name for other in shares[:place]]:
            raise InputError(
                f"dataset names {share.name} twice; give it once, with its whole weight",
                field="dataset",
            )
    return shares


def renamed(text: str, rename: Callable[[str], str]) -> str:
    """The text with other names for its data sets, or for the single one that it is."""
    shares = shares_of(text)
    if not shares:
        return rename(text)
    return shlex.join(f"{rename(share.name)}:{_plain(share.weight)}" for share in shares)


def _with_weight(word: str) -> tuple[str, str]:
    """Name and weight of one of several words; a file that is there is a name, colon or not."""
    if os.path.exists(word) or glob.glob(word):
        return word, "1"
    if match := _WEIGHTED.fullmatch(word):
        return match["name"], _plain(Fraction(match["weight"]))
    name, colon, weight = word.rpartition(":")
    if colon:
        raise InputError(
            f"dataset gives {name} the weight {weight!r}, but a weight is a number above 0, as in "
            "news:3",
            field="dataset",
        )
    return word, "1"


def _plain(weight: Fraction) -> str:
    """A weight as it is written, without zeros that say nothing."""
    value = Decimal(weight.numerator) / Decimal(weight.denominator)
    return format(value.normalize(), "f")
