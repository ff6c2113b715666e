"""Settings of the feature index, its view and the search; nothing here imports torch."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from ...sae.common.errors import InputError
from ...sae.common.paths import FilePath
from ...sae.common.validation import (
    require_choice,
    require_finite,
    require_in_range,
    require_integer,
    require_positive_integer,
    require_text,
    wrong,
)
from ...sae.config import ModelDtype, require_model_dtype

Statistic = Literal[
    "interest",
    "max_activation",
    "p99_activation",
    "median_activation",
    "mean_activation",
    "density",
]

PickAction = Literal["add", "remove", "list", "undo"]

GivenVerdict = Literal["keep", "reject", "none"]

_OF_A_PICK = ("label", "note", "strength", "star", "unstar", "verdict", "confidence")

TAKEN_BY_ACTION: dict[str, tuple[str, ...]] = {
    "add": ("feature", *_OF_A_PICK),
    "remove": ("feature",),
    "list": (),
    "undo": (),
}
"""The settings that go with each `PickAction`."""


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """Build the feature index of a run: examples, statistics, tokens and neighbors of every
    latent, read from an activation cache in one pass."""

    run: FilePath
    """Folder of the run; the index becomes its folder features/."""

    cache: FilePath
    """Folder of the activation cache, made with the same language model as the run's."""

    site: str | None = None
    """Site of the cache; by default the one that the autoencoder was trained on."""

    model: str | None = None
    """Language model, for the texts of tokens and for logits; by default the one that the
    cache was made with."""

    examples: int = 20
    """Top activating examples of each latent, and as many random ones."""

    quantiles: int = 5
    """Levels of activation, each with an equal part of a latent's firings, of which examples are
    kept; 0 for none."""

    quantile_examples: int = 5
    """Examples of each level."""

    near_misses: int = 10
    """Examples of each latent where its pre-activation was high and the activation did not keep it;
    0 for none, which saves a product with the encoder."""

    before: int = 24
    """Tokens kept before the activating one, as far as its document goes."""

    after: int = 8
    """Tokens kept after it."""

    neighbors: int = 10
    """Latents with the most similar decoder direction to keep of each latent."""

    coactivating: int = 10
    """Latents to keep of each latent that fire on the same tokens most; 0 for none."""

    logits: int = 10
    """Tokens to keep of each latent whose logit it raises most (positive logits), and as many that
    it lowers most (negative logits); with 0 only the tokenizer of the language model is loaded."""

    lens: FilePath | None = None
    """File of a Jacobian lens of the language model, by which tokens are ranked as --logits says,
    too; for the output of a middle block."""

    outlier_norm: float = 5.0
    """Leave out rows whose norm is more than so many times the median: attention sinks beyond the
    usual places, which would pass for the largest activations of many latents. 0 keeps all."""

    rows: int | None = None
    """Read whole shards of the cache only until there are so many rows; by default all."""

    seed: int = 0
    """Seed of the random examples."""

    model_dtype: ModelDtype | None = None
    """Dtype in which the language model runs: float32, bfloat16, float16, float64, or auto for what
    its weights are stored as. By default as when the cache was written."""

    allow_other_weights: bool = False
    """Take a cache or language model though the weights are not those that the autoencoder was
    trained on, and say so; by default that is refused."""

    device: str = "auto"
    """Where to encode: auto, cpu, cuda or cuda:N."""

    def __post_init__(self) -> None:
        require_model_dtype(self.model_dtype)
        for name in ("examples", "quantile_examples"):
            require_positive_integer(name, getattr(self, name))
        for name in (
            *("quantiles", "near_misses", "before", "after"),
            *("neighbors", "coactivating", "logits", "seed"),
        ):
            require_integer(name, getattr(self, name), least=0)
        if self.lens is not None and not self.logits:
            raise InputError(
                "lens is given, but logits is 0, which keeps no token; drop one of them",
                field="lens",
            )
        require_in_range("outlier_norm", self.outlier_norm, low=0.0, high=1e9)
        if self.rows is not None:
            require_positive_integer("rows", self.rows)


@dataclass(frozen=True, kw_only=True)
class ShowConfig:
    """Show one feature of a run's index."""

    run: FilePath
    """Folder of the run, or of its feature index."""

    feature: int
    """Number of the feature, from 0."""

    examples: int = 8
    """Top examples to show, and as many random ones."""

    def __post_init__(self) -> None:
        require_integer("examples", self.examples, least=0)


