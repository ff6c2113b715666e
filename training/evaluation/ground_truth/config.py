"""The synthetic benchmark's settings: its features, its two sizes, its options; imports no torch.

The settings of the size 16k are those of SynthSAEBench-16k, version 2 (Chanin and Garriga-Alonso,
arXiv 2602.14687; the configuration stands in SAELens' docs/synth_sae_bench.md).
"""

from dataclasses import dataclass
from typing import Literal, get_args

from ....sae.common.errors import InputError
from ....sae.common.validation import (
    require_choice,
    require_in_range,
    require_integer,
    require_positive,
    require_positive_integer,
)
from ...trainer_config import require_variance_of

SizeName = Literal["small", "16k"]

_MOST_SEEDS = 1000.0
_MOST_ROWS = 1e8
"""To measure on: their errors are a hundredth of what seeds differ by."""


@dataclass(frozen=True, kw_only=True)
class FeatureSettings:
    """How features and their activations are drawn. Features are numbered from the most frequent.

    The first ones make trees: the roots, then the children of each root, then theirs, level by
    level. A child is active only where its parent is, at most one child of a parent is active, and
    a child's strength is multiplied by its parent's over the parent's mean. The others are free.
    """

    n_features: int = 16_384
    """N, features."""
    d_model: int = 768
    """D, width of the activations."""
    exponent: float = 0.5
    """The rate of the feature of rank r falls as r^-exponent, from `max_rate` to `min_rate`."""
    max_rate: float = 0.4
    """Rate wanted of the first feature: the fraction of rows on which it is active."""
    min_rate: float = 5e-4
    """Rate wanted of the last feature."""
    n_roots: int = 128
    """Trees; 0: all features are free."""
    branching: int = 4
    """Children of every feature in a tree that is not at its last level."""
    depth: int = 3
    """Levels below the roots."""
    correlation_rank: int = 25
    """Hidden factors that make features be active together; 0: none."""
    correlation_scale: float = 0.1
    """Standard deviation of a feature's weight on a factor. Two features' normal variables
    correlate with a standard deviation of scale^2 * sqrt(rank) around 0."""
    orthogonal_steps: int = 100
    """Adam's steps that push directions apart, which begin at random."""
    orthogonal_lr: float = 3e-4
    """Learning rate of these steps."""
    first_strength: float = 5.0
    """Mean strength of the first feature where it is active; of others it is linear in the rank."""
    last_strength: float = 4.0
    """Mean strength of the last feature."""
    strength_spread: float = 0.5
    """A feature's standard deviation of strength is drawn from |N(spread, spread^2)|."""
    bias_norm: float = 0.5
    """Norm of the vector that is added to every row, of a random direction."""
    seed: int = 42
    """Of directions, factors, spreads and the added vector; rows have seeds of their own."""

    def __post_init__(self) -> None:
        for name in ("n_features", "d_model", "branching"):
            require_positive_integer(name, getattr(self, name))
        for name in ("n_roots", "depth", "correlation_rank", "orthogonal_steps", "seed"):
            require_integer(name, getattr(self, name), least=0)
        require_in_range("max_rate", self.max_rate, low=0.0, high=1.0, above_low=True)
        require_in_range("min_rate", self.min_rate, low=0.0, high=self.max_rate, above_low=True)
        for name in ("exponent", "orthogonal_lr", "first_strength", "last_strength"):
            require_positive(name, getattr(self, name))
        for name in ("correlation_scale", "strength_spread", "bias_norm"):
            require_in_range(name, getattr(self, name), low=0.0, high=1e6)
        if self.n_in_trees > self.n_features:
            raise InputError(
                f"n_roots is {self.n_roots}, whose trees of {self.branching} children and "
                f"{self.depth} levels have {self.n_in_trees} features, but there are only "
                f"{self.n_features}; lower n_roots or depth",
                field="n_roots",
            )

    @property
    def level_ends(self) -> tuple[int, ...]:
        """For each level of the trees the number of the first feature behind it."""
        ends: list[int] = []
        for level in range(self.depth + 1 if self.n_roots else 0):
            ends.append((ends[-1] if ends else 0) + self.n_roots * self.branching**level)
        return tuple(ends)

    @property
    def n_in_trees(self) -> int:
        """Features that are in a tree; those behind them are free."""
        return max(self.level_ends, default=0)


