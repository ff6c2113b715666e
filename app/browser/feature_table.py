"""The features of a run as a table that is filtered and sorted before a page of it is looked up."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, Literal, get_args
from urllib.parse import urlencode

import numpy as np
from jaxtyping import Bool, Float, Int

from ...sae.common.errors import InputError
from ...steering.features.index import FeatureIndex
from ...steering.features.listing import interest
from ...steering.features.picks import Picks
from ...steering.labels.machine_label import MachineLabel

PER_PAGE = 50

Sort = Literal["interest", "density", "max_activation", "token_explained", "number"]
Show = Literal["all", "picked", "starred", "labeled", "unpicked"]
Reviewed = Literal["any", "yes", "no"]


@dataclass(frozen=True)
class Wanted:
    """Which features to list, and in which order; from the address of a page."""

    sort: Sort = "interest"
    reverse: bool = False
    """Whether the largest number, or the lowest of other values, comes first."""
    least: float | None = None
    """Density in percent from which on features are listed."""
    most: float | None = None
    """Density in percent up to which they are."""
    label: str = ""
    """Text that a person's or a machine's label holds, in any case."""
    show: Show = "all"
    reviewed: Reviewed = "any"
    page: int = 1

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> "Wanted":
        """From the words behind the question mark of an address; empty ones are as left out.

        Raises:
            InputError: a value is none that there is.
        """
        given = {name: query[name].strip() for name in _NAMES if query.get(name, "").strip()}
        values: dict[str, Any] = dict(given)
        for name in ("least", "most"):
            if name in given:
                values[name] = _percent(name, given[name])
        for name, kind in (("sort", Sort), ("show", Show), ("reviewed", Reviewed)):
            if name in given and given[name] not in get_args(kind):
                choices = ", ".join(get_args(kind))
                raise InputError(f"{name} is {given[name]!r}; choose one of {choices}", field=name)
        if "page" in given:
            if not (given["page"].isdecimal() and len(given["page"]) < 9 and int(given["page"])):
                raise InputError(f"page is {given['page']!r}; give a number from 1", field="page")
            values["page"] = int(given["page"])
        values["reverse"] = given.get("reverse", "") in ("1", "true", "on")
        return cls(**values)

    def query(self, **changes: Any) -> str:
        """The words for an address; what is at its default is left out."""
        default = Wanted()
        words: dict[str, str] = {}
        for field in fields(self):
            value = changes.get(field.name, getattr(self, field.name))
            if value != getattr(default, field.name):
                words[field.name] = "1" if value is True else f"{value}"
        return urlencode(words)


_NAMES = tuple(field.name for field in fields(Wanted))


def listed(
    index: FeatureIndex, picks: Picks, machine: Mapping[int, MachineLabel], wanted: Wanted
) -> Int[np.ndarray, "N"]:
    """The numbers of the features that are wanted, in order; of equal values the smaller first.

    Features that never fired are left out, unless they are picked or sorted by number.
    """
    if wanted.sort not in ("number", *columns(index)):
        raise InputError(
            f"this index was built before {wanted.sort} was measured; build it again to sort by it",
            field="sort",
        )
    kept = _kept(index, picks, machine, wanted)
    numbers = np.flatnonzero(kept)
    if wanted.sort == "number":
        return numbers[::-1] if wanted.reverse else numbers
    values = columns(index)[wanted.sort][numbers]
    return numbers[np.argsort(values if wanted.reverse else -values, kind="stable")]


@lru_cache(maxsize=4)
def columns(index: FeatureIndex) -> dict[str, Float[np.ndarray, "F"]]:
    """The columns that one can sort by. An index of before it was measured has no
    `token_explained`."""
    names = ("density", "max_activation", "token_explained")
    found = {name: index.statistics[name] for name in names if name in index.statistics}
    return {"interest": interest(index), **found}


def _kept(
    index: FeatureIndex, picks: Picks, machine: Mapping[int, MachineLabel], wanted: Wanted
) -> Bool[np.ndarray, "F"]:
    density = columns(index)["density"]
    by_number = {pick.feature: pick for pick in picks.picks}
    picked = _mask(index, by_number)
    kept = (density > 0) | picked if wanted.sort != "number" else np.ones_like(picked)
    if wanted.least is not None:
        kept &= density >= wanted.least / 100
    if wanted.most is not None:
        kept &= density <= wanted.most / 100
    match wanted.show:
        case "picked":
            kept &= picked
        case "unpicked":
            kept &= ~picked
        case "starred":
            kept &= _mask(index, (n for n, pick in by_number.items() if pick.starred))
        case "labeled":
            named = (n for n, pick in by_number.items() if pick.label)
            kept &= _mask(index, {*named, *machine})
        case "all":
            pass
    if wanted.reviewed != "any":
        seen = _mask(index, (n for n, pick in by_number.items() if pick.reviewed))
        kept &= seen if wanted.reviewed == "yes" else ~seen
    if wanted.label:
        part = wanted.label.casefold()
        own = {n: pick.label for n, pick in by_number.items() if pick.label}
        labels = {n: label.label for n, label in machine.items()} | own
        kept &= _mask(index, (n for n, label in labels.items() if part in label.casefold()))
    return kept


def _mask(index: FeatureIndex, numbers: Any) -> Bool[np.ndarray, "F"]:
    mask = np.zeros(index.n_latents, dtype=bool)
    inside = [number for number in numbers if number < index.n_latents]
    mask[inside] = True
    return mask


def _percent(name: str, text: str) -> float:
    try:
        value = float(text.removesuffix("%").replace(",", "."))
    except ValueError:
        value = float("nan")
    if not 0 <= value <= 100:
        raise InputError(f"{name} is {text!r}; give a density from 0 to 100 percent", field=name)
    return value
