"""Settings of the fitted maps and trained directions, checked when made; imports no torch."""

from dataclasses import dataclass
from typing import Literal, get_args

from ...sae.common.errors import InputError
from ...sae.common.validation import (
    require_boolean,
    require_choice,
    require_in_range,
    require_integer,
    require_positive,
    require_positive_integer,
    require_tuple,
    wrong,
)

TransportMap = Literal["linear", "mean", "gaussian", "aura"]
TransportPool = Literal["mean", "none"]
TransportOrder = Literal["incremental", "at_once"]
Optimizer = Literal["adam", "sgd"]
ObservableMethod = Literal["direct", "gradient", "boundary"]
ObservablePositions = Literal["all", "last"]
KeptTexts = Literal["all", "disagree", "gain", "loss"]
ComparedTokens = Literal["all", "last", "answer"]


@dataclass(frozen=True, kw_only=True)
class TextFit:
    """What fits to two sets of texts have in common."""

    sites: tuple[str, ...]
    """Sites that are edited, in any order; several may be given."""

    max_length: int | None = None
    """Tokens read of each text, BOS not counted; the rest is cut. Default: 128, or the model's
    context if shorter."""

    batch_size: int = 16
    """Texts in one forward pass. It changes time and memory, and no result but for rounding."""

    held_out: float = 0.2
    """Fraction of each set of texts that is not fitted to, for the report."""

    seed: int = 0
    """Seed of the held-out texts and of all else that is drawn."""

    def __post_init__(self) -> None:
        require_tuple("sites", self.sites)
        if not self.sites:
            raise InputError("sites is empty; name at least one site", field="sites")
        if self.max_length is not None:
            require_positive_integer("max_length", self.max_length)
        require_positive_integer("batch_size", self.batch_size)
        require_in_range("held_out", self.held_out, low=0.0, high=1.0, below_high=True)
        require_integer("seed", self.seed, least=0)


@dataclass(frozen=True, kw_only=True)
class LinActConfig(TextFit):
    """Lin-AcT (arXiv 2410.23054): maps of single coordinates in closed form."""

    map: TransportMap = "linear"
    """linear fits a line through the sorted values of both sets; mean only shifts (difference of
    means); gaussian matches mean and standard deviation; aura (arXiv 2407.12824) damps the
    coordinates that detect the negative texts."""

    pool: TransportPool = "mean"
    """What is fitted to of a text: mean, the mean over its tokens, as in the paper; none, every
    token by itself, which is what the map is applied to. aura always takes the maximum."""

    order: TransportOrder = "incremental"
    """incremental fits each site with the maps of all earlier ones switched on; at_once fits every
    site to the unedited model, and then the changes of several sites add up."""

    support: bool | None = None
    """Leave values alone that lie outside the range of the fitted negative ones. Default: for
    linear only, as the authors do."""

    support_quantile: float = 0.0
    """The range goes from this quantile to 1 minus it; 0 is the smallest to the largest value."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("map", self.map, get_args(TransportMap))
        require_choice("pool", self.pool, get_args(TransportPool))
        require_choice("order", self.order, get_args(TransportOrder))
        if self.support is not None:
            require_boolean("support", self.support)
        require_in_range(
            "support_quantile", self.support_quantile, low=0.0, high=0.5, below_high=True
        )

    @property
    def has_support(self) -> bool:
        """Whether maps apply only within the range of what they were fitted to."""
        return self.map == "linear" if self.support is None else self.support


@dataclass(frozen=True, kw_only=True)
class LinEASConfig(TextFit):
    """LinEAS (arXiv 2503.10679): maps of single coordinates at all sites, trained together."""

    steps: int = 200
    """Gradient steps. The paper takes 1,000 for toxicity, and reports that 10,000 are too many."""

    lr: float = 1e-2
    """Learning rate at the beginning; it falls to a thousandth of it along a cosine."""

    optimizer: Optimizer = "adam"
    """adam with betas 0.9 and 0.9, or sgd, both without weight decay."""

    standardize: bool = True
    """Measure every coordinate from the mean of the unedited negative texts and in their standard
    deviations, so that one learning rate suits all sites; off is the loss of the paper, whose sites
    lie behind norms."""

    l1: float = 0.0
    """Weight of the absolute values of w - 1 and of the shift: coordinates that hardly help stay as
    they are. With sgd those whose gap between the sets is about below l1 / 2 standard deviations;
    with adam, whose steps have about one length, values below 1 leave out little."""

    group_l2: float = 0.0
    """Weight of the norms of w - 1 and of the shift at each site, times the root of the number of
    coordinates: sites that hardly help stay as they are."""

    post_steps: int = 0
    """Further steps in which what is left moves without l1 and group_l2: it is not shrunk."""

    texts_per_step: int | None = None
    """Texts of each set in one step, drawn with the seed; by default all. At least 4."""

    checkpoint_every: int = 10
    """Steps between checkpoints, where a folder for them is given."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("steps", "checkpoint_every"):
            require_positive_integer(name, getattr(self, name))
        require_integer("post_steps", self.post_steps, least=0)
        require_positive("lr", self.lr)
        require_choice("optimizer", self.optimizer, get_args(Optimizer))
        require_boolean("standardize", self.standardize)
        for name in ("l1", "group_l2"):
            if not getattr(self, name) >= 0:
                raise wrong(name, getattr(self, name), "a number of at least 0")
        if self.texts_per_step is not None:
            require_integer("texts_per_step", self.texts_per_step, least=4)


