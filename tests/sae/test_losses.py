"""Losses and their gradients against dense autograd in float64."""

import pytest
import torch
from torch import Tensor

from sparsteer.kernels import reference
from sparsteer.sae import SparseAutoencoder, TopKConfig
from sparsteer.sae.losses import auxk_loss, multi_topk_loss, nested_loss, reconstruction_loss


def random_sae() -> SparseAutoencoder:
    sae = SparseAutoencoder(TopKConfig(13, 57, 5)).double()
    with torch.no_grad():
        sae.W_enc.add_(0.1 * torch.randn_like(sae.W_enc))
        sae.b_enc.add_(0.1 * torch.randn_like(sae.b_enc))
        sae.b_dec.add_(torch.randn_like(sae.b_dec))
    return sae


def gradients(loss: Tensor, sae: SparseAutoencoder) -> list[Tensor]:
    names, parameters = zip(*sae.named_parameters(), strict=True)
    assert names == ("W_dec", "W_enc", "b_enc", "b_dec")
    return list(torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True))


@pytest.mark.parametrize("k_aux", [1, 7, 100])
def test_auxk_reaches_encoder_and_decoder_as_dense_autograd_does(k_aux: int) -> None:
    sae, x = random_sae(), torch.randn(31, 13, dtype=torch.float64)
    dead = torch.tensor([1, 4, 5, 9, 20, 33, 34, 50, 56])
    x_hat = sae.decode_scaled(sae.encode_scaled(x))
    ours = auxk_loss(sae, x, x - x_hat, dead, k_aux)

    residual = (x - x_hat).detach()
    pre = reference.pre_activations(x, sae.b_dec, sae.W_enc, sae.b_enc)[:, dead]
    kept = reference.topk_select(pre.detach(), min(k_aux, len(dead))).dense(len(dead)) > 0
    dead_hat = (pre.relu() * kept) @ sae.W_dec[dead]
    variance = (residual - residual.mean(0)).square().mean()
    dense = (dead_hat - residual).square().mean() / variance

    torch.testing.assert_close(ours, dense)
    found = gradients(ours, sae)
    assert (found[1][dead] != 0).any(), "nothing reaches W_enc"
    for got, want in zip(found, gradients(dense, sae), strict=True):
        torch.testing.assert_close(got, want)


def test_auxk_moves_only_dead_latents() -> None:
    sae, x = random_sae(), torch.randn(31, 13, dtype=torch.float64)
    dead = torch.tensor([3, 8])
    x_hat = sae.decode_scaled(sae.encode_scaled(x))
    W_dec_grad, W_enc_grad, b_enc_grad, _ = gradients(auxk_loss(sae, x, x - x_hat, dead, 2), sae)
    alive = torch.ones(57, dtype=torch.bool)
    alive[dead] = False
    for grad in (W_dec_grad, W_enc_grad, b_enc_grad):
        assert (grad[alive] == 0).all() and (grad[dead] != 0).any()


def test_auxk_without_dead_latents_is_zero_and_a_perfect_fit_is_finite() -> None:
    sae, x = random_sae(), torch.randn(31, 13, dtype=torch.float64)
    none = torch.zeros(0, dtype=torch.int64)
    assert auxk_loss(sae, x, x / 2, none, 4) == 0
    assert auxk_loss(sae, x, torch.zeros_like(x), torch.tensor([1]), 4).isfinite()


def test_reconstruction_loss_is_the_mean_square() -> None:
    x, x_hat = torch.randn(5, 4), torch.randn(5, 4)
    torch.testing.assert_close(reconstruction_loss(x, x_hat), (x - x_hat).square().sum() / 20)


def test_every_prefix_reaches_the_encoder_of_its_latents_only() -> None:
    sae = SparseAutoencoder(TopKConfig(13, 57, 5, prefixes=(9, 30))).double()
    x = torch.randn(31, 13, dtype=torch.float64)
    codes = sae.encode_scaled(x)
    loss, x_hat = nested_loss(sae, codes, x)
    torch.testing.assert_close(x_hat, sae.decode_scaled(codes))
    pre = reference.pre_activations(x, sae.b_dec, sae.W_enc, sae.b_enc)
    acts = pre.relu() * (codes.dense(57).detach() > 0)
    parts = [(acts[:, :p] @ sae.W_dec[:p] + sae.b_dec - x).square().mean() / 3 for p in (9, 30, 57)]
    torch.testing.assert_close(loss, parts[0] + parts[1] + parts[2])
    of_each = [gradients(part, sae) for part in parts]
    assert (of_each[0][1][:9] != 0).any() and (of_each[0][1][9:] == 0).all()
    for got, *wanted in zip(gradients(loss, sae), *of_each, strict=True):
        torch.testing.assert_close(got, wanted[0] + wanted[1] + wanted[2])


def test_float16_is_refused_where_gradients_of_multi_topk_are_wanted() -> None:
    sae = SparseAutoencoder(TopKConfig(13, 57, 5)).half()
    x = torch.randn(31, 13).half()
    with pytest.raises(ValueError, match="W_dec is float16"):
        multi_topk_loss(sae, x, x, 5, 3)
    with torch.no_grad():
        assert multi_topk_loss(sae, x, x, 5, 3).further.isfinite()