@dataclass(frozen=True, kw_only=True)
class BenchmarkSize:
    """One size of the benchmark: its features, and how autoencoders are trained on them."""

    features: FeatureSettings
    n_latents: int
    """Width of the autoencoders: a quarter of the features, as nobody knows how many a language
    model has."""
    l0: int
    """Active latents of a row: about as many as of the `n_latents` most frequent features are."""
    samples: int
    """Rows to train on."""
    lr: float
    """Adam's learning rate at its highest."""
    rows: int
    """Fresh rows to measure on."""
    batch_size: int = 1024
    """Rows of one update."""


SIZES: dict[SizeName, BenchmarkSize] = {
    "small": BenchmarkSize(
        features=FeatureSettings(n_features=2048, d_model=256, n_roots=16),
        n_latents=512,
        l0=8,
        samples=4_000_000,
        lr=2e-3,
        rows=100_000,
    ),
    "16k": BenchmarkSize(
        features=FeatureSettings(),
        n_latents=4096,
        l0=25,
        samples=200_000_000,
        lr=3e-4,
        rows=1_000_000,
    ),
}
"""The published size, and one for two CPU cores. A third of the width and an eighth of the features
leave the same features active for each dimension, 1 of 23, as rates fall with the root of the rank;
the share in trees, their shape, rates, strengths and correlations are those of the size 16k. Two
directions overlap more, by the root of three, while there are 8 features a dimension, not 21."""


@dataclass(frozen=True, kw_only=True)
class GroundTruthSettings:
    """At which size autoencoders are trained and measured, and how often."""

    size: SizeName = "small"
    """16k is SynthSAEBench-16k: 16,384 features in 768 dimensions, 4,096 latents, for a GPU. small
    is a scaled one for a CPU: 2,048 features in 256 dimensions, 512 latents."""

    l0: int | None = None
    """Active latents of a row, on average; by default 25 at 16k and 8 at small, as many as the most
    frequent features have, one for each latent. 16k was published at 20, too."""

    samples: int | None = None
    """Rows to train on, all fresh; by default 200 million at 16k, as published, and 4 million at
    small, some minutes on two CPU cores."""

    seeds: int = 3
    """Autoencoders to train, with the seeds 0, 1, ...: of initial directions and of rows. The
    features are the same."""

    lr: float | None = None
    """Adam's learning rate at its highest; by default 3e-4 at 16k, as published, and 2e-3 at
    small."""

    rows: int | None = None
    """Fresh rows to measure on, the same for all; by default 1 million at 16k and 100,000 at
    small."""

    device: str = "auto"
    """Where to train: auto, cpu, cuda or cuda:N."""

    def __post_init__(self) -> None:
        require_choice("size", self.size, get_args(SizeName))
        require_positive_integer("seeds", self.seeds)
        require_in_range("seeds", self.seeds, low=1.0, high=_MOST_SEEDS)
        if self.l0 is not None:
            require_positive_integer("l0", self.l0)
        if self.wanted_l0 > self.of_size.n_latents:
            raise InputError(
                f"l0 is {self.l0}, but at the size {self.size} there are only "
                f"{self.of_size.n_latents} latents; lower it",
                field="l0",
            )
        if self.lr is not None:
            require_in_range("lr", self.lr, low=1e-30, high=1.0)
        if self.rows is not None:
            require_positive_integer("rows", self.rows)
            require_variance_of("rows", self.rows)
            require_in_range("rows", self.rows, low=2.0, high=_MOST_ROWS)
        if self.samples is not None:
            require_positive_integer("samples", self.samples)
        if self.wanted_samples < self.of_size.batch_size:
            raise InputError(
                f"samples is {self.samples}, less than one batch of {self.of_size.batch_size}; "
                "raise it",
                field="samples",
            )

    @property
    def of_size(self) -> BenchmarkSize:
        """What the size stands for."""
        return SIZES[self.size]

    @property
    def wanted_l0(self) -> int:
        """Active latents of a row."""
        return self.of_size.l0 if self.l0 is None else self.l0

    @property
    def wanted_samples(self) -> int:
        """Rows to train on."""
        return self.of_size.samples if self.samples is None else self.samples

    @property
    def wanted_lr(self) -> float:
        """The learning rate."""
        return self.of_size.lr if self.lr is None else self.lr

    @property
    def wanted_rows(self) -> int:
        """Rows to measure on."""
        return self.of_size.rows if self.rows is None else self.rows