@dataclass(frozen=True, kw_only=True)
class ObservableConfig:
    """Observable propagation (arXiv 2312.16291): the direction that moves chosen tokens."""

    observable: str
    """Tokens whose logits it raises and lowers, each behind its sign: `+ he - she` for ` he` over
    ` she`, with the space that stands before a word; `+he -she` without it."""

    site: str | None = None
    """Site of the direction; by default the residual stream after the middle layer."""

    how: ObservableMethod = "gradient"
    """direct goes from the site straight to the final norm, by weights alone; gradient goes back
    through all later layers at given prompts; boundary does so halfway between pairs of prompts,
    where the observable is 0."""

    positions: ObservablePositions = "all"
    """At which tokens the activation counts in the gradient: all of a prompt, as when all are
    steered, or the last only."""

    batch_size: int = 16
    """Prompts in one forward pass."""

    def __post_init__(self) -> None:
        require_choice("how", self.how, get_args(ObservableMethod))
        require_choice("positions", self.positions, get_args(ObservablePositions))
        require_positive_integer("batch_size", self.batch_size)


@dataclass(frozen=True, kw_only=True)
class ModelPairConfig:
    """The mean difference of two models of one architecture on the same tokens (the idea of
    arXiv 2511.20233)."""

    sites: tuple[str, ...]
    """Sites of the directions; several may be given."""

    keep: KeptTexts = "all"
    """Which texts count: all; disagree, where the models' likeliest next token behind the text
    differs; gain, where the second model gives the answer and the first does not; loss, the other
    way round."""

    tokens: ComparedTokens = "all"
    """Which tokens count: all of the text that are content; last, the last one before the answer;
    answer, those of the answer."""

    max_length: int = 256
    """Tokens read of each text and its answer, BOS not counted; the rest is cut."""

    batch_size: int = 16
    """Texts in one forward pass."""

    seed: int = 0
    """Seed of the halves of the texts that are compared in the report."""

    def __post_init__(self) -> None:
        require_tuple("sites", self.sites)
        if not self.sites:
            raise InputError("sites is empty; name at least one site", field="sites")
        require_choice("keep", self.keep, get_args(KeptTexts))
        require_choice("tokens", self.tokens, get_args(ComparedTokens))
        require_positive_integer("max_length", self.max_length)
        require_positive_integer("batch_size", self.batch_size)
        require_integer("seed", self.seed, least=0)


@dataclass(frozen=True, kw_only=True)
class ReFTConfig:
    """ReFT-r1 (AxBench, arXiv 2501.17148): one direction that is trained to detect and to steer."""

    site: str | None = None
    """Site of the direction; by default the residual stream after the middle layer."""

    epochs: int = 3
    """Passes over the positive texts."""

    texts_per_step: int = 6
    """Positive texts in one gradient step."""

    lr: float = 1e-2
    """Learning rate at the beginning; it falls to 0 in a line."""

    k: int = 8
    """Tokens of a text whose activations are averaged to the size of the push; all of a shorter
    text."""

    penalty: float = 0.005
    """Weight of the mean activation of the other tokens at the end; it grows from 0 in a line."""

    max_length: int = 128
    """Tokens read of each text, BOS not counted; the rest is cut."""

    held_out: float = 0.2
    """Fraction of each set of texts that is not fitted to, for the report."""

    seed: int = 0
    """Seed of the first direction, of the held-out texts and of the order of the others."""

    def __post_init__(self) -> None:
        for name in ("epochs", "texts_per_step", "k", "max_length"):
            require_positive_integer(name, getattr(self, name))
        require_positive("lr", self.lr)
        require_in_range("penalty", self.penalty, low=0.0, high=1e6)
        require_in_range("held_out", self.held_out, low=0.0, high=1.0, below_high=True)
        require_integer("seed", self.seed, least=0)