@dataclass(frozen=True, kw_only=True)
class ListConfig:
    """List the features of a run's index in order of interest or of a statistic."""

    run: FilePath
    """Folder of the run, or of its feature index."""

    by: Statistic = "interest"
    """What they are sorted by: interest (rare, and strong by its own measure and beside others),
    the largest, 99th-percentile, median or mean activation where the feature fires, or the fraction
    of rows on which it fires."""

    lowest: bool = False
    """Show the lowest values first instead of the largest."""

    top: int = 20
    """Features to show, of those that ever fired."""

    def __post_init__(self) -> None:
        require_positive_integer("top", self.top)
        require_choice("by", self.by, get_args(Statistic))


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """Search the features of a run by a text, a token, a label or another feature."""

    run: FilePath
    """Folder of the run."""

    text: str | None = None
    """A text: features that it activates, by the share of their own largest activation times how
    rare they are, with the tokens on which they fire."""

    token: str | None = None
    """A token: features that fire most on it. Case and spaces around it do not matter."""

    logit: str | None = None
    """A token: features that raise its logit most, so that they make the model say it. --promotes
    is the same."""

    label: str | None = None
    """Words: features whose label or note, a person's or a machine's, has all of them."""

    observable: str | None = None
    """Tokens, each behind its sign, such as `+ he - she`: features that raise the logits of some
    over those of others most, or lower them, through all layers behind the site."""

    near: int | None = None
    """Number of a feature: those with the most similar decoder direction."""

    top: int = 20
    """Features to show."""

    max_density: float = 0.1
    """With --text, leave out features that fire on a larger fraction of the tokens of the index."""

    max_length: int | None = None
    """With --text, tokens read of it, BOS not counted; by default 512, or the model's context if
    shorter."""

    model: str | None = None
    """With --text or --observable, the language model; by default the one that the autoencoder was
    trained on."""

    site: str | None = None
    """With --text or --observable, the site in it; by default the one that the autoencoder was
    trained on."""

    model_dtype: ModelDtype | None = None
    """With --text or --observable, the dtype in which the language model runs: float32, bfloat16,
    float16, float64, or auto for what its weights are stored as. By default as when the activations
    were read that the autoencoder was trained on."""

    allow_other_weights: bool = False
    """With --text or --observable, take a language model though its weights are not those that the
    autoencoder was trained on, and say so; by default that is refused."""

    device: str = "auto"
    """With --text or --observable, where to run: auto, cpu, cuda or cuda:N."""

    def __post_init__(self) -> None:
        require_model_dtype(self.model_dtype)
        require_positive_integer("top", self.top)
        require_in_range("max_density", self.max_density, low=0.0, high=1.0)
        if self.max_length is not None:
            require_positive_integer("max_length", self.max_length)
        given = [name for name in SEARCHES if getattr(self, name) is not None]
        if len(given) != 1:
            found = f"{' and '.join(given)} are given" if given else "what to search for is missing"
            raise InputError(
                f"{found}; give one of --text, --token, --logit, --label, --observable and --near"
            )
        for name in SEARCHES[:-1]:
            if (words := getattr(self, name)) is not None:
                require_text(name, words)
                if not words or (name not in ("token", "logit") and not words.strip()):
                    raise InputError(f"{name} is empty; give what to search for", field=name)
        if self.near is not None:
            require_integer("near", self.near, least=0)
        if self.text is None:
            self._refuse_what_a_model_needs(given[0])

    def _refuse_what_a_model_needs(self, by: str) -> None:
        names = ("model", "site", "model_dtype", "allow_other_weights", "device")
        for name in ("max_length", *(() if by == "observable" else names)):
            if (value := getattr(self, name)) != getattr(SearchConfig, name):  # the default
                raise InputError(
                    f"{name} is {value!r}, but goes with --text; leave it out of a search by {by}",
                    field=name,
                )


SEARCHES = ("text", "token", "logit", "label", "observable", "near")
"""What a search may be by, a field of `SearchConfig` each; the last is a number."""


@dataclass(frozen=True, kw_only=True)
class PickConfig:
    """Change or list the picks of a run."""

    run: FilePath
    """Folder of the run; the picks are its picks.json."""

    action: PickAction
    """add (or change) picks, remove some, list all, or undo the last change."""

    feature: tuple[int, ...] = ()
    """Numbers of the features to add or remove."""

    label: str | None = None
    """A few words for what the feature stands for."""

    note: str | None = None
    """Anything else worth keeping."""

    strength: float | None = None
    """How strongly to steer with it, in multiples of its own largest activation; negative
    suppresses it. Default for a new pick: 1."""

    star: bool = False
    """Star the features, which makes them stand out among the picks."""

    unstar: bool = False
    """Take the star of the features away."""

    verdict: GivenVerdict | None = None
    """keep, or reject: a rejected feature is remembered, and does not steer; none takes the
    verdict back."""

    confidence: int | None = None
    """How sure you are, from 1 (a guess) to 5; 0 takes it back."""

    def __post_init__(self) -> None:
        require_choice("action", self.action, get_args(PickAction))
        if self.action in ("add", "remove") and not self.feature:
            raise InputError(
                f"pick {self.action} needs the number of a feature: "
                f"sparsteer pick {self.run} {self.action} N"
            )
        if self.action in ("list", "undo") and self.feature:
            given = ", ".join(map(str, self.feature))
            raise InputError(f"pick {self.action} takes no feature, but {given} was given; drop it")
        for name in _OF_A_PICK:
            is_given = getattr(self, name) is not None and getattr(self, name) is not False
            if is_given and name not in TAKEN_BY_ACTION[self.action]:
                raise InputError(f"{name} goes with pick add only; leave it out", field=name)
        for name in ("label", "note"):
            if (text := getattr(self, name)) is not None:
                require_text(name, text)
        if self.strength is not None:
            require_finite("strength", self.strength)
        if self.star and self.unstar:
            raise InputError("star cannot stand beside --unstar; give one of them", field="star")
        if self.verdict is not None:
            require_choice("verdict", self.verdict, get_args(GivenVerdict))
        if self.confidence is not None:
            require_integer("confidence", self.confidence, least=0)
            if self.confidence > 5:
                raise wrong("confidence", self.confidence, "a whole number from 0 to 5")

    def given(self) -> dict[str, Any]:
        """What is given of the picks, by the names of the fields of `Pick`."""
        values: dict[str, Any] = {
            "label": self.label,
            "note": self.note,
            "strength": self.strength,
            "starred": self.star if self.star or self.unstar else None,
            "verdict": "" if self.verdict == "none" else self.verdict,
        }
        given = {name: value for name, value in values.items() if value is not None}
        return given if self.confidence is None else given | {"confidence": self.confidence or None}
