"""What a part of the suite is: what it gets, and what it gives."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...sae.language_model.model import LanguageModel
from ...training.data.cache.reader import ActivationCache
from ...training.evaluation.config import EvalSettings
from ...training.evaluation.subjects import Subject

EVERYTHING = ("cache", "rows", "contexts", "model", "precision")
"""What a part may depend on beside the autoencoder, its own settings and the seed."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number about an autoencoder."""

    name: str
    """By which programs know it: fvu."""
    value: float | None
    """None where it has no meaning."""
    heading: str
    """Of its column, a few letters: FVU."""
    standard_error: float | None = None
    interval: tuple[float, float] | None = None
    """Of 95 %, where that is known in place of a standard error."""
    digits: int = 3
    """Decimals that are shown, of percent where it is shown in that."""
    percent: bool = False
    """Whether it is shown in percent; the value itself is a fraction."""
    in_table: bool = True
    """Whether the terminal's table has it; the page and JSON have all."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a part found about one autoencoder."""

    figures: Sequence[Figure] = ()
    """None where the part has nothing to say about it, for example about a baseline."""
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Whatever else is worth keeping, as plain values; it stands in the JSON alone."""
    warnings: Sequence[str] = ()
    """Sentences about what the figures cannot tell."""


@dataclass(frozen=True, kw_only=True)
class SuiteContext:
    """What a part measures, and with what."""

    subjects: tuple[Subject, ...]
    """The autoencoders to be measured now, in one order with what is given back. `baseline` of each
    says whether it is one. Of a part that is not `together` those are left out that it measured
    already."""
    seeds: tuple[tuple[Subject, ...], ...]
    """Those of the subjects that are of one configuration and differ in the seed alone."""
    cache: ActivationCache
    settings: EvalSettings
    """As for `evaluate_all`: how many rows and contexts, device, precision."""
    options: Any
    """The part's own settings, an instance of its `options`; None of a part that has none."""
    seed: int
    """Of what is drawn at random."""
    model: Callable[[], LanguageModel]
    """The language model of the cache; loaded when it is first asked for, one for all parts."""
    say: Callable[[str], None] = lambda sentence: None
    progress: Callable[[int, int], None] = lambda done, total: None
    """Told what is done and what there is in all, in units of the part's own."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of the suite: what measures, and what is to be known of it."""

    measure: Callable[[SuiteContext], Sequence[Measured]]
    """Gives what it found about each of the context's subjects, in their order. Autoencoders share
    what can be shared, such as forward passes of the language model."""
    heading: str
    """Over its columns, a few words."""
    reading: str
    """How to read its figures, a sentence or two."""
    options: type[Any] | None = None
    """A dataclass of the part's own settings, all with defaults, which check themselves when they
    are made; the command sets them by `--part-setting PART.NAME=VALUE`."""
    depends_on: tuple[str, ...] = EVERYTHING
    """Which settings of the evaluation change what it finds, of `EVERYTHING`; with others a saved
    result is taken."""
    needs_model: bool = False
    """Whether it cannot do without the language model, as `contexts` 0 asks."""
    by_default: bool = True
    """Whether it measures where no parts are named; False for what needs something that not
    everybody has, such as an endpoint."""
    together: bool = False
    """Whether what it finds about one autoencoder depends on the others."""
