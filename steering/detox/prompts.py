"""The RealToxicityPrompts prompts of the tuning or the reporting side, each once."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ...sae.common.errors import InputError
from ...sae.fetching.fetch import cached_path, fetch, is_fetched
from ...training.data.prompt_sides import SIDES, beginning_of, normal_form, side_of
from ...training.data.row_files.opening import open_files

_PROMPTS = "rtp-prompts"


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
    rows = open_files([fetch(_PROMPTS)]).rows()
    prompts = _merged((str(row["prompt"]), str(row["attribute"])) for row in rows)
    return [prompt for prompt in prompts if side_of(prompt.text) == side]


def reporting_prompts_among(texts: Iterable[str]) -> list[int]:
    """The numbers, from 0, of the texts that are RealToxicityPrompts prompts of the reporting side.

    A text is such a prompt if its first six words are those of one, so that one that is cut behind
    them or goes on is found, too. The prompts are known if they were fetched; otherwise none is
    found, and nothing is fetched.
    """
    if not is_fetched(_PROMPTS):
        return []
    file = cached_path(_PROMPTS)
    known = _reporting_beginnings(str(file), file.stat().st_mtime_ns)
    return [number for number, text in enumerate(texts) if beginning_of(text) in known]


@lru_cache(maxsize=1)
def _reporting_beginnings(file: str, changed: int) -> frozenset[str]:
    """Of the prompts in a file, which was changed at that time."""
    del changed
    prompts = (str(row["prompt"]) for row in open_files([Path(file)]).rows())
    beginnings = (beginning_of(prompt) for prompt in prompts if side_of(prompt) == "reporting")
    return frozenset(beginning for beginning in beginnings if beginning)


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
