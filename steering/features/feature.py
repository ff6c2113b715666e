"""What the index says of one latent, as plain values; nothing here imports numpy or torch."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Example:
    """A place in the corpus where a feature fires, with the tokens around it."""

    activation: float
    """At the peak, in the autoencoder's scaled units."""
    document: int
    """Number of the document in the corpus, from 0."""
    position: int
    """The peak token's position in its document, from 0."""
    row: int
    """Number of the row in the activation cache."""
    peak: int
    """Which of the tokens below it is, from 0."""
    tokens: tuple[int, ...]
    """Ids, as the model read them."""
    texts: tuple[str, ...]
    """A text for each token; a character made of several tokens stands at the first of them."""
    activations: tuple[float, ...]
    """The feature's activation at each token; 0 where it does not fire, and at special tokens."""
    duplicates: int = 0
    """Further places with the same tokens around them that were met while this one was among the
    best, and are not shown again."""
    pre_activation: float | None = None
    """Only of a near miss: how near the feature came, in the units of the activation."""

    @property
    def starts_document(self) -> bool:
        """Whether the tokens begin where their document begins."""
        return self.peak == self.position


@dataclass(frozen=True)
class RankedToken:
    """A token that a feature's decoder direction raises or lowers."""

    token: int
    text: str
    logit: float
    """Relative to the mean over the vocabulary; compares tokens of one feature."""


@dataclass(frozen=True)
class Neighbor:
    """Another feature with a similar decoder direction."""

    feature: int
    cosine: float


@dataclass(frozen=True)
class QuantileExamples:
    """Places where a feature fires with an activation between two bounds."""

    low: float
    """Smallest activation of the group."""
    high: float
    """Below which its activations are; in the highest group the largest activation itself."""
    fraction: float
    """Fraction of the feature's firings that are in the group."""
    examples: tuple[Example, ...]
    """A uniform sample of the group, the largest first, equal windows once."""


@dataclass(frozen=True)
class CoActivation:
    """Another feature that fires on the same tokens."""

    feature: int
    together: float
    """Fraction of this feature's firings at which the other one fires, too."""
    jaccard: float
    """Tokens on which both fire, as a fraction of those on which either does."""


@dataclass(frozen=True)
class Feature:
    """What the index says of one latent. Activations are in the autoencoder's scaled units."""

    feature: int
    fired: int
    """Rows on which it fired."""
    density: float
    """Fraction of the rows on which it fired."""
    mean_activation: float
    """Mean over the rows on which it fired; 0 if it never did, as those below."""
    median_activation: float
    """Activation that half of the firings do not exceed; at most 1/32 off."""
    p99_activation: float
    """Activation that 99 in 100 firings do not exceed; at most 1/32 off."""
    max_activation: float
    histogram: tuple[int, ...]
    """Firings in each bin between `histogram_edges`."""
    histogram_edges: tuple[float, ...]
    """One more than bins; four bins for each doubling. Activations below 2^-12 or from 2^16 on
    count in the bin at that end."""
    top: tuple[Example, ...]
    """Largest activations, best first: one for each context, and no window twice."""
    random: tuple[Example, ...]
    """A uniform sample of the places where it fires, in random order."""
    positive_logits: tuple[RankedToken, ...] | None
    """Tokens that the direction raises most, best first; None if left out of the index."""
    negative_logits: tuple[RankedToken, ...] | None
    """Tokens that it lowers most, the lowest first."""
    neighbors: tuple[Neighbor, ...]
    quantiles: tuple[QuantileExamples, ...] = ()
    """Examples by level of activation, the highest level first; as this and all below, empty or
    None in an index that was built before there were any."""
    near_misses: tuple[Example, ...] = ()
    """Places where its pre-activation was largest of those where the activation did not keep it,
    one for each context, no window twice; empty where an activation passes none over."""
    coactivating: tuple[CoActivation, ...] = ()
    """Features that fire on the same tokens, the largest Jaccard index first."""
    special_fraction: float | None = None
    """Fraction of its firings that are at special tokens, or at attention sinks: rows of an
    outlying norm, which count nowhere else. 0 if it never fires."""
    token_explained: float | None = None
    """How much of its activation the token alone explains: omega squared of a one-way analysis of
    variance over all rows by their token, 0 to 1; 0 if it never fires."""
    lens: tuple[RankedToken, ...] | None = None
    """Tokens that the direction raises most once the later layers have been passed, on average, by
    a Jacobian lens of the language model; None without one."""

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return asdict(self)
