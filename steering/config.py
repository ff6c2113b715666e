"""Configurations of this package, checked when they are made; nothing here imports torch."""

import math
from dataclasses import dataclass, field, fields
from typing import Annotated

from ..sae.common.errors import InputError
from ..sae.common.paths import AnyText, FilePath
from ..sae.common.validation import (
    require_finite,
    require_in_range,
    require_integer,
    require_positive,
    require_positive_integer,
    require_tuple,
)
from ..sae.config import ModelDtype, require_model_dtype
from ..sae.device_map import require_device_map
from .interventions.named import has_saved
from .registries import DIRECTIONS, FEATURE_EDITS, FEATURE_GATES

MOST_CONTINUATIONS = 10_000
"""Continuations of a prompt, at most."""

MOST_DRAWS = 1_000
"""Random draws in one comparison, at most: each is steered with and measured like any other way."""

_LEAST_TEMPERATURE = 1e-5
"""Logits divided by much less are beyond all numbers."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen, and when to stop."""

    max_new_tokens: int | None = None
    """Tokens generated at most for a prompt; the end-of-text token stops earlier. Default: 64, or
    as many as the language model can hold behind the longest prompt if those are fewer."""

    temperature: float = 0.0
    """Logits are divided by it before a token is drawn; 0 always takes the likeliest token."""

    top_k: int = 0
    """Only the so many likeliest tokens are drawn (and those as likely as the last of them); 0
    draws from all."""

    top_p: float = 1.0
    """Only the likeliest tokens are drawn whose probabilities together reach this; 1 draws from
    all. It looks at what top_k leaves."""

    min_p: float = 0.0
    """Only tokens at least this fraction as likely as the likeliest are drawn; 0 draws from all. It
    looks at what top_p leaves."""

    repetition_penalty: float = 1.0
    """Logits of tokens that prompt or text have already are divided by it where positive and
    multiplied where negative; above 1 they come less often, 1 changes nothing."""

    stop: tuple[str, ...] = ()
    """A text ends before the first of these strings that appears in it; may be given several
    times."""

    seed: int = 0
    """Seed of the random draws. The same prompt and seed draw the same random numbers, whatever is
    steered and whatever else is generated."""

    batch_size: int = 16
    """Prompts in one forward pass."""

    def __post_init__(self) -> None:
        if self.max_new_tokens is not None:
            require_positive_integer("max_new_tokens", self.max_new_tokens)
        require_positive_integer("batch_size", self.batch_size)
        require_in_range("temperature", self.temperature, low=0.0, high=100.0)
        if 0 < self.temperature < _LEAST_TEMPERATURE:
            raise InputError(
                f"temperature is {self.temperature:g}; give at least {_LEAST_TEMPERATURE:g}, or 0 "
                "for the likeliest token",
                field="temperature",
            )
        require_integer("seed", self.seed, least=0)
        require_integer("top_k", self.top_k, least=0)
        require_in_range("top_p", self.top_p, low=0.0, high=1.0)
        require_in_range("min_p", self.min_p, low=0.0, high=1.0)
        require_in_range("repetition_penalty", self.repetition_penalty, low=0.01, high=100.0)
        for name in ("top_k", "top_p", "min_p"):
            value = getattr(self, name)
            if self.temperature == 0 and value != getattr(Sampling, name):
                raise InputError(
                    f"{name} is {value}, but at temperature 0 the likeliest token is always taken; "
                    "give a temperature above 0, or leave it out",
                    field=name,
                )
        require_tuple("stop", self.stop)
        if not all(self.stop):
            raise InputError("stop has an empty text; give a string that ends a text", field="stop")


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """What to write with and without steering, and how to steer."""

    run: FilePath | None = None
    """Run folder with the autoencoder (`sae/`) and its feature index (`features/`), or the folder
    of an autoencoder. An --intervention without features needs none: --model is enough."""

    prompt: tuple[AnyText, ...] = ()
    """Beginning of a text; may be given several times."""

    prompts: FilePath | None = None
    """File of prompts: .txt with one on each line, or one in each row of a .jsonl, .ndjson, .json,
    .csv, .tsv, .parquet or .arrow file; also a folder of such files or a quoted pattern."""

    text_field: str | None = None
    """Field of a row of --prompts that holds the prompt; `A+B` joins several, `A.B` is a field in
    an object. By default `prompt`, or those of another layout without its answers."""

    feature: tuple[int, ...] = ()
    """Number of a feature to steer; may be given several times."""

    picks: FilePath | None = None
    """File of picks, or the run folder that has them; all but the rejected ones are steered, each
    with its strength."""

    intervention: FilePath | None = None
    """An intervention in place of the options for it: a JSON file, such as the playground saves, or
    a folder with vectors, as `steer fit` and Intervention.save write."""

    interventions: tuple[str, ...] = ()
    """NAME=PATH, may be given several times: saved interventions, and a text under each."""

    strength: float | None = None
    """Size of the change, in multiples of a feature's largest activation; negative suppresses.
    Default: 1, or the strength of each pick; with picks it is a factor of theirs."""

    tier: Annotated[str, FEATURE_GATES, "all"] = "constant"
    """constant steers every position; per_input the whole text once a feature fires in the prompt,
    else what follows its first firing; per_token only the tokens at which it fires; all writes a
    text under each."""

    threshold: float = 0.0
    """A feature fires above this activation, in multiples of its largest (-inf: everywhere)."""

    edit: Annotated[str, FEATURE_EDITS] = "add"
    """What is done to the activation where it is steered: add adds the push; clamp gives each
    feature the activation that --strength says, min_clamp at least that; ablate takes its
    activation away; project_out takes away the part along its direction."""

    direction: Annotated[str, DIRECTIONS] = "decoder"
    """Along which vector a feature pushes: decoder, its row of the decoder; random, as a control,
    that of another latent, drawn with the seed."""

    max_activation: float | None = None
    """Largest activation of the features, in the autoencoder's units; by default the feature
    index's."""

    chat: bool = False
    """Wrap each prompt as a user's message in the model's chat template."""

    kv_cache: bool = True
    """Keep what the model has read of a text; --no-kv-cache reads all of it for each token, slower.
    Models whose cache gives other text are read so of themselves."""

    model: str | None = None
    """Language model; by default the one that the autoencoder was trained on."""

    site: str | None = None
    """Site in it; by default the one that the autoencoder was trained on."""

    model_dtype: ModelDtype | None = None
    """Dtype in which the language model runs: float32, bfloat16, float16, float64, or auto for what
    its weights are stored as. By default as when the activations were read
    that the autoencoder was trained on."""

    allow_other_weights: bool = False
    """Take a language model though the model's weights are not those that the autoencoder
    was trained on, and say so; by default that is refused."""

    device: str = "auto"
    """Where to run: auto, cpu, cuda, cuda:1, ...; auto takes a GPU if there is one."""

    device_map: str | None = None
    """Spread a language model that is too large for one device, in place of --device: auto,
    balanced (over GPUs), or a JSON object of module names and devices (a GPU's number, cpu, disk).
    It then runs without TransformerLens' bridge, through the package accelerate."""

    sampling: Sampling = field(default_factory=Sampling)
    """How tokens are chosen."""

    def __post_init__(self) -> None:
        require_device_map(self.device_map, self.device)
        require_model_dtype(self.model_dtype)
        if self.tier != "all":
            FEATURE_GATES.require(self.tier)
        FEATURE_EDITS.require(self.edit)
        DIRECTIONS.require(self.direction)
        if not self.prompt and self.prompts is None:
            raise InputError(
                "prompt is missing; give --prompt TEXT or --prompts FILE", field="prompt"
            )
        saved = has_saved(self.intervention, self.interventions)
        if self.run is None and (not saved or self.model is None):
            raise InputError(
                "run is missing; give the folder of a run, or --model with an --intervention that "
                "has no features",
                field="run",
            )
        if saved:
            require_nothing_beside_intervention(self)
        else:
            require_features(self.feature, self.picks, other=" or --intervention FILE")
        if self.text_field is not None and self.prompts is None:
            raise InputError(
                f"text_field is {self.text_field!r}, but there is no --prompts; leave it out",
                field="text_field",
            )
        if self.strength is not None:
            require_finite("strength", self.strength)
            if self.edit in ("ablate", "project_out"):
                raise InputError(
                    f"strength is {self.strength:g}, but {self.edit} takes away what there is; "
                    "leave it out",
                    field="strength",
                )
        if self.max_activation is not None:
            require_positive("max_activation", self.max_activation)
        if self.threshold != -math.inf:
            require_finite("threshold", self.threshold, "a number, or -inf to fire everywhere")


