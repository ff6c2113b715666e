"""Dictionaries that nobody trained, to compare trained ones with: PCA, random directions, raw.

Each is an ordinary `SparseAutoencoder`, so that every measure reads it as it reads a trained one.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...kernels.decode import decode
from ...kernels.encode import encode_topk
from ...sae.autoencoder import SparseAutoencoder
from ...sae.common.validation import require_choice, require_positive_integer
from ...sae.config import Origin, ReLUConfig, SAEConfig, TopKConfig
from ..initialize import initialize_from_rows
from .config import BASELINES

_ROWS_AT_ONCE = 4096
_SCALED_BY = 16_384
"""Rows by which scale and center are estimated: as many as training takes."""


def baseline(
    kind: str,
    rows_ND: Float[Tensor, "N D"],
    *,
    l0: int = 32,
    n_latents: int | None = None,
    seed: int = 0,
    origin: Origin | None = None,
) -> SparseAutoencoder:
    """A dictionary to compare with, fitted to training rows.

    - `pca`: 2 D latents, each principal component with both signs; a row keeps the l0 largest,
      the best code of so many entries that the components allow. At most D can be positive.
    - `random`: unit directions drawn from `seed`; a row keeps the l0 largest. The encoder's rows
      are those of the decoder times one factor, with which the rows are rebuilt best: directions
      that are not at right angles would otherwise add up to far more than the row.
    - `raw`: 2 D latents, each coordinate with both signs, all kept: the activation itself, at an L0
      of about D and an FVU of 0.

    All have scale and center as training estimates them (`initialize_from_rows`); that of PCA is
    the mean row, in b_dec.

    Args:
        kind: pca, random or raw.
        rows_ND: raw training rows.
        l0: latents kept of a row, of pca and random.
        n_latents: of random; by default 8 D, at least l0.
        seed: of random.
        origin: where the rows are from.

    Raises:
        InputError: kind is unknown, a size is below 1, or the rows are not finite or all alike.
    """
    require_choice("kind", kind, BASELINES)
    require_positive_integer("l0", l0)
    width = rows_ND.shape[1]
    config: SAEConfig
    if kind == "raw":
        config = ReLUConfig(width, 2 * width)
    elif kind == "pca":
        config = TopKConfig(width, 2 * width, min(l0, 2 * width))
    else:
        config = TopKConfig(width, n_latents or max(8 * width, l0), l0)
    sae = SparseAutoencoder(config, seed=seed, origin=origin).to(rows_ND.device)
    initialize_from_rows(sae, rows_ND[:_SCALED_BY])
    with torch.no_grad():
        if kind == "random":
            sae.W_enc.mul_(_best_factor(sae, rows_ND, l0))
        else:
            directions_DD = torch.eye(width, dtype=torch.float64)
            if kind == "pca":
                mean_D, directions_DD = principal_components(sae, rows_ND)
                sae.b_dec.copy_(mean_D)
            both_FD = torch.cat([directions_DD, -directions_DD])
            sae.W_dec.copy_(both_FD)
            sae.W_enc.copy_(both_FD)
    return sae


@torch.no_grad()
def principal_components(
    sae: SparseAutoencoder, rows_ND: Float[Tensor, "N D"]
) -> tuple[Float[Tensor, "D"], Float[Tensor, "D D"]]:
    """Mean and principal components of rows in the autoencoder's scaled units, float64.

    By the eigenvectors of the covariance; the component of most variance comes first, and the
    largest entry of each is positive.
    """
    parts = [sae.scaled(part_BD).double() for part_BD in torch.split(rows_ND, _ROWS_AT_ONCE)]
    mean_D = torch.stack([part_BD.sum(0) for part_BD in parts]).sum(0) / len(rows_ND)
    covariance_DD = torch.zeros(len(mean_D), len(mean_D), dtype=torch.float64, device=mean_D.device)
    for part_BD in parts:
        centered_BD = part_BD - mean_D
        covariance_DD += centered_BD.T @ centered_BD
    linalg: Any = torch.linalg  # torch leaves the type of its result open
    columns_DD: Tensor = linalg.eigh((covariance_DD / len(rows_ND)).cpu())[1]
    components_DD = columns_DD.T.flip(0)
    largest_D1 = components_DD.abs().argmax(1, keepdim=True)
    return mean_D.cpu(), components_DD * components_DD.gather(1, largest_D1).sign()


def _best_factor(sae: SparseAutoencoder, rows_ND: Float[Tensor, "N D"], l0: int) -> float:
    """The multiple of its reconstructions, without b_dec, that is nearest the rows."""
    fits = power = 0.0
    for part_BD in torch.split(rows_ND, _ROWS_AT_ONCE):
        x_BD = sae.scaled(part_BD)
        codes = encode_topk(x_BD, sae.b_dec, sae.W_enc, sae.b_enc, l0)
        rebuilt_BD = decode(codes, sae.W_dec, sae.b_dec).double()
        fits += float((rebuilt_BD * x_BD).sum())
        power += float(rebuilt_BD.square().sum())
    return fits / power if power else 1.0


@torch.no_grad()
def mean_l0(saes: Sequence[SparseAutoencoder], rows_ND: Float[Tensor, "N D"]) -> list[float]:
    """The mean number of latents that are active on raw rows, of each autoencoder."""
    found: list[float] = []
    for sae in saes:
        active = 0
        for part_BD in torch.split(rows_ND, _ROWS_AT_ONCE):
            active += int((sae.encode(part_BD.to(sae.W_dec.device)).values > 0).sum())
        found.append(active / len(rows_ND))
    return found
