"""What a search for features that tell two sets of texts apart has found."""

from dataclasses import asdict, dataclass
from typing import Any

from .deciding_texts import DecidingText
from .duplicates import Duplicate
from .find_config import ContrastRanking, Ranking
from .group_selection import FeatureGroup
from .output_effects import OutputEffect


@dataclass(frozen=True)
class FoundFeature:
    """How one feature differs between the positive and the negative texts.

    Activations are in the autoencoder's scaled units; a text is pooled over its content tokens.
    """

    feature: int
    auroc_mean: float
    """AUROC of the mean activation of a text: 1 if it is larger in every positive text."""
    auroc_max: float
    """AUROC of the largest activation in a text."""
    difference: float
    """mean_positive - mean_negative."""
    mean_positive: float
    """Mean over the positive texts of the mean activation of a text."""
    mean_negative: float
    firing_positive: float
    """Fraction of the positive texts in which it fires at all."""
    firing_negative: float
    output: OutputEffect | None = None
    """What amplifying it does to the next token; None where that was not measured."""
    texts: tuple[DecidingText, ...] = ()
    """Texts that decided its place; empty unless asked for."""


@dataclass(frozen=True)
class TextSet:
    """What was read of one set of texts."""

    texts: int
    """Texts that count."""
    without_content: int
    """Texts left out because no token of theirs counts."""
    truncated: int
    """Texts of which only the beginning was read."""
    mean_length: float
    """Mean number of content tokens read of a text."""


@dataclass(frozen=True)
class Search:
    """The features found, and what to hold them against."""

    features: tuple[FoundFeature, ...]
    """Best first."""
    rank_by: Ranking
    candidates_by: ContrastRanking
    """By what the features were found; the same as `rank_by` unless that is of the output."""
    considered: int
    """Features that fire in enough of the positive texts to be ranked."""
    density_excluded: int
    """How many more do, but were left out for the fraction of the index's rows on which they
    fire."""
    duplicates: tuple[Duplicate, ...]
    """Left out as duplicates of better ones, as far as the ranking was followed."""
    outputs_measured: int
    """Of how many features the output was measured."""
    positive: TextSet
    negative: TextSet
    length_auroc: float
    """AUROC of a text's number of content tokens alone. Far from 0.5, length tells the sets apart,
    and features may be found for it."""
    chance: float
    """The best `candidates_by` of the same search when the labels of the texts are shuffled, the
    mean over 20 shuffles; a feature near it may be luck."""
    group: FeatureGroup | None = None
    """Features that tell the sets apart together; None unless asked for."""

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return asdict(self)
