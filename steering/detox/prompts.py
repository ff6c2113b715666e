"""The RealToxicityPrompts prompts of the tuning or the reporting side, each once."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from ...sae.common.errors import InputError
from ...sae.fetching.fetch import fetch
from ...training.data.prompt_sides import SIDES, normal_form, side_of
from ...training.data.row_files.opening import open_files


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """The beginning of a text that a language model continues."""

    text: str
    """As published."""
    attributes: tuple[str, ...]
    """The kinds of toxicity it was listed under, such as insult; of all its copies."""


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
    rows = open_files([fetch("rtp-prompts")]).rows()
    prompts = _merged((str(row["prompt"]), str(row["attribute"])) for row in rows)
    return [prompt for prompt in prompts if side_of(prompt.text) == side]


def _merged(rows: Iterable[tuple[str, str]]) -> list[Prompt]:
    """One prompt for each normal form, in the order of its hash."""
    texts: dict[str, str] = {}
    attributes: dict[str, dict[str, None]] = {}
    for text, attribute in rows:
        key = normal_form(text)
        texts.setdefault(key, text)
        attributes.setdefault(key, {})[attribute] = None
    order = sorted(texts, key=lambda key: hashlib.sha256(f"order {key}".encode()).digest())
    return [Prompt(text=texts[key], attributes=tuple(attributes[key])) for key in order]
