"""What training estimates from the data before the first step: scales and centers."""

import torch
from jaxtyping import Float
from torch import Tensor

from ..kernels.decode import decode
from ..kernels.encode import encode_topk
from ..kernels.numerics import row_norms
from ..kernels.optimizer import normalize_rows_
from ..sae.autoencoder import SparseAutoencoder
from ..sae.common.errors import InputError

_USUAL_L0 = 32
"""Active latents of a row that an activation without k is scaled for."""
_LEAST_FACTOR = 0.01
"""Of a transcoder's encoder, should nothing of the target be found in the sample."""
_TINY = torch.finfo(torch.float64).tiny


def initialize_from_rows(
    sae: SparseAutoencoder,
    x: Float[Tensor, "N D"],
    target: Float[Tensor, "N D"] | None = None,
) -> None:
    """Set scales and centers from a sample of raw activations, in place.

    A center is the geometric median of the rows, which a few huge rows hardly move; the scale makes
    the mean squared norm of rows less their center D. About zero, a mean far from it would leave
    little of the variance to a loss in scaled units. b_dec stays as it is, 0 at first.

    Of a transcoder each side gets both. The decoder row of a latent becomes the direction in which
    the target varies with what the latent reads, and all encoder rows are scaled by one factor,
    with which the predictions of the sample fit best; from random directions of norm 1 the
    predictions would be worse than none for many steps.

    Args:
        x: [N, D] rows that are read.
        target: [N, D] what a transcoder predicts from them; of an autoencoder None.

    Raises:
        InputError: the sample holds NaN or infinity, or nothing but one row again and again.
        ValueError: a transcoder has no target, or an autoencoder one.
    """
    sae.require_target(target)
    with torch.no_grad():
        sides = [(x, sae.input_scale, sae.input_center)]
        if target is not None:
            sides.append((target, sae.output_scale, sae.output_center))
        for rows, scale, center in sides:
            set_scale_and_center(rows, scale, center)
        if target is not None:
            device = sae.W_enc.device
            _align(sae, sae.scaled(x.to(device)), sae.scaled_target(target.to(device)))


@torch.no_grad()
def set_scale_and_center(
    rows: Float[Tensor, "N D"], scale: Float[Tensor, ""], center: Float[Tensor, "D"]
) -> None:
    """Estimate one side's scale and center from a sample, in place; see `initialize_from_rows`."""
    rows_ND = rows.to(center.device).double()
    _require_finite(rows_ND)
    # Of rows all alike rounding would leave a tiny norm, and the scale would be enormous.
    if (rows_ND == rows_ND[0]).all():
        raise InputError(
            f"the first {len(rows)} rows of activations are all alike; cache another site"
        )
    median_D = geometric_median(rows_ND)
    mean_square = (rows_ND - median_D).square().sum(-1).mean()
    scale.copy_((rows_ND.shape[1] / mean_square).sqrt())
    center.copy_(median_D * scale)


def is_initialized(sae: SparseAutoencoder) -> bool:
    """Whether scale or center were estimated, or biases learned, since the autoencoder was made."""
    learned = (sae.input_center, sae.b_dec, sae.b_enc)
    return float(sae.input_scale) != 1 or any(bool(tensor.any()) for tensor in learned)


def _align(sae: SparseAutoencoder, x: Float[Tensor, "N D"], target: Float[Tensor, "N D"]) -> None:
    """Give a transcoder's latents decoder rows, and all encoder rows the factor, that suit a sample
    in scaled units."""
    varying_ND = target - target.mean(0)
    sae.W_dec.copy_(normalize_rows_(sae.W_enc @ (x.T @ varying_ND)))
    k = min(sae.config.latents_of_row or _USUAL_L0, sae.config.n_latents)
    codes = encode_topk(x, sae.center, sae.W_enc, sae.b_enc, k)
    predicted_ND = decode(codes, sae.W_dec, torch.zeros_like(sae.b_dec))
    predicted_ND -= predicted_ND.mean(0)
    # Row by row first: the bits of a sum over all values at once depend on the number of threads.
    power = predicted_ND.square().sum(-1).double().sum()
    factor = (predicted_ND * varying_ND).sum(-1).double().sum() / power.clamp(min=_TINY)
    sae.W_enc.mul_(factor.clamp(min=_LEAST_FACTOR, max=1.0).to(sae.W_enc))


def _require_finite(x: Float[Tensor, "N D"]) -> None:
    if bad := int((~x.isfinite().all(-1)).sum()):
        raise InputError(
            f"{bad} of the first {len(x)} rows of activations are not finite; cache them again, "
            "with --dtype bfloat16 or float32 if the model's own are finite"
        )


def geometric_median(
    x: Float[Tensor, "N D"], *, tolerance: float = 1e-6, max_steps: int = 200
) -> Float[Tensor, "D"]:
    """The point with the least sum of distances to the rows, by Weiszfeld's iteration.

    Stops when a step moves it by less than `tolerance` of the rows' spread.
    """
    median_D = x.mean(0)
    spread = row_norms(x - median_D).mean()
    for _ in range(max_steps):
        distance_N = row_norms(x - median_D).clamp(min=1e-12 * (1 + float(spread)))
        weight_N = 1 / distance_N
        moved_D = (weight_N @ x) / weight_N.sum()
        shift = row_norms(moved_D - median_D)
        median_D = moved_D
        if shift <= tolerance * spread:
            break
    return median_D
