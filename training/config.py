"""Configurations of training, checked when they are made; imports no torch."""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Annotated, Any, get_type_hints

from ..sae.activations.registry import ACTIVATIONS
from ..sae.common.errors import InputError
from ..sae.common.memory import require_memory
from ..sae.common.named_values import read_named_values
from ..sae.common.paths import FilePath
from ..sae.common.validation import (
    require_positive_integer,
    require_tuple,
)
from ..sae.config import SAEConfig, activations_with, config_class
from .data.stream.config import StreamConfig
from .target_l0 import scale_settings
from .tracking import Tracking
from .trainer_config import TrainerConfig


def require_prefixes(prefixes: tuple[float, ...]) -> None:
    """Raise an InputError if one is neither a number of latents nor a fraction of them."""
    for prefix in prefixes:
        if not 0 < prefix < math.inf or (prefix > 1 and prefix != int(prefix)):
            raise InputError(
                f"prefixes has {prefix:g}; give whole numbers of latents, or fractions below 1",
                field="prefixes",
            )


def prefix_latents(prefixes: tuple[float, ...], n_latents: int) -> tuple[int, ...]:
    """The latents of each prefix, of which those below 1 are fractions, at least one latent."""
    return tuple(
        max(1, round(prefix * n_latents)) if prefix < 1 else int(prefix) for prefix in prefixes
    )


ActivationName = Annotated[str, ACTIVATIONS]
"""An activation's name: one of this package's, or one that an installed package adds."""