_IN_INTERVENTION = frozenset(
    "feature picks strength tier threshold edit direction seed max_activation site".split()
)


def require_nothing_beside_intervention(config: "GenerateConfig | SteeringChoice") -> None:
    """Raise an InputError if the settings say what the file of an intervention says, too."""
    for each in fields(config):
        if each.name in _IN_INTERVENTION and getattr(config, each.name) != each.default:
            raise InputError(
                f"{each.name} cannot stand beside --intervention, whose file says it; leave one "
                "of them out",
                field=each.name,
            )


@dataclass(frozen=True, kw_only=True)
class SteeringChoice:
    """What an exported intervention steers, and how far; as the settings of `generate`."""

    feature: tuple[int, ...] = ()
    """Number of a feature to steer; may be given several times."""

    picks: FilePath | None = None
    """File of picks, or the run folder that has them; all but the rejected ones are steered, each
    with its strength."""

    intervention: FilePath | None = None
    """An intervention in place of the options for it: a JSON file or a folder, such as `steer fit`
    writes; it must add one vector."""

    strength: float | None = None
    """Size of the change, in multiples of a feature's largest activation; negative suppresses.
    Default: 1, or the strength of each pick; with picks it is a factor of theirs."""

    tier: Annotated[str, FEATURE_GATES] = "constant"
    """At which tokens; constant, all of them, is what a file for other tools can hold."""

    direction: Annotated[str, DIRECTIONS] = "decoder"
    """Along which vector a feature pushes: decoder, its row of the decoder; random, as a control,
    that of another latent, drawn with the seed."""

    max_activation: float | None = None
    """Largest activation of the features, in the autoencoder's units; by default the feature
    index's."""

    seed: int = 0
    """Seed of a direction that draws at random."""

    model: str | None = None
    """Language model; by default the one that the autoencoder was trained on."""

    site: str | None = None
    """Site in it, a residual stream between blocks; by default the one that the autoencoder was
    trained on."""

    model_dtype: ModelDtype | None = None
    """Dtype in which the language model runs, and is written where it is: float32, bfloat16,
    float16, float64, or auto for what its weights are stored as. By default as when the activations
    were read that the autoencoder was trained on."""

    allow_other_weights: bool = False
    """Take a language model though the model's weights are not those that the autoencoder
    was trained on, and say so; by default that is refused."""

    device: str = "auto"
    """Where to run: auto, cpu, cuda, cuda:1, ...; auto takes a GPU if there is one."""

    def __post_init__(self) -> None:
        require_model_dtype(self.model_dtype)
        FEATURE_GATES.require(self.tier)
        DIRECTIONS.require(self.direction)
        require_integer("seed", self.seed, least=0)
        if self.strength is not None:
            require_finite("strength", self.strength)
        if self.max_activation is not None:
            require_positive("max_activation", self.max_activation)

    def given(self) -> list[str]:
        """The settings that are not as they are by default."""
        return [each.name for each in fields(self) if getattr(self, each.name) != each.default]


def require_features(feature: tuple[int, ...], picks: str | None, *, other: str = "") -> None:
    """Raise an InputError unless features are named in one way, each once; `other` is one more way
    to name them."""
    if not feature and picks is None:
        raise InputError(
            f"feature is missing; give --feature N or --picks FILE{other}", field="feature"
        )
    if feature and picks is not None:
        raise InputError("picks cannot stand beside --feature; give one of them", field="picks")
    for number in feature:
        if feature.count(number) > 1:
            raise InputError(
                f"feature names {number} more than once; give each number once", field="feature"
            )
