"""jumprelu: each latent has a threshold of its own, learned by a straight-through gradient
(arXiv 2407.14435), and a loss that leads the number of active latents to a target."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...kernels.codes import Codes
from ...kernels.encode import encode_batch_topk
from ...kernels.jumprelu import encode_jumprelu
from ...kernels.process_group import ProcessGroup
from ..autoencoder import SparseAutoencoder
from ..common.errors import InputError
from ..config import JumpReLUConfig
from ..losses import ForwardPass, Mean, WeightedTerm, in_float32, own_mean
from .base import Activation


class JumpReLU(Activation[JumpReLUConfig]):
    """The latents above their thresholds, which are exp(sqrt(D) * `sae.threshold_exponent`), or
    `sae.threshold` where they are fixed.

    The exponential keeps them positive and moves small and large ones at one relative pace; Adam
    changes every parameter by about the learning rate, which is 1 / sqrt(D) of a weight in a unit
    row, so without the factor thresholds would lag far behind the weights.
    """

    config_class = JumpReLUConfig
    values_are_pre_activations: ClassVar[bool] = True
    n_code_parts: ClassVar[int] = 2

    def state(self) -> dict[str, Tensor]:
        if self.config.fixed_thresholds:
            return {"threshold": torch.zeros(self.config.n_latents)}
        return {"threshold_exponent": nn.Parameter(torch.zeros(self.config.n_latents))}

    def encode(self, sae: SparseAutoencoder, x_BD: Float[Tensor, "B D"]) -> Codes:
        return encode_jumprelu(x_BD, sae.center, sae.W_enc, sae.b_enc, self.thresholds(sae))

    def encode_train(
        self,
        sae: SparseAutoencoder,
        x_BD: Float[Tensor, "B D"],
        k: int | None = None,
        group: ProcessGroup | None = None,
    ) -> Codes:
        """The codes have `l0_gate`, too, and the slots that move the thresholds."""
        thresholds_F, bandwidth = self.thresholds(sae), self.config.bandwidth
        weights = sae.center, sae.W_enc, sae.b_enc
        return encode_jumprelu(x_BD, *weights, thresholds_F, bandwidth, self.capacity)

    @torch.no_grad()
    def initialize(
        self, sae: SparseAutoencoder, x_ND: Float[Tensor, "N D"], settings: Mapping[str, Any]
    ) -> None:
        """Set all thresholds to the one value at which `target_l0` latents of a row are active.

        From far away the straight-through gradient, which sees only what is near a threshold, would
        be a poor guide.
        """
        scaled_ND = sae.scaled(x_ND.to(sae.W_enc.device))
        k = min(settings["target_l0"], self.config.n_latents)
        values = encode_batch_topk(scaled_ND, sae.center, sae.W_enc, sae.b_enc, k).values
        least = torch.where(values > 0, values, torch.inf).amin()
        if least.isfinite():
            set_thresholds(sae, least.expand(self.config.n_latents))

    def loss_terms(self, settings: Mapping[str, Any]) -> Sequence[WeightedTerm]:
        losses = {"step": l0_loss, "tanh": tanh_loss, "quadratic": quadratic_l0_loss}
        loss = losses[settings["sparsity"]]

        def distance_from_target(forward: ForwardPass) -> Float[Tensor, ""]:
            return loss(forward.codes, settings["target_l0"], forward.mean)

        return [WeightedTerm("sparsity", settings["sparsity_coefficient"], distance_from_target)]

    def thresholds(self, sae: SparseAutoencoder) -> Float[Tensor, "F"]:
        if self.config.fixed_thresholds:
            return sae.get_buffer("threshold")
        return (self.config.d_model**0.5 * sae.get_parameter("threshold_exponent")).exp()

    def saelens(self, sae: SparseAutoencoder) -> tuple[dict[str, Any], dict[str, Tensor]]:
        return saelens_thresholds(sae)


@torch.no_grad()
def set_thresholds(sae: SparseAutoencoder, thresholds: Float[Tensor, "F"]) -> None:
    """Set the thresholds of a jumprelu autoencoder, which must be positive unless they are
    fixed."""
    config = sae.config
    if isinstance(config, JumpReLUConfig) and config.fixed_thresholds:
        sae.get_buffer("threshold").copy_(thresholds)
        return
    exponent_F = sae.get_parameter("threshold_exponent")
    exponent_F.copy_(thresholds.log() / sae.config.d_model**0.5)


def saelens_thresholds(sae: SparseAutoencoder) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What SAELens needs of an activation with thresholds, see `Activation.saelens`.

    Raises InputError if one is not positive, as before any training, unless they are fixed.
    """
    config = sae.config
    fixed = isinstance(config, JumpReLUConfig) and config.fixed_thresholds
    if not fixed and not sae.thresholds().min() > 0:
        raise InputError("the autoencoder has learned no threshold; train it first")
    thresholds_F = sae.thresholds() / sae.decoder_scale.double()
    return {"architecture": "jumprelu"}, {"threshold": thresholds_F}


def l0_loss(codes: Codes, target: int | float, mean: Mean = own_mean) -> Float[Tensor, ""]:
    """(L0 / target - 1)^2, with L0 the mean number of active latents of a row.

    Moves only the thresholds, through the gates (arXiv 2407.14435, with a target in place of a
    weight).

    Raises:
        ValueError: the codes have no l0_gate, which only jumprelu in training gives.
    """
    if codes.l0_gate is None:
        raise ValueError("the codes have no l0_gate; encode with jumprelu and a bandwidth")
    return (mean(in_float32(codes.l0_gate).sum(-1).mean()) / target - 1).square()


def quadratic_l0_loss(
    codes: Codes, target: int | float, mean: Mean = own_mean
) -> Float[Tensor, ""]:
    """Mean over rows of (L0 of the row / target - 1)^2: as `l0_loss`, but every row pays for its
    own distance, so that their numbers of latents differ less.

    Raises:
        ValueError: as of `l0_loss`.
    """
    if codes.l0_gate is None:
        raise ValueError("the codes have no l0_gate; encode with jumprelu and a bandwidth")
    return mean((in_float32(codes.l0_gate).sum(-1) / target - 1).square().mean())


def tanh_loss(codes: Codes, target: int | float, mean: Mean = own_mean) -> Float[Tensor, ""]:
    """(S / target - 1)^2, with S the mean over rows of the sum of tanh(4 * activation).

    S is a smooth L0, so this moves the weights, too (the tanh penalty of Anthropic's January 2025
    update, for unit decoder rows, here aimed at a target).
    """
    return (mean((4 * in_float32(codes.values)).tanh().sum(-1).mean()) / target - 1).square()