DEFAULT_ACTIVATION = "topk"
_DEFAULT_EXPANSION = 8
_DEFAULT_K = 32


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Train an autoencoder on activations; the same command again resumes it exactly."""

    cache: FilePath | None = None
    """Folder of the activation cache. Without one, give `model` and `dataset`."""

    out: FilePath
    """Folder of the run: config.yaml, metrics.jsonl, checkpoints/ and, at the end, sae/."""

    site: str | None = None
    """Site to train on: of a cache needed only where it holds several; without a cache by default
    the residual after the middle layer."""

    target_site: str | None = None
    """Site of the cache to predict from `site`: this trains a transcoder, such as from
    blocks.15.hook_resid_mid to blocks.15.hook_mlp_out. None: an autoencoder, which reconstructs
    what it reads."""

    finetune: FilePath | None = None
    """Trained autoencoder to begin with, of this package or another library: its folder, a run, or
    what else `sparsteer import` takes. Activation, latents and prefixes are its own, and so are k,
    bandwidth and target scale where they are left out. None: random directions."""

    activation: ActivationName = DEFAULT_ACTIVATION
    """topk keeps k latents of every row, batch_topk k on average over the batch; top_afa lets each
    row choose how many; jumprelu learns a threshold for each latent."""

    n_latents: int | None = None
    """Latents in the dictionary; by default 8 times the width of the activations."""

    k: int | None = None
    """Latents that topk keeps of each row, batch_topk on average; by default 32. top_afa and
    jumprelu have none."""

    bandwidth: float | None = None
    """Width around a threshold in which pre-activations move it, in scaled units; only jumprelu has
    one, by default 0.2."""

    target_scale: float | None = None
    """Factor of the norm that top_afa aims at; only it has one, by default 1, as published. Less
    keeps fewer latents. With `target_l0` training finds it."""

    setting: tuple[str, ...] = ()
    """Settings without a flag of an activation that an installed package adds, each NAME=VALUE; see
    docs/extending.md."""

    prefixes: tuple[float, ...] = ()
    """Nested dictionaries (Matryoshka): rising numbers of latents, or fractions of them below 1,
    that must reconstruct alone, too; the whole is always added."""

    lista_step: float = 0.0
    """Step size of one LISTA step of the encoder, such as 0.3: it reads each row a second time,
    with so much of what the first codes missed added. Part of the autoencoder; training and
    encoding take twice as long. 0: none."""

    track: Tracking | None = None
    """Tracker that gets the figures too; metrics.jsonl is always written. With WANDB_MODE=offline
    wandb needs no account."""

    stream: StreamConfig = field(default_factory=StreamConfig)

    trainer: TrainerConfig = field(default_factory=TrainerConfig)

    def __post_init__(self) -> None:
        self.stream.require_source(self.cache)
        if self.target_site is not None:
            require_other_site(self.site, self.target_site)
            if self.cache is None:
                raise InputError(
                    f"target_site is {self.target_site}, but a stream is of one site; write a "
                    "cache of both sites with `sparsteer cache` and give it",
                    field="target_site",
                )
        own = _fields(config_class(ACTIVATIONS.require(self.activation)))
        for name in autoencoder_settings():
            if name not in own and (value := getattr(self, name)) is not None:
                having = " or ".join(activations_with(name))
                raise InputError(
                    f"{name} is {value}, but {self.activation} has none; leave it out, or choose "
                    f"activation {having}",
                    field=name,
                )
        require_tuple("setting", self.setting)
        self._without_flag()
        require_prefixes(self.prefixes)
        for name in ("n_latents", "k"):
            if getattr(self, name) is not None:
                require_positive_integer(name, getattr(self, name))

    def sae_config(self, d_model: int) -> SAEConfig:
        """The autoencoder's configuration for activations of the width.

        Raises:
            InputError: the settings do not suit the autoencoder or its training.
        """
        config = self._sae_config(d_model)
        require_memory(
            2 * 4 * config.d_model * config.n_latents,  # encoder and decoder in float32
            f"n_latents is {config.n_latents}, whose weights take",
            "lower n_latents",
            field="n_latents",
        )
        self.trainer.validate_for(config)
        return config

    def latents_at(self, d_model: int) -> int:
        """Latents of the dictionary for activations of the width."""
        return self.n_latents or _DEFAULT_EXPANSION * d_model

    def _sae_config(self, d_model: int) -> SAEConfig:
        n_latents = self.latents_at(d_model)
        prefixes = prefix_latents(self.prefixes, n_latents)
        chosen = config_class(self.activation)
        own = _fields(chosen) - _fields(SAEConfig)
        given = {name: getattr(self, name) for name in autoencoder_settings() if name in own}
        given = {name: value for name, value in given.items() if value is not None}
        if any(
            f.name == "k" and f.default is dataclasses.MISSING for f in dataclasses.fields(chosen)
        ):
            given.setdefault("k", _DEFAULT_K)
        given |= scale_settings(chosen, self.trainer.target_l0, self.target_scale)
        given |= self._without_flag()
        common: Any = {
            "prefixes": prefixes,
            "transcoder": self.target_site is not None,
            "lista_step": self.lista_step,
        }
        return chosen(d_model, n_latents, **given, **common)

    def _without_flag(self) -> dict[str, Any]:
        """The values of `setting`, for fields of the activation that have no flag."""
        chosen = config_class(self.activation)
        free = _fields(chosen) - _fields(SAEConfig) - _fields(TrainConfig)
        kinds = {
            name: kind
            for name, kind in get_type_hints(chosen).items()
            if name in free and kind in (int, float, bool, str)
        }
        return read_named_values("setting", self.setting, kinds, of=self.activation)


def autoencoder_settings() -> list[str]:
    """The flags whose values are part of the autoencoder's own configuration, if perhaps only with
    some activations."""
    names = [field.name for field in dataclasses.fields(TrainConfig)]
    return [name for name in names if name in _fields(SAEConfig) or activations_with(name)]


def _fields(kind: type[Any]) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


def require_other_site(site: str | None, target_site: str) -> None:
    """Raise an InputError if a transcoder would predict what it reads."""
    if site == target_site:
        raise InputError(
            f"target_site is {target_site}, the site that is read; give another one to predict, or "
            "leave it out to train an autoencoder",
            field="target_site",
        )
