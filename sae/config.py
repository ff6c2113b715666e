"""Configurations of the autoencoders: what is fixed before training. Imports no torch."""

import dataclasses
import difflib
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal, TypeVar, cast, get_args

from .activations.registry import activation_class, activation_names
from .common.errors import InputError
from .common.validation import (
    require_boolean,
    require_choice,
    require_in_range,
    require_positive_integer,
    wrong,
)

T = TypeVar("T")

LEAST_SCALE, MOST_SCALE = 1e-3, 1e3
"""Between which top_afa's target scale may be."""

NormalizeActivations = Literal["none", "constant_norm_rescale", "layer_norm"]
"""What an autoencoder does to each row of its input, under SAELens' names. `constant_norm_rescale`
scales it to the norm sqrt(D); `layer_norm` subtracts the mean of its entries and divides by their
standard deviation (with D - 1) plus 1e-5. An autoencoder, but no transcoder, undoes it last."""

ModelDtype = Literal["float32", "bfloat16", "float16", "float64", "auto"]
"""What a language model's weights are loaded as and its activations computed in; auto is what they
are stored as."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where an autoencoder's activations came from; needed to put it back into the model."""

    model: str
    """The language model: its name, but for a local one its absolute path."""
    site: str
    """The activation that was read, for example blocks.15.hook_resid_post."""
    weights_hash: str | None = None
    """sha256 of the language model's weights; None if unknown."""
    target_site: str | None = None
    """The activation that a transcoder predicts; None for an autoencoder."""
    model_dtype: str = "float32"
    """The dtype in which the language model ran."""
    dataset: str | None = None
    """The corpus that it read: its name, but for a local one its absolute path; None if unknown."""
    context_length: int | None = None
    """Tokens in one context of it, BOS included; None if unknown."""
    prepends_bos: bool | None = None
    """Whether each context began with BOS; None if unknown."""

    def __post_init__(self) -> None:
        for name in ("model", "site", "weights_hash", "target_site", "model_dtype", "dataset"):
            value = getattr(self, name)
            may_lack = name in ("weights_hash", "target_site", "dataset")
            if not isinstance(value, str) and (value is not None or not may_lack):
                raise wrong(name, value, "text")
        if self.context_length is not None:
            require_positive_integer("context_length", self.context_length)
        if self.prepends_bos is not None:
            require_boolean("prepends_bos", self.prepends_bos)


@dataclass(frozen=True)
class SAEConfig:
    """What every autoencoder has, whatever its activation.

    A subclass is the configuration of one activation: its further fields are the settings that only
    this activation has, each under the name of its flag, and these class attributes say the rest.
    """

    activation: ClassVar[str]
    """The activation's name."""

    training_settings: ClassVar[tuple[str, ...]] = ()
    """Settings of `TrainerConfig` that it takes and other activations may not."""

    can_be_sharded: ClassVar[bool] = False
    """Whether the dictionary can be cut over several processes. Only if in training every row keeps
    the `k` latents with the largest positive pre-activations, on which the processes agree, and the
    activation has no state."""

    can_be_captured: ClassVar[bool] = False
    """Whether a training step on a GPU can be recorded as a CUDA graph. Only if in it the host
    waits for no result, no shape depends on the data, and the activation has no state."""

    can_be_whitened: ClassVar[bool] = False
    """Whether rows can be whitened in training. Only if which latents of a row are kept depends on
    pre-activations alone, as these are what folding the whitening into the weights keeps."""

    d_model: int
    """D, width of the activations read."""
    n_latents: int
    """F, latents in the dictionary."""

    prefixes: tuple[int, ...] = dataclasses.field(default=(), kw_only=True)
    """Rising numbers of latents that must reconstruct alone, too, below n_latents, which is always
    added (Matryoshka, arXiv 2503.17547); none by default."""

    transcoder: bool = dataclasses.field(default=False, kw_only=True)
    """Whether it predicts other activations than those it reads, such as an MLP's output from its
    input (arXiv 2406.11944); both have width d_model."""

    apply_b_dec_to_input: bool = dataclasses.field(default=True, kw_only=True)
    """Whether the encoder subtracts b_dec from its input, as autoencoders that are trained here do;
    a transcoder never does."""

    normalize_activations: NormalizeActivations = dataclasses.field(default="none", kw_only=True)
    """How each row is normalized before it is encoded, see `NormalizeActivations`."""

    skip: bool = dataclasses.field(default=False, kw_only=True)
    """Whether a transcoder has a matrix W_skip [D, D] besides, and predicts x @ W_skip^T more
    (arXiv 2501.18823)."""

    lista_step: float = dataclasses.field(default=0.0, kw_only=True)
    """Step size eta with which the encoder reads each row a second time, with eta times what the
    first codes missed of it added: one step of LISTA (ICML 2010) with the encoder's own weights.
    0: it reads each row once."""

    @property
    def kind(self) -> str:
        """What to call it: autoencoder or transcoder."""
        return "transcoder" if self.transcoder else "autoencoder"

    @property
    def latents_of_row(self) -> int | None:
        """k of an activation that keeps k latents of a row, exactly or on average; else None."""
        return getattr(self, "k", None)

    def __post_init__(self) -> None:
        for name in ("d_model", "n_latents"):
            require_positive_integer(name, getattr(self, name))
        # What a file holds may be of any type.
        if not isinstance(cast(object, self.prefixes), tuple):
            raise wrong("prefixes", self.prefixes, "a list of whole numbers")
        for name in ("transcoder", "apply_b_dec_to_input", "skip"):
            require_boolean(name, getattr(self, name))
        require_choice(
            "normalize_activations", self.normalize_activations, get_args(NormalizeActivations)
        )
        require_in_range("lista_step", self.lista_step, low=0.0, high=1.0)
        if self.lista_step and self.transcoder:
            raise InputError(
                f"lista_step is {self.lista_step:g}, but a transcoder predicts other activations "
                "than those it reads, so that what it missed of these is unknown; leave it out",
                field="lista_step",
            )
        if self.skip and not self.transcoder:
            raise InputError(
                "skip is true, but an autoencoder with a skip connection would copy its input; "
                "leave it out, or set transcoder",
                field="skip",
            )
        for prefix in self.prefixes:
            require_positive_integer("prefixes", prefix)
        ends = (*self.prefixes, self.n_latents)
        if any(b <= a for a, b in pairwise(ends)):
            shown = ", ".join(map(str, self.prefixes))
            raise InputError(
                f"prefixes are {shown}, which do not rise below the {self.n_latents} latents; "
                "give rising numbers, the whole dictionary left out",
                field="prefixes",
            )


