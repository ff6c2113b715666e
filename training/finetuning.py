"""Training that goes on from a trained autoencoder: its settings, its weights, its units."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from ..sae.activations.jumprelu import set_thresholds
from ..sae.activations.registry import ACTIVATIONS
from ..sae.autoencoder import SparseAutoencoder
from ..sae.common.errors import InputError
from ..sae.config import JumpReLUConfig, Origin, SAEConfig, TopAFAConfig
from ..sae.fingerprint import sae_fingerprint
from ..sae.interop.folding import encoder_biases
from .config import DEFAULT_ACTIVATION, TrainConfig, autoencoder_settings, prefix_latents
from .initialize import set_scale_and_center
from .unit_decoder_rows import with_unit_decoder_rows

FINGERPRINT = "finetune_fingerprint"
"""In config.yaml the hash of the autoencoder that a run began with."""

ORIGIN = "finetune_origin"
"""In config.yaml what that one had been trained on."""

_FAR = 4.0
"""Times the mean squared norm in scaled units that is worth a warning."""


@dataclass(frozen=True, eq=False)
class Start:
    """A trained autoencoder that training begins with.

    Attributes:
        sae: in the form in which training has autoencoders, see `trainable`.
        fingerprint: the hash of the autoencoder as it was read.
    """

    sae: SparseAutoencoder
    fingerprint: str

    def require_width(self, d_model: int) -> None:
        """Raise an InputError unless activations of the width are what it reads."""
        self.sae.require_width(
            d_model,
            "the data to train on",
            of="the autoencoder to begin with",
            remedy="give others",
        )

    @property
    def recorded(self) -> dict[str, str | None]:
        """What config.yaml says of it."""
        origin = self.sae.origin
        return {FINGERPRINT: self.fingerprint, ORIGIN: None if origin is None else _shown(origin)}


def read_start(config: TrainConfig) -> Start | None:
    """The autoencoder that `finetune` names; None without one.

    Raises InputError if it cannot be read, or not be trained.
    """
    if config.finetune is None:
        return None
    found = SparseAutoencoder.load(config.finetune)
    return Start(trainable(found, called=f"finetune: {config.finetune}"), sae_fingerprint(found))


@torch.no_grad()
def trainable(sae: SparseAutoencoder, *, called: str = "the autoencoder") -> SparseAutoencoder:
    """The autoencoder in the form in which training has those of its activation; codes and
    reconstructions are the same.

    One that was trained here comes back as it is. What another library trained gets an encoder that
    subtracts b_dec, and jumprelu thresholds that can be learned. Its units stay: rows are not
    scaled until `into_training_units` does it. Decoder rows get norm 1.

    Args:
        sae: the autoencoder, which is not changed.
        called: what to call it in an error.

    Raises:
        InputError: training here has no such autoencoders.
    """
    config = sae.config
    if config.activation not in ACTIVATIONS.names():
        trained = " or ".join(ACTIVATIONS.names())
        raise InputError(
            f"{called} is {config.activation}, which is not trained here; give one that is "
            f"{trained}",
            field="finetune",
        )
    if config.normalize_activations != "none" or config.skip:
        what = "has a skip connection" if config.skip else "normalizes every row"
        raise InputError(
            f"{called} {what}, as autoencoders that are trained here do not; give another one",
            field="finetune",
        )
    fixed = isinstance(config, JumpReLUConfig) and config.fixed_thresholds
    if fixed and not sae.thresholds().min() > 0:
        raise InputError(
            f"{called} has thresholds of 0, which cannot be learned; give one whose thresholds are "
            "positive",
            field="finetune",
        )
    sae = with_unit_decoder_rows(sae, called=called)
    plain = config.apply_b_dec_to_input or config.transcoder
    if plain and not fixed and not _learned_scale(config):
        return sae
    config = dataclasses.replace(sae.activation.described_config(sae), apply_b_dec_to_input=True)
    if isinstance(config, JumpReLUConfig):
        config = dataclasses.replace(config, fixed_thresholds=False)
    if isinstance(config, TopAFAConfig):
        config = dataclasses.replace(config, learned_scale=False)
    found = SparseAutoencoder(config, origin=sae.origin).to(sae.W_dec)
    own = found.state_dict()
    found.load_state_dict(own | {k: v for k, v in sae.state_dict().items() if k in own})
    if not plain:
        found.b_enc.copy_(encoder_biases(sae, subtracts_b_dec=True)["b_enc"])
    if fixed:
        set_thresholds(found, sae.thresholds())
    return found


def as_started(config: TrainConfig, start: SparseAutoencoder) -> TrainConfig:
    """The configuration with the settings of the autoencoder that training begins with.

    k, bandwidth and target scale may be given anew; what decides the shapes of the weights and how
    they are used must be the autoencoder's.

    Raises:
        InputError: a given setting contradicts the autoencoder.
    """
    if config.trainer.whitening:
        raise InputError(
            f"whitening is {config.trainer.whitening:g}, but an autoencoder to begin with reads "
            "rows that are not whitened; leave whitening out, or train without finetune",
            field="whitening",
        )
    source = start.config
    whole = config.n_latents or source.n_latents
    given = {
        "activation": config.activation if config.activation != DEFAULT_ACTIVATION else None,
        "n_latents": config.n_latents,
        "prefixes": prefix_latents(config.prefixes, whole) or None,
        "lista_step": config.lista_step or None,
    }
    for name, value in given.items():
        own = getattr(source, name)
        if value is not None and value != own:
            raise InputError(
                f"{name} is {_words(value)}, but {config.finetune} has {_words(own) or 'none'}; "
                "leave it out, or train without finetune",
                field=name,
            )
    if source.transcoder != (config.target_site is not None):
        remedy = "give the site that it predicts" if source.transcoder else "leave it out"
        raise InputError(
            f"target_site is {config.target_site}, but {config.finetune} is "
            f"{'a transcoder' if source.transcoder else 'an autoencoder'}; {remedy}",
            field="target_site",
        )
    taken = {
        name: getattr(source, name)
        for name in autoencoder_settings()
        if getattr(config, name) is None and hasattr(source, name)
    }
    if config.trainer.target_l0 is not None:
        taken.pop("target_scale", None)  # it is where the learned one begins
    prefixes = tuple(map(float, source.prefixes))
    setting = config.setting or _free_settings(source)
    return dataclasses.replace(
        config,
        **{**taken, "activation": source.activation, "prefixes": prefixes},
        lista_step=source.lista_step,
        setting=setting,
    )


@torch.no_grad()
def copy_weights(start: SparseAutoencoder, sae: SparseAutoencoder) -> None:
    """Give a new autoencoder of the same shapes the weights, thresholds, scales and centers of the
    one that training begins with.

    Args:
        start: as `trainable` gives it.
        sae: changed in place.
    """
    own, state = sae.state_dict(), start.state_dict()
    for name, tensor in own.items():
        if name in state:
            tensor.copy_(state[name])
    if isinstance(start.config, TopAFAConfig) and "target_scale" in own:
        own["target_scale"].fill_(start.config.target_scale)


@torch.no_grad()
def into_training_units(
    sae: SparseAutoencoder,
    x: Float[Tensor, "N D"],
    target: Float[Tensor, "N D"] | None = None,
) -> bool:
    """Let an autoencoder that takes raw rows scale and center them, as training expects; its
    reconstructions stay the same up to rounding.

    Weights of another library are for raw activations, whose norms may be hundreds: learning rate
    and clipping suit rows of mean squared norm D. One that scales its rows already is left as it
    is.

    Args:
        sae: as `trainable` gives it; changed in place.
        x: [N, D] a sample of raw activations that are read.
        target: [N, D] what a transcoder predicts from them; of an autoencoder None.

    Returns:
        Whether it was changed.

    Raises:
        InputError: the rows are not finite, or all alike.
        ValueError: a transcoder has no target, or an autoencoder one.
    """
    sae.require_target(target)
    if float(sae.input_scale) != 1 or bool(sae.input_center.any()):
        return False
    set_scale_and_center(x, sae.input_scale, sae.input_center)
    if target is not None:
        set_scale_and_center(target, sae.output_scale, sae.output_center)
    into, out_of = sae.input_scale.double(), sae.decoder_scale.double()
    shift_D = sae.input_center.double()
    if sae.config.transcoder:
        b_enc_F = out_of * (sae.b_enc.double() + sae.W_enc.double() @ (shift_D / into))
        sae.W_enc.copy_(sae.W_enc.double() * (out_of / into))
        shift_D = sae.output_center.double()
    else:  # b_dec, which the encoder subtracts, takes the center in
        b_enc_F = out_of * sae.b_enc.double()
    sae.b_enc.copy_(b_enc_F)
    sae.b_dec.copy_(out_of * sae.b_dec.double() - shift_D)
    if isinstance(sae.config, JumpReLUConfig):
        set_thresholds(sae, sae.thresholds().double() * out_of)
    elif "threshold" in sae.activation.state():
        sae.get_buffer("threshold").mul_(out_of)
    return True


def start_cautions(
    sae: SparseAutoencoder, x: Float[Tensor, "N D"], origin: Origin | None
) -> list[str]:
    """Sentences about what training goes on with that the autoencoder was not trained on.

    Args:
        sae: that is trained, with the origin of its new data.
        x: [N, D] a sample of them.
        origin: of the autoencoder that training begins with; None if unknown.
    """
    found: list[str] = []
    new = sae.origin
    if origin is not None and new is not None and _shown(origin) != _shown(new):
        found.append(f"the autoencoder was trained on {_shown(origin)}, and goes on {_shown(new)}")
    scaled_ND = sae.scaled(x.to(sae.W_enc.device)).double()
    times = float(scaled_ND.square().sum(-1).mean()) / sae.config.d_model
    if not 1 / _FAR < times < _FAR:
        found.append(
            f"rows have {times:.3g} times the mean squared norm that the autoencoder scales rows "
            "to; another site or model may need an autoencoder from the start"
        )
    return found


def say_start(config: TrainConfig, start: Start, say: Callable[[str], None]) -> None:
    """Say what a run begins with."""
    sae = start.sae
    say(
        f"training begins with {config.finetune}: {sae.config.activation}, "
        f"{sae.config.n_latents:,} latents; Adam begins anew"
    )


def _learned_scale(config: SAEConfig) -> bool:
    return isinstance(config, TopAFAConfig) and config.learned_scale


def _free_settings(source: SAEConfig) -> tuple[str, ...]:
    """Those of an installed package's activation that have no flag, as `--setting` takes them."""
    known = {*autoencoder_settings(), *(f.name for f in dataclasses.fields(SAEConfig))}
    known |= {"fixed_thresholds", "learned_scale"}
    return tuple(
        f"{field.name}={getattr(source, field.name)}"
        for field in dataclasses.fields(source)
        if field.name not in known
    )


def _shown(origin: Origin) -> str:
    target = "" if origin.target_site is None else f" to {origin.target_site}"
    return f"{origin.model} at {origin.site}{target}"


def _words(value: object) -> str:
    if not isinstance(value, tuple):
        return str(value)
    return ", ".join(map(str, cast(tuple[Any, ...], value)))
