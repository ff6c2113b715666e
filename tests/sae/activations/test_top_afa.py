"""The norm loss of top_afa and its gradient against dense autograd in float64."""

import pytest
import torch
from torch import Tensor

from sparsteer.kernels import reference
from sparsteer.sae import SparseAutoencoder, TopAFAConfig
from sparsteer.sae.activations.top_afa import afa_loss


def gradients(loss: Tensor, sae: SparseAutoencoder) -> list[Tensor]:
    names, parameters = zip(*sae.named_parameters(), strict=True)
    assert names == ("W_dec", "W_enc", "b_enc", "b_dec")
    return list(torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True))


@pytest.mark.parametrize("scale", [1.0, 0.7])
def test_afa_loss_and_its_gradient_equal_the_dense_formula(scale: float) -> None:
    sae = SparseAutoencoder(TopAFAConfig(13, 57, target_scale=scale)).double()
    x = torch.randn(31, 13, dtype=torch.float64)
    codes = sae.encode_scaled(x)
    ours = afa_loss(codes, x, scale)
    pre = reference.pre_activations(x, sae.b_dec, sae.W_enc, sae.b_enc)
    kept = codes.dense(57).detach() > 0
    norms = (pre.relu() * kept).square().sum(-1).sqrt()
    dense = (norms - scale * x.square().sum(-1).sqrt()).square().mean()
    torch.testing.assert_close(ours, dense)
    for got, want in zip(gradients(ours, sae), gradients(dense, sae), strict=True):
        torch.testing.assert_close(got, want)


def test_afa_loss_of_a_silent_row_has_a_finite_gradient() -> None:
    sae = SparseAutoencoder(TopAFAConfig(13, 57)).double()
    with torch.no_grad():
        sae.b_enc.sub_(100)
    x = torch.randn(3, 13, dtype=torch.float64)
    for grad in gradients(afa_loss(sae.encode_scaled(x), x), sae):
        assert grad.isfinite().all()