@dataclass(frozen=True)
class TopKConfig(SAEConfig):
    """A top-k autoencoder: every row keeps its k largest latents (arXiv 2406.04093)."""

    activation: ClassVar[str] = "topk"
    training_settings: ClassVar[tuple[str, ...]] = (
        *("multi_topk_coefficient", "multi_topk"),
        *("k_start", "k_anneal_fraction"),
    )
    can_be_sharded: ClassVar[bool] = True
    can_be_captured: ClassVar[bool] = True
    can_be_whitened: ClassVar[bool] = True

    k: int
    """Latents kept of each row."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_k(self.k, self.n_latents)


@dataclass(frozen=True)
class BatchTopKConfig(SAEConfig):
    """A batch-top-k autoencoder: a batch of B rows keeps its B * k largest latents in training, and
    later each row those above a threshold that training learned (arXiv 2412.06410)."""

    activation: ClassVar[str] = "batch_topk"
    training_settings: ClassVar[tuple[str, ...]] = ("k_start", "k_anneal_fraction")
    can_be_whitened: ClassVar[bool] = True

    k: int
    """Latents kept of a row, on average over the batch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_k(self.k, self.n_latents)


@dataclass(frozen=True)
class JumpReLUConfig(SAEConfig):
    """A JumpReLU autoencoder: each latent has a threshold of its own, learned by a straight-through
    gradient (arXiv 2407.14435)."""

    activation: ClassVar[str] = "jumprelu"
    training_settings: ClassVar[tuple[str, ...]] = (
        *("sparsity", "sparsity_coefficient"),
        "target_l0",
    )
    can_be_whitened: ClassVar[bool] = True

    bandwidth: float = 0.2
    """Width around a threshold in which pre-activations give it a gradient, in scaled units."""

    fixed_thresholds: bool = dataclasses.field(default=False, kw_only=True)
    """Whether the thresholds are those of another library, kept as they are; they may be 0, where
    trained ones are positive."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_in_range("bandwidth", self.bandwidth, low=1e-6, high=1e3)
        require_boolean("fixed_thresholds", self.fixed_thresholds)


@dataclass(frozen=True)
class TopAFAConfig(SAEConfig):
    """A top-AFA autoencoder: each row keeps the latents whose joint norm is nearest the norm of the
    row itself, so it chooses its own number of latents (arXiv 2503.24277)."""

    activation: ClassVar[str] = "top_afa"
    training_settings: ClassVar[tuple[str, ...]] = ("afa_coefficient", "target_l0")

    target_scale: float = dataclasses.field(default=1.0, kw_only=True)
    """Factor of the norm that is aimed at, in the selection and in the norm loss; 1 as published.
    Less keeps fewer latents."""

    learned_scale: bool = dataclasses.field(default=False, kw_only=True)
    """Whether training leads that factor to the one with which rows keep `target_l0` latents on
    average; it then belongs to the weights, and `target_scale` is where it begins."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.transcoder:
            raise InputError(
                "activation is top_afa, which keeps latents until their norm is that of the row "
                "read, and a transcoder gives another row; choose topk, batch_topk or jumprelu",
                field="activation",
            )
        if self.lista_step:
            raise InputError(
                f"lista_step is {self.lista_step:g}, but top_afa compares its latents with the "
                "norm of the row, which a second reading changes; leave it out, or choose topk, "
                "batch_topk or jumprelu",
                field="lista_step",
            )
        require_boolean("learned_scale", self.learned_scale)
        require_in_range("target_scale", self.target_scale, low=LEAST_SCALE, high=MOST_SCALE)


