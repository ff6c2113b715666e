"""Settings of the evaluation suite, checked when they are made; imports no torch."""

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

from ...sae.common.errors import InputError
from ...sae.common.paths import FilePath
from ...sae.common.validation import require_choice, require_integer, require_positive_integer
from ...training.evaluation.config import BASELINES
from ..registries import SUITE_PARTS


@dataclass(frozen=True, kw_only=True)
class SuiteSettings:
    """Which parts of the suite measure, and what stands beside the autoencoders."""

    parts: tuple[Annotated[str, SUITE_PARTS], ...] = ()
    """With suite: what is measured; by default every part that needs nothing that is not there."""

    baselines: tuple[Literal["pca", "random", "raw", "none"], ...] = ("pca", "random", "raw")
    """With suite: what stands beside the autoencoders, fitted to training rows of the cache:
    principal components, random directions, the raw activation, or none."""

    baseline_l0: tuple[int, ...] = ()
    """With suite: latents of a row that pca and random keep; by default once each L0 that the
    autoencoders have."""

    part_setting: tuple[str, ...] = ()
    """With suite: settings of single parts, as PART.NAME=VALUE; docs/cli.md lists them."""

    suite_out: FilePath | None = None
    """With suite: folder of results and page, by which the same command goes on where it was and
    measures nothing twice. By default suite/ in the run, or in the folder that holds the runs."""

    seed: int = 0
    """With suite: seed of what is drawn at random, such as random directions."""

    def __post_init__(self) -> None:
        for name in self.parts:
            SUITE_PARTS.require(name)
        for kind in self.baselines:
            require_choice("baselines", kind, (*BASELINES, "none"))
        if "none" in self.baselines and len(self.baselines) > 1:
            raise InputError(
                "baselines has none beside others; give none alone, or leave it out",
                field="baselines",
            )
        for l0 in self.baseline_l0:
            require_positive_integer("baseline_l0", l0)
        require_integer("seed", self.seed, least=0)
        parsed_part_settings(self.part_setting)


def parsed_part_settings(words: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """The settings of each part from words such as `probing.k=[1,5]`; a value is JSON, or else
    text.

    Raises InputError if a word is not of that form, or names no part.
    """
    found: dict[str, dict[str, Any]] = {}
    for word in words:
        place, equals, text = word.partition("=")
        part, dot, name = place.partition(".")
        if not (equals and dot and part and name):
            raise InputError(
                f"part_setting is {word!r}; write PART.NAME=VALUE, such as judge.features=50",
                field="part_setting",
            )
        SUITE_PARTS.require(part)
        try:
            value: object = json.loads(text)
        except ValueError:
            value = text
        own = found.setdefault(part, {})
        own[name.replace("-", "_")] = (
            tuple(cast(list[Any], value)) if isinstance(value, list) else value
        )
    return found
