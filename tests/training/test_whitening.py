"""Whitening: its matrix, the way back into the weights, the loss, and where it is refused."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsteer.kernels import reference
from sparsteer.sae import (
    BatchTopKConfig,
    InputError,
    JumpReLUConfig,
    SparseAutoencoder,
    TopAFAConfig,
    TopKConfig,
)
from sparsteer.sae.config import SAEConfig
from sparsteer.training.trainer import Trainer
from sparsteer.training.trainer_config import TrainerConfig
from sparsteer.training.whitening import Whitening, mse_in_units, reconstruction_in_units

from ..sae.random_sae import random_sae

D, F, K = 13, 57, 5
CONFIGS = [
    TopKConfig(D, F, K),
    TopKConfig(D, F, K, lista_step=0.3),
    TopKConfig(D, F, K, apply_b_dec_to_input=False),
    BatchTopKConfig(D, F, K),
    JumpReLUConfig(D, F, 0.4),
]


def orthonormal(columns: Tensor) -> Tensor:
    """Orthonormal columns that span the same space."""
    linalg: Any = torch.linalg  # untyped
    return linalg.qr(columns)[0]


def eigenvalues(symmetric: Tensor) -> Tensor:
    linalg: Any = torch.linalg  # untyped
    return linalg.eigvalsh(symmetric)


def correlated(n_rows: int, seed: int = 0) -> Tensor:
    """Rows whose directions differ in standard deviation by a factor of 30."""
    generator = torch.Generator().manual_seed(seed)
    axes = orthonormal(torch.randn(D, D, generator=torch.Generator().manual_seed(9)))
    spread = torch.logspace(-1, 0.5, D)
    return torch.randn(n_rows, D, generator=generator) * spread @ axes.T


def whitening_of(rows: Tensor, strength: float, shrinkage: float = 0.01) -> Whitening:
    whitening = Whitening(rows[0], strength, shrinkage)
    whitening.estimate(rows)
    return whitening


def covariance(rows: Tensor) -> Tensor:
    return torch.cov(rows.T, correction=0)


def test_full_whitening_makes_all_directions_alike() -> None:
    rows = correlated(500).double()
    whitening = whitening_of(rows, 1.0, 1e-6)
    found = covariance(whitening.whitened(rows))
    mean = covariance(rows).trace() / D
    torch.testing.assert_close(
        found, mean * torch.eye(D, dtype=torch.float64), rtol=0, atol=1e-3 * float(mean)
    )
    assert whitening.is_estimated and not Whitening(rows[0], 1.0, 0.01).is_estimated


@pytest.mark.parametrize("strength", [0.3, 0.7, 1.0])
@pytest.mark.parametrize("shrinkage", [1e-3, 0.1])
def test_the_matrix_keeps_the_mean_variance_and_the_axes(strength: float, shrinkage: float) -> None:
    rows = correlated(500).double()
    whitening = whitening_of(rows, strength, shrinkage)
    before, after = covariance(rows), covariance(whitening.whitened(rows))
    torch.testing.assert_close(after.trace(), before.trace())
    torch.testing.assert_close(after @ before, before @ after)
    eye = torch.eye(D, dtype=torch.float64)
    torch.testing.assert_close(whitening.matrix @ whitening.inverse, eye)
    torch.testing.assert_close(whitening.matrix, whitening.matrix.T)
    variances, stretched = eigenvalues(before), eigenvalues(whitening.matrix)
    shrunk = (1 - shrinkage) * variances + shrinkage * variances.mean()
    ratios = (shrunk[-1] / shrunk) ** (strength / 2)
    torch.testing.assert_close(stretched / stretched[0], ratios.flip(0))


def test_strength_0_and_white_rows_change_nothing() -> None:
    rows = correlated(500).double()
    eye = torch.eye(D, dtype=torch.float64)
    torch.testing.assert_close(whitening_of(rows, 0.0).matrix, eye)
    white = rows - rows.mean(0)
    white = 3 * orthonormal(white) * 500**0.5
    for strength in (0.5, 1.0):
        torch.testing.assert_close(whitening_of(white, strength).matrix, eye)


def test_rows_fewer_than_directions_give_finite_matrices() -> None:
    whitening = whitening_of(correlated(6), 1.0)
    assert whitening.matrix.isfinite().all() and whitening.inverse.isfinite().all()


def pairs() -> Any:
    return pytest.mark.parametrize(
        "config", CONFIGS, ids=["topk", "lista", "plain input", "batch_topk", "jumprelu"]
    )


@pairs()
@torch.no_grad()
def test_folded_encodes_plain_rows_as_the_other_encodes_whitened_ones(config: SAEConfig) -> None:
    sae = random_sae(config).double()
    x = correlated(200).double() + 5
    whitening = whitening_of(sae.scaled(x), 0.8)
    folded = whitening.folded(sae)
    codes, plain = sae.encode_scaled(whitening.whitened(sae.scaled(x))), folded.encode(x)
    dense = codes.dense(F)
    assert torch.equal(dense > 0, plain.dense(F) > 0), "the choice of latents differs"
    torch.testing.assert_close(plain.dense(F), dense)
    rebuilt = sae.decode_scaled(codes) @ whitening.inverse
    torch.testing.assert_close(folded.decode_scaled(plain), rebuilt)
    torch.testing.assert_close(folded(x), rebuilt / sae.input_scale + sae.decoder_center)
    assert folded.config == sae.config and folded is not sae


@pairs()
@torch.no_grad()
def test_folding_in_float32_is_right_to_a_hundred_thousandth(config: SAEConfig) -> None:
    sae = random_sae(config)
    x = correlated(200) + 5
    whitening = whitening_of(sae.scaled(x), 1.0)
    codes = sae.encode_scaled(whitening.whitened(sae.scaled(x))).dense(F)
    found = whitening.folded(sae).encode(x).dense(F)
    same = ((codes > 0) == (found > 0)).all(-1)
    assert same.float().mean() > 0.98  # two latents may be within rounding of each other
    scale = float(codes.abs().max())
    torch.testing.assert_close(found[same], codes[same], rtol=0, atol=1e-5 * scale)


def test_the_loss_in_original_units_is_that_of_the_folded_autoencoder() -> None:
    trainer = Trainer(
        SparseAutoencoder(TopKConfig(D, F, K), seed=1).double(),
        TrainerConfig(whitening=0.9, auxk_coefficient=0.0),
    )
    x = correlated(100).double() + 5
    trainer.initialize(x)
    scaled = trainer.sae.scaled(x)
    folded = trainer.trained()
    x_hat = folded.decode_scaled(folded.encode_scaled(scaled))
    losses = trainer.loss(scaled)
    torch.testing.assert_close(losses.mse.detach(), (x_hat - scaled).square().mean().detach())
    assert losses.total is losses.mse or torch.equal(losses.total, losses.mse)


@pytest.mark.parametrize("prefixes", [(), (7, 30)])
def test_its_gradient_is_that_of_dense_autograd(prefixes: tuple[int, ...]) -> None:
    sae = random_sae(TopKConfig(D, F, K, prefixes=prefixes)).double()
    x = correlated(40).double()
    units = whitening_of(x, 1.0).inverse
    codes = sae.encode_train(x)
    ours = reconstruction_in_units(sae, codes, x, units)
    pre = reference.pre_activations(x, sae.b_dec, sae.W_enc, sae.b_enc)
    dense = reference.topk_select(pre, K).dense(F)
    losses = [
        ((dense[:, :n] @ sae.W_dec[:n] + sae.b_dec - x) @ units).square().mean()
        for n in (*prefixes, F)
    ]
    expected = torch.stack(losses).mean()
    torch.testing.assert_close(ours.loss, expected)
    torch.testing.assert_close(ours.x_hat, (dense @ sae.W_dec + sae.b_dec).detach())
    weights = list(sae.parameters())
    wanted = torch.autograd.grad(expected, weights)
    for got, want in zip(torch.autograd.grad(ours.loss, weights), wanted, strict=True):
        torch.testing.assert_close(got, want)


def test_thresholds_get_the_gradient_that_they_have_without() -> None:
    """With the unit matrix for units the loss is the usual one, also through the thresholds."""
    sae = random_sae(JumpReLUConfig(D, F, 0.4)).double()
    x = correlated(60).double()
    weights = list(sae.parameters())
    plain = Trainer(sae, TrainerConfig(sparsity_coefficient=0.0, auxk_coefficient=0.0)).loss(x).mse
    eye = torch.eye(D, dtype=torch.float64)
    ours = reconstruction_in_units(sae, sae.encode_train(x), x, eye).loss
    torch.testing.assert_close(ours, plain)
    wanted = torch.autograd.grad(plain, weights)
    for got, want in zip(torch.autograd.grad(ours, weights), wanted, strict=True):
        torch.testing.assert_close(got, want)


def test_gradcheck_of_the_mean_in_units() -> None:
    target, x_hat = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    units = torch.randn(3, 3, dtype=torch.float64)

    def mean(x_hat: Tensor) -> Tensor:
        return mse_in_units(target, x_hat, units)

    assert torch.autograd.gradcheck(mean, (x_hat.requires_grad_(),))


@pytest.mark.parametrize("kind", ["original", "whitened"])
@pytest.mark.parametrize(
    "config",
    [TopKConfig(D, F, K), TopKConfig(D, F, K, prefixes=(9,)), JumpReLUConfig(D, F)],
    ids=["topk", "nested", "jumprelu"],
)
@pytest.mark.slow_except("topk-original", "topk-whitened")
def test_it_trains(config: SAEConfig, kind: Any) -> None:
    settings = TrainerConfig(
        tokens=40 * 64, batch_size=64, lr=5e-3, whitening=0.7, whitening_loss=kind, ema_decay=0.9
    )
    trainer = Trainer(SparseAutoencoder(config), settings)
    figures = [trainer.step(correlated(64, seed)).figures() for seed in range(40)]
    assert figures[-1]["fvu"] < 0.7 * figures[0]["fvu"]
    x = correlated(500, 77)
    with torch.no_grad():
        missed = (trainer.trained()(x) - x).square().sum() / (x - x.mean(0)).square().sum()
    assert float(missed) < 0.5
    assert trainer.whitening is not None and trainer.whitening.is_estimated
    norms = trainer.sae.decoder_norms()
    torch.testing.assert_close(norms, torch.ones(F))


def test_an_autoencoder_that_was_initialized_before_gets_its_whitening_from_the_first_batch() -> (
    None
):
    sae = SparseAutoencoder(TopKConfig(D, F, K))
    Trainer(sae, TrainerConfig()).initialize(correlated(300))
    scale = float(sae.input_scale)
    trainer = Trainer(sae, TrainerConfig(whitening=1.0))
    assert trainer.whitening is not None and not trainer.whitening.is_estimated
    trainer.step(correlated(64))
    assert trainer.whitening.is_estimated and float(sae.input_scale) == scale


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (TopAFAConfig(D, F), {}, "top_afa keeps does not depend on their pre-activations alone"),
        (TopKConfig(D, F, K, transcoder=True), {}, "a transcoder predicts other activations"),
        (TopKConfig(D, F, K), {"shards": 2}, "steps with shards take rows as they are"),
        (TopKConfig(D, F, K), {"cuda_graph": True}, "steps with cuda_graph take rows as they are"),
        (TopKConfig(D, F, K), {"multi_topk_coefficient": 0.1}, "the Multi-TopK loss compares rows"),
    ],
)
def test_where_it_is_refused(config: SAEConfig, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        TrainerConfig(whitening=0.5, **settings).validate_for(config)
    assert caught.value.field == "whitening"
    TrainerConfig(
        whitening=0.5, whitening_loss="whitened", multi_topk_coefficient=0.1
    ).validate_for(TopKConfig(D, F, K))


@pytest.mark.parametrize(
    "settings",
    [{"whitening": 1.5}, {"whitening": float("nan")}, {"whitening_shrinkage": 0.0}],
)
def test_wrong_settings_are_named(settings: dict[str, Any]) -> None:
    (name,) = settings
    with pytest.raises(InputError, match=f"{name} is") as caught:
        TrainerConfig(**settings)
    assert caught.value.field == name
