"""An activation for `measure_error_matching.py`: top-AFA with a target of its own for every row.

top-AFA aims at one multiple of ||x - b_dec||. Here a row's target norm is predicted from its own
pre-activations: log(target) is linear in the logarithms of ||x - b_dec||, of the largest
pre-activation, and of the norms of the row's largest `target_l0` and `most` ones. The coefficients
follow the batches of training by least squares: what is predicted is the norm that the row's code
has where the batch's largest pre-activations share `target_l0` latents a row (batch-top-k). Of a
row's latents, largest first, it keeps the shortest prefix whose norm reaches the target, times a
factor that training leads to the wanted L0. No row depends on another once training is over. For a
CPU alone.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparsteer.kernels.codes import Codes
from sparsteer.kernels.encode import encode_topk
from sparsteer.kernels.numerics import row_norms
from sparsteer.sae import SAEConfig, SparseAutoencoder
from sparsteer.sae.activations.base import Activation, Ranks
from sparsteer.sae.common.validation import require_positive_integer

_STATISTICS = 5
_MEMORY = 0.98
"""What a step leaves of the sums that the coefficients come from."""
_RIDGE = 1e-4
"""Of the number of rows in those sums, on the diagonal."""
_PACE = 0.02
"""By how much log(factor) moves in a step for each unit of log(target / L0)."""


@dataclass(frozen=True)
class NormPredictedConfig(SAEConfig):
    """An autoencoder whose rows keep latents up to a norm that is predicted for each."""

    activation: ClassVar[str] = "norm_predicted"
    training_settings: ClassVar[tuple[str, ...]] = ("target_l0",)

    l0: int = dataclasses.field(default=64, kw_only=True)
    """How many of a row's largest pre-activations one of the norms is of."""
    most: int = dataclasses.field(default=256, kw_only=True)
    """Latents that a row keeps at most, and those whose norm is looked at."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive_integer("l0", self.l0)
        require_positive_integer("most", self.most)


class NormPredicted(Activation[NormPredictedConfig]):
    """The shortest prefix of a row's sorted latents whose norm reaches the predicted one."""

    config_class = NormPredictedConfig
    keeps_pre_activations: ClassVar[bool] = True
    values_are_pre_activations: ClassVar[bool] = True

    def state(self) -> dict[str, Tensor]:
        n = _STATISTICS
        return {
            "norm_coefficients": torch.zeros(n),
            "norm_products": torch.zeros(n, n),  # of the statistics with each other
            "norm_moments": torch.zeros(n),  # of the statistics with the logarithm of the norm
            "norm_factor": torch.ones(()),
        }

    @torch.no_grad()
    def initialize(
        self, sae: SparseAutoencoder, x_ND: Float[Tensor, "N D"], settings: Mapping[str, Any]
    ) -> None:
        """The coefficients of the sample, as of one batch."""
        rows_ND = sae.scaled(x_ND)
        self._follow(sae, *self._candidates(sae, rows_ND)[1:], settings["target_l0"])

    def encode(self, sae: SparseAutoencoder, x_BD: Float[Tensor, "B D"]) -> Codes:
        indices_BM, values_BM, statistics_BS = self._candidates(sae, x_BD)
        factor = sae.get_buffer("norm_factor")
        target_B = factor * (statistics_BS @ sae.get_buffer("norm_coefficients")).exp()
        counts_B = prefixes_reaching(values_BM.detach(), target_B)
        width = int(counts_B.max()) if len(counts_B) else 1
        values_BM = values_BM[:, :width] * (torch.arange(width) < counts_B[:, None])
        return Codes(indices_BM[:, :width].masked_fill(values_BM == 0, 0), values_BM, counts_B)

    def encode_train(
        self, sae: SparseAutoencoder, x_BD: Float[Tensor, "B D"], k: Any = None, group: Any = None
    ) -> Codes:
        with torch.no_grad():
            self._seen = self._candidates(sae, x_BD)[1:]
        return self.encode(sae, x_BD)

    @torch.no_grad()
    def after_step(
        self, sae: SparseAutoencoder, codes: Codes, settings: Mapping[str, Any], ranks: Ranks
    ) -> None:
        self._follow(sae, *self._seen, settings["target_l0"])
        factor = sae.get_buffer("norm_factor")
        l0 = (codes.values > 0).sum() / len(codes.values)
        too_few = (settings["target_l0"] / l0).log().clamp(-1, 1)
        factor.mul_((_PACE * too_few).exp()).clamp_(0.1, 10)

    def _candidates(
        self, sae: SparseAutoencoder, x_BD: Float[Tensor, "B D"]
    ) -> tuple[Int[Tensor, "B M"], Float[Tensor, "B M"], Float[Tensor, "B S"]]:
        """A row's largest pre-activations in falling order, and the logarithms of norms."""
        most = min(self.config.most, self.config.n_latents)
        codes = encode_topk(x_BD, sae.center, sae.W_enc, sae.b_enc, most)
        order_BM = codes.values.argsort(dim=-1, descending=True, stable=True)
        values_BM = codes.values.gather(-1, order_BM)
        found_BM = values_BM.detach()
        norms_BS = torch.stack(
            [
                row_norms((x_BD - sae.center).detach()),
                found_BM[:, 0],
                row_norms(found_BM[:, : self.config.l0]),
                row_norms(found_BM),
            ],
            dim=-1,
        )
        logs_BS = norms_BS.clamp(min=1e-6).log()
        ones_B1 = torch.ones(len(x_BD), 1)
        return codes.indices.gather(-1, order_BM), values_BM, torch.cat([ones_B1, logs_BS], -1)

    def _follow(
        self,
        sae: SparseAutoencoder,
        values_BM: Float[Tensor, "B M"],
        statistics_BS: Float[Tensor, "B S"],
        l0: int,
    ) -> None:
        """Take a batch into the sums, and the coefficients from these."""
        flat = values_BM.flatten()
        threshold = flat.topk(min(l0 * len(values_BM), len(flat))).values[-1]
        shared_B = row_norms(values_BM * (values_BM >= threshold))
        known_B = shared_B > 0  # a row with none of the batch's latents says nothing of its norm
        rows_BS, logs_B = statistics_BS[known_B], shared_B[known_B].log()
        products, moments = sae.get_buffer("norm_products"), sae.get_buffer("norm_moments")
        products.mul_(_MEMORY).add_(rows_BS.T @ rows_BS)
        moments.mul_(_MEMORY).add_(rows_BS.T @ logs_B)
        ridge = _RIDGE * products[0, 0] * torch.eye(_STATISTICS)
        solved = np.linalg.solve((products + ridge).double().numpy(), moments.double().numpy())
        sae.get_buffer("norm_coefficients").copy_(torch.tensor(solved))


def prefixes_reaching(
    values_BM: Float[Tensor, "B M"], target_B: Float[Tensor, "B"]
) -> Int[Tensor, "B"]:
    """Of each row how many of its falling values have at least the target's norm together; all
    that are above 0 where none do."""
    squares_BM = values_BM.square().cumsum(-1)
    too_few_B = (squares_BM < target_B.square()[:, None]).sum(-1)
    active_B = (values_BM > 0).sum(-1)
    return torch.minimum(too_few_B + 1, active_B.clamp(min=1))