@dataclass(frozen=True)
class ReLUConfig(SAEConfig):
    """An autoencoder that keeps every positive pre-activation (arXiv 2309.08600); it is read from
    other libraries' files and not trained here."""

    activation: ClassVar[str] = "relu"


@dataclass(frozen=True)
class GatedConfig(SAEConfig):
    """A gated autoencoder, in which one bias decides which latents are active and another their
    values (arXiv 2404.16014); it is read from other libraries' files and not trained here."""

    activation: ClassVar[str] = "gated"


@dataclass(frozen=True)
class GroupMaxConfig(SAEConfig):
    """An autoencoder of which each of k groups of neighboring latents keeps its largest; it is read
    from sparsify's files (`groupmax`) and not trained here."""

    activation: ClassVar[str] = "group_max"

    k: int
    """The number of groups, which divides n_latents."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_k(self.k, self.n_latents)
        if self.n_latents % self.k:
            raise InputError(
                f"k is {self.k}, which does not divide the {self.n_latents} latents into groups of "
                "one size; give a k that does",
                field="k",
            )


_TRAINED: dict[str, type[SAEConfig]] = {
    config.activation: config
    for config in (TopKConfig, BatchTopKConfig, TopAFAConfig, JumpReLUConfig)
}
_CONFIGS = _TRAINED | {
    config.activation: config for config in (ReLUConfig, GatedConfig, GroupMaxConfig)
}


def config_class(activation: str) -> type[SAEConfig]:
    """The configuration of the activation with this name; only another package's imports torch.

    Raises InputError if there is none.
    """
    own = _CONFIGS.get(activation)
    return own or activation_class(activation).config_class


def settings_of(config: type[SAEConfig]) -> set[str]:
    """Every setting that the activation has, be it a field of its own or one of the trainer."""
    return {field.name for field in dataclasses.fields(config)} | set(config.training_settings)


def activations_with(setting: str) -> list[str]:
    """The activations trained here that have a setting which not all have; none if all have."""
    having = [name for name, config in _TRAINED.items() if setting in settings_of(config)]
    return [] if len(having) == len(_TRAINED) else having


_USUAL: dict[str, object] = {
    field.name: field.default
    for config in (SAEConfig, JumpReLUConfig, TopAFAConfig)
    for field in dataclasses.fields(config)
    if field.name
    in (
        *("transcoder", "apply_b_dec_to_input", "normalize_activations", "skip", "lista_step"),
        *("fixed_thresholds", "learned_scale"),
    )
}


def config_to_dict(config: SAEConfig) -> dict[str, Any]:
    """The configuration as plain values, with its activation's name; what every autoencoder has
    besides its sizes, `fixed_thresholds` and `learned_scale`, only where it is not as usual."""
    values = {"activation": config.activation, **dataclasses.asdict(config)}
    values["prefixes"] = list(config.prefixes)
    usual: dict[str, object] = {**_USUAL, "prefixes": []}
    return {
        name: value for name, value in values.items() if name not in usual or value != usual[name]
    }


def config_from_dict(values: dict[str, Any], where: str) -> SAEConfig:
    """Build the configuration that `config_to_dict` wrote.

    Raises:
        InputError: an unknown activation, an unknown or missing key, or a value out of range; the
            message names it, `where` it stands and the nearest right name.
    """
    values = dict(values)
    activation = values.pop("activation", None)
    if not isinstance(activation, str) or activation not in activation_names():
        known = ", ".join(activation_names())
        raise InputError(
            f"{where}: activation is {activation!r}, which must be one of {known}",
            field="activation",
        )
    if isinstance(values.get("prefixes"), list):
        values["prefixes"] = tuple(values["prefixes"])
    return build_dataclass(config_class(activation), values, where)


def build_dataclass(cls: type[T], values: object, where: str) -> T:
    """Build a dataclass from plain values.

    Raises:
        InputError: an unknown or missing key, or a value that the dataclass refuses; the message
            begins with `where`.
    """
    if not isinstance(values, dict):
        raise InputError(f"{where}: {values!r} stands where an object with keys is needed")
    fields = {field.name: field for field in dataclasses.fields(cls)}  # pyright: ignore[reportArgumentType]
    given = cast(dict[str, Any], values)
    for key in given:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            hint = f"did you mean {near[0]}?" if near else f"the keys are {', '.join(fields)}."
            raise InputError(f"{where}: there is no key {key!r}; {hint}")
    for name, field in fields.items():
        required = field.default is field.default_factory is dataclasses.MISSING
        if required and name not in given:
            raise InputError(f"{where}: the key {name!r} is missing; add it.")
    try:
        return cls(**given)
    except InputError as error:
        raise InputError(f"{where}: {error}", field=error.field) from None


def _require_k(k: int, n_latents: int) -> None:
    require_positive_integer("k", k)
    if k > n_latents:
        raise InputError(f"k is {k}, but there are only {n_latents} latents; lower k", field="k")


def require_model_dtype(value: str | None) -> None:
    """Raise an InputError unless it is a `ModelDtype` or None."""
    if value is not None:
        require_choice("model_dtype", value, get_args(ModelDtype))
