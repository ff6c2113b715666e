"""An activation for `measure_error_matching.py`: every row is rebuilt equally well.

Of a row's latents, largest first, it keeps the shortest prefix whose reconstruction misses no more
than a fraction of the row: ||x - b_dec - sum of kept|| <= fraction * ||x - b_dec||. The fraction is
one for all rows; training leads it to the one with which rows keep `target_l0` latents on average.
For a CPU alone.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparsteer.kernels.codes import Codes
from sparsteer.kernels.compiled import compiled, over_rows
from sparsteer.kernels.encode import encode_topk
from sparsteer.kernels.numerics import row_norms
from sparsteer.sae import SAEConfig, SparseAutoencoder
from sparsteer.sae.activations.base import Activation, Ranks
from sparsteer.sae.common.validation import require_positive_integer

_PACE = 0.05
"""By how much log(fraction) moves in a step for each unit of log(L0 / target)."""
_LEAST, _MOST = 1e-3, 0.95
"""Between which the fraction is; with 1 every row would keep one latent."""


@dataclass(frozen=True)
class ErrorMatchedConfig(SAEConfig):
    """An autoencoder whose rows keep as many latents as it takes to rebuild a part of them."""

    activation: ClassVar[str] = "error_matched"
    training_settings: ClassVar[tuple[str, ...]] = ("target_l0",)

    most: int = dataclasses.field(default=256, kw_only=True)
    """Latents that a row keeps at most. One that misses more with each of its prefixes keeps the
    prefix that misses least."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive_integer("most", self.most)


class ErrorMatched(Activation[ErrorMatchedConfig]):
    """The shortest prefix of a row's sorted latents that misses `sae.error_fraction` of the row."""

    config_class = ErrorMatchedConfig
    keeps_pre_activations: ClassVar[bool] = True
    values_are_pre_activations: ClassVar[bool] = True

    def state(self) -> dict[str, Tensor]:
        return {"error_fraction": torch.full((), 0.5)}

    @torch.no_grad()
    def initialize(
        self, sae: SparseAutoencoder, x_ND: Float[Tensor, "N D"], settings: Mapping[str, Any]
    ) -> None:
        """Set the fraction to what a row in the middle misses with `target_l0` latents."""
        rows_ND = sae.scaled(x_ND)
        k = min(settings["target_l0"], self.config.n_latents)
        codes = encode_topk(rows_ND, sae.center, sae.W_enc, sae.b_enc, k)
        missed_N = row_norms(rows_ND - sae.decode_scaled(codes))
        part_N = missed_N / row_norms(rows_ND - sae.center)
        sae.get_buffer("error_fraction").copy_(part_N.median().clamp(_LEAST, _MOST))

    def encode(self, sae: SparseAutoencoder, x_BD: Float[Tensor, "B D"]) -> Codes:
        most = min(self.config.most, self.config.n_latents)
        candidates = encode_topk(x_BD, sae.center, sae.W_enc, sae.b_enc, most)
        order_BM = candidates.values.argsort(dim=-1, descending=True, stable=True)
        indices_BM = candidates.indices.gather(-1, order_BM)
        values_BM = candidates.values.gather(-1, order_BM)
        rows_BD, W_dec = (x_BD - sae.center).detach(), sae.W_dec.detach()
        counts_B = shortest_prefixes(
            rows_BD, indices_BM, values_BM.detach(), W_dec, float(sae.get_buffer("error_fraction"))
        )
        width = int(counts_B.max()) if len(counts_B) else 1
        used_BM = torch.arange(width) < counts_B[:, None]
        values_BM = values_BM[:, :width] * used_BM
        indices_BM = indices_BM[:, :width].masked_fill(values_BM == 0, 0)
        return Codes(indices_BM, values_BM, counts_B)

    @torch.no_grad()
    def after_step(
        self, sae: SparseAutoencoder, codes: Codes, settings: Mapping[str, Any], ranks: Ranks
    ) -> None:
        fraction = sae.get_buffer("error_fraction")
        n_active = (codes.values > 0).sum().to(fraction.dtype)
        l0 = ranks.all_reduce_mean(n_active / len(codes.values))
        too_many = (l0 / settings["target_l0"]).log().clamp(-1, 1)
        fraction.mul_((_PACE * too_many).exp()).clamp_(_LEAST, _MOST)


def shortest_prefixes(
    rows_BD: Float[Tensor, "B D"],
    indices_BM: Int[Tensor, "B M"],
    values_BM: Float[Tensor, "B M"],
    W_dec_FD: Float[Tensor, "F D"],
    fraction: float,
) -> Int[Tensor, "B"]:
    """Of each row how many slots, from the first on, rebuild it but for the fraction of its norm;
    where none do, how many come nearest. At least 1."""
    counts_B = torch.ones(len(rows_BD), dtype=torch.int64)
    arrays = [tensor.contiguous().numpy() for tensor in (rows_BD, indices_BM, values_BM, W_dec_FD)]
    over_rows(_count, len(rows_BD), *arrays, fraction, counts_B.numpy())
    return counts_B


@compiled
def _count(
    start: int,
    stop: int,
    rows_BD: npt.NDArray[np.floating],
    indices_BM: npt.NDArray[np.int64],
    values_BM: npt.NDArray[np.floating],
    W_dec_FD: npt.NDArray[np.floating],
    fraction: float,
    counts_B: npt.NDArray[np.int64],  # (out)
) -> None:
    missed_D = np.empty(rows_BD.shape[1], rows_BD.dtype)
    for b in range(start, stop):
        square = 0.0
        for j in range(len(missed_D)):
            missed_D[j] = rows_BD[b, j]
            square += missed_D[j] * missed_D[j]
        goal, least = fraction * fraction * square, np.inf
        for n in range(values_BM.shape[1]):
            value = values_BM[b, n]
            if not value > 0:
                break
            latent, left = indices_BM[b, n], 0.0
            for j in range(len(missed_D)):
                missed_D[j] -= value * W_dec_FD[latent, j]
                left += missed_D[j] * missed_D[j]
            if left < least:
                least = left
                counts_B[b] = n + 1
            if left <= goal:
                break
