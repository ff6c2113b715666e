"""How alike two autoencoders of one dictionary encode, such as one and its copy in int8."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...kernels.codes import Codes
from ...sae.autoencoder import SparseAutoencoder

_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class CodeAgreement:
    """How the codes of the second of two autoencoders differ from those of the first."""

    rows: int
    l0: float
    """Mean number of active latents of a row, of the first."""
    l0_other: float
    shared: float
    """Mean over rows of the latents active in both, as a fraction of those active in either."""
    shared_standard_error: float
    """Of that mean, rows taken as independent."""
    value_error: float
    """Norm of the difference of all codes over the norm of the first's; 0 is no difference."""
    reconstruction_error: float
    """Norm of the difference of the two reconstructions over that of the rows less their mean."""


@torch.no_grad()
def code_agreement(
    sae: SparseAutoencoder, other: SparseAutoencoder, rows_ND: Float[Tensor, "N D"]
) -> CodeAgreement:
    """Compare the codes and reconstructions of raw activations.

    Args:
        sae: the one that the other is held against.
        other: an autoencoder of as many latents, in the same order.
        rows_ND: at least two raw activations, on the device of both.

    Raises:
        ValueError: they have not the same sizes, or there are fewer than two rows.
    """
    if (sae.config.n_latents, sae.config.d_model) != (other.config.n_latents, other.config.d_model):
        raise ValueError("the autoencoders have not the same sizes; give two of one dictionary")
    if len(rows_ND) < 2:
        raise ValueError(f"there is {len(rows_ND)} row; give at least two")
    shares: list[np.ndarray] = []
    active = np.zeros(2)
    squares = {"code": 0.0, "difference": 0.0, "reconstruction": 0.0, "row": 0.0}
    mean_D = rows_ND.double().mean(0)
    for block_BD in torch.split(rows_ND, _ROWS_AT_ONCE):
        codes, others = sae.encode(block_BD), other.encode(block_BD)
        keys, values = _flat(codes, sae.config.n_latents)
        other_keys, other_values = _flat(others, sae.config.n_latents)
        _, here, there = np.intersect1d(keys, other_keys, assume_unique=True, return_indices=True)
        n_rows, F = len(block_BD), sae.config.n_latents
        both_B, first_B, second_B = (
            np.bincount(found // F, minlength=n_rows) for found in (keys[here], keys, other_keys)
        )
        shares.append(both_B / np.maximum(first_B + second_B - both_B, 1))
        shares[-1][first_B + second_B == 0] = 1.0
        active += (first_B.sum(), second_B.sum())
        # Latents active in one alone differ by all of their activation.
        both = float(np.square(values[here] - other_values[there]).sum())
        alone = float(np.square(values).sum() - np.square(values[here]).sum())
        added = float(np.square(other_values).sum() - np.square(other_values[there]).sum())
        squares["difference"] += both + alone + added
        squares["code"] += float(np.square(values).sum())
        apart_BD = sae.reconstruct(block_BD, codes) - other.reconstruct(block_BD, others)
        squares["reconstruction"] += float(apart_BD.double().square().sum())
        squares["row"] += float((block_BD.double() - mean_D).square().sum())
    shared_N = np.concatenate(shares)
    l0, l0_other = (active / len(rows_ND)).tolist()
    return CodeAgreement(
        rows=len(rows_ND),
        l0=l0,
        l0_other=l0_other,
        shared=float(shared_N.mean()),
        shared_standard_error=float(shared_N.std(ddof=1)) / math.sqrt(len(shared_N)),
        value_error=_ratio(squares["difference"], squares["code"]),
        reconstruction_error=_ratio(squares["reconstruction"], squares["row"]),
    )


def _flat(codes: Codes, n_latents: int) -> tuple[np.ndarray, np.ndarray]:
    """Row times F plus latent of each active latent, and its activation in float64."""
    used_BM = codes.values > 0
    rows_BM = torch.arange(len(codes.values), device=used_BM.device)[:, None]
    keys = (rows_BM * n_latents + codes.indices)[used_BM]
    return keys.cpu().numpy(), codes.values[used_BM].double().cpu().numpy()


def _ratio(squares: float, of: float) -> float:
    """The square root of a quotient; 0 where both are 0."""
    return math.sqrt(max(squares, 0.0) / of) if of else 0.0 if not squares else math.inf
