"""The loss with all weight gradients at once equals encode, decode and compare one by one."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sparsteer.kernels.autoencode import autoencoder_mse
from sparsteer.kernels.codes import Codes
from sparsteer.kernels.decode import decode_mse
from sparsteer.kernels.encode import encode_batch_topk, encode_top_afa, encode_topk
from sparsteer.kernels.numerics import row_norms

Encode = Callable[[Tensor, Tensor, Tensor, Tensor], Codes]
NORMS = torch.linspace(0.5, 1.5, 50, dtype=torch.float64)
ENCODERS: dict[str, Encode] = {
    "top3": lambda x, b_dec, W_enc, b_enc: encode_topk(x, b_dec, W_enc, b_enc, 3),
    "top20": lambda x, b_dec, W_enc, b_enc: encode_topk(x, b_dec, W_enc, b_enc, 20),
    "batch_topk": lambda x, b_dec, W_enc, b_enc: encode_batch_topk(x, b_dec, W_enc, b_enc, 2),
    "top_afa": lambda x, b_dec, W_enc, b_enc: encode_top_afa(x, b_dec, W_enc, b_enc, NORMS),
}


def inputs(n_rows: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """x, b_dec, W_enc, b_enc and W_dec; some rows keep fewer latents than others."""

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64)

    x, b_dec, W_enc, W_dec = random(n_rows, 9), random(9), random(50, 9), random(50, 9)
    b_enc = random(50) - 2
    for weights in (b_dec, W_enc, b_enc, W_dec):
        weights.requires_grad_()
    return x, b_dec, W_enc, b_enc, W_dec


@pytest.mark.parametrize("further", [0.0, 0.7], ids=["alone", "with-another-loss"])
@pytest.mark.parametrize("n_rows", [1, 37])
@pytest.mark.parametrize("encode", ENCODERS.values(), ids=ENCODERS)
def test_loss_and_gradients(encode: Encode, n_rows: int, further: float) -> None:
    x, b_dec, W_enc, b_enc, W_dec = inputs(n_rows)
    codes = encode(x, b_dec, W_enc, b_enc)
    want = decode_mse(codes, W_dec, b_dec, x)
    chosen = codes._replace(values=codes.values.detach())
    got = autoencoder_mse(chosen, x, b_dec, W_enc, b_enc, W_dec)
    assert torch.equal(got.loss, want.loss) and torch.equal(got.x_hat, want.x_hat)
    assert torch.equal(got.codes.dense(50), codes.dense(50)) and not got.x_hat.requires_grad
    weights = b_dec, W_enc, b_enc, W_dec
    gradients = [
        torch.autograd.grad(3 * loss + further * (row_norms(values) - 1).square().mean(), weights)
        for loss, values in ((want.loss, codes.values), (got.loss, got.codes.values))
    ]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)
        assert ours.abs().sum() > 0


def test_the_values_alone_give_the_encoder_its_gradient() -> None:
    x, b_dec, W_enc, b_enc, W_dec = inputs(8)
    codes = encode_topk(x, b_dec, W_enc, b_enc, 4)
    chosen = codes._replace(values=codes.values.detach())
    values = autoencoder_mse(chosen, x, b_dec, W_enc, b_enc, W_dec).codes.values
    ours = torch.autograd.grad(values.square().sum(), (b_dec, W_enc, b_enc, W_dec))
    theirs = torch.autograd.grad(codes.values.square().sum(), (b_dec, W_enc, b_enc))
    torch.testing.assert_close(ours[:3], theirs)
    assert (ours[3] == 0).all()


def test_float16_is_refused_where_gradients_are_wanted() -> None:
    x, *weights = (tensor.half() for tensor in inputs(4))
    codes = Codes(torch.zeros(4, 1, dtype=torch.int64), torch.ones(4, 1).half())
    with pytest.raises(ValueError, match=r"W_dec is float16, .*float32 or bfloat16"):
        autoencoder_mse(codes, x, *weights)
    with torch.no_grad():
        assert autoencoder_mse(codes, x, *weights).loss.isfinite()


def test_rows_that_want_a_gradient_are_refused() -> None:
    x, *weights = inputs(4)
    codes = Codes(torch.zeros(4, 1, dtype=torch.int64), torch.ones(4, 1, dtype=torch.float64))
    with pytest.raises(ValueError, match="wants a gradient"):
        autoencoder_mse(codes, x.requires_grad_(), *weights)
