"""Reconstruction loss of given codes, whose backward pass gives all weight gradients at once.

With d = gradient of a kept value, from this loss and from any other (0 in unused slots), and
r = gradient of the reconstruction, one pass over the slots sorted by latent takes
    dW_dec[f] = sum of value * r_b,  dW_enc[f] = sum of d * (x_b - b_dec),  db_enc[f] = sum of d,
and b_dec, which the encoder subtracts and the decoder adds, gets sum of r - db_enc @ W_enc.
"""

from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor

from .codes import Codes
from .decode import compare, require_comparable
from .optimizer import SquareSums
from .policy import backend_of
from .slots import used_slots
from .sparse_products import autoencoder_gradients, gradients_with_dots


class Autoencoding(NamedTuple):
    """What `autoencoder_mse` returns."""

    loss: Float[Tensor, ""]
    """Mean over rows and dimensions of (x_hat - x)^2."""
    x_hat: Float[Tensor, "B D"]
    """Detached."""
    codes: Codes
    """The given ones; their values carry gradients."""


def autoencoder_mse(
    codes: Codes,
    x: Float[Tensor, "B D"],
    b_dec: Float[Tensor, "D"],
    W_enc: Float[Tensor, "F D"],
    b_enc: Float[Tensor, "F"],
    W_dec: Float[Tensor, "F D"],
    *,
    squares: SquareSums | None = None,
) -> Autoencoding:
    """Decode and compare with the rows that were encoded.

    Args:
        codes: the choice of these rows' latents and their values max(0, (x - b_dec) . W_enc[f] +
            b_enc[f]), without a gradient.
        x: [B, D] the rows, without a gradient.
        b_dec, W_enc, b_enc, W_dec: the autoencoder.
        squares: may get the sums of squares of the weights' gradients, for `gradient_norm`.

    Returns:
        The mean squared error, differentiable with respect to the four weights; so are the values
        of the codes, for further losses. The choice of latents carries no gradient.

    Raises:
        ValueError: the widths differ, x wants a gradient, or W_dec is float16 and gradients are
            enabled.
    """
    require_comparable(W_dec, b_dec, x)
    out = _AutoencoderMSE.apply(codes.indices, codes.values, x, b_dec, W_enc, b_enc, W_dec, squares)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - autograd.Function is untyped
    loss, x_hat, values = cast(tuple[Tensor, Tensor, Tensor], out)
    return Autoencoding(loss, x_hat, codes._replace(values=values))


class _AutoencoderMSE(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        indices_BM: Tensor,
        values_BM: Tensor,
        x_BD: Tensor,
        b_dec_D: Tensor,
        W_enc_FD: Tensor,
        b_enc_F: Tensor,
        W_dec_FD: Tensor,
        squares: SquareSums | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        used = used_slots(values_BM > 0, backend_of(values_BM))
        loss, x_hat_BD, residual_BD, grad_values_BM = compare(
            indices_BM, values_BM, W_dec_FD, b_dec_D, x_BD, used, for_values=False
        )
        # Where the values' gradient is left for later, the decoder takes its place.
        later = W_dec_FD if grad_values_BM is None else None
        ctx.save_for_backward(
            indices_BM, values_BM, residual_BD, grad_values_BM, x_BD, b_dec_D, W_enc_FD, later
        )
        ctx.squares = squares
        ctx.mark_non_differentiable(x_hat_BD)
        ctx.set_materialize_grads(False)
        return loss, x_hat_BD, values_BM.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator drops names
        ctx: Any, grad_loss: Tensor | None, _: None, further_BM: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        indices_BM, values_BM, residual_BD, grad_values_BM, x_BD, b_dec_D, W_enc_FD, W_dec_FD = (
            ctx.saved_tensors
        )
        scale = values_BM.new_zeros(()) if grad_loss is None else grad_loss
        centered_BD = x_BD - b_dec_D
        if grad_values_BM is None:
            grad_W_dec, grad_W_enc, grad_b_enc = gradients_with_dots(
                indices_BM,
                values_BM,
                further_BM,
                scale,
                residual_BD,
                centered_BD,
                W_dec_FD,
                ctx.squares,
            )
        else:
            grad_BM = scale * grad_values_BM
            if further_BM is not None:
                grad_BM += further_BM
            # The scale waits on the device: the small factor scales the values, not the result.
            grad_W_dec, grad_W_enc, grad_b_enc = autoencoder_gradients(
                indices_BM,
                scale * values_BM,
                grad_BM.masked_fill_(values_BM <= 0, 0),
                residual_BD,
                centered_BD,
                len(W_enc_FD),
            )
        grad_b_dec = scale * residual_BD.sum(0) - grad_b_enc.to(W_enc_FD.dtype) @ W_enc_FD
        return None, None, None, grad_b_dec, grad_W_enc, grad_b_enc, grad_W_dec, None
