"""Terms and options of the loss: what they compute, and where they are refused."""

from typing import Any

import pytest
import torch
from torch import Tensor

from sparsteer.sae import (
    BatchTopKConfig,
    InputError,
    JumpReLUConfig,
    SparseAutoencoder,
    TopAFAConfig,
    TopKConfig,
)
from sparsteer.sae.config import SAEConfig
from sparsteer.training.config import TrainConfig
from sparsteer.training.trainer import Trainer
from sparsteer.training.trainer_config import TrainerConfig

D, F, K, B = 24, 200, 8, 256


def rows(n_rows: int = B) -> Tensor:
    """Sparse sums of planted directions, and a mean."""
    directions = torch.randn(60, D, generator=torch.Generator().manual_seed(7))
    chosen = torch.rand(n_rows, 60) < 0.08
    acts = chosen * torch.rand(n_rows, 60).add(0.5)
    return 2 * acts @ directions + 0.1 * torch.randn(n_rows, D) + 0.5


def test_k_falls_linearly_to_its_end() -> None:
    config = TrainerConfig(tokens=100 * B, batch_size=B, k_start=50, k_anneal_fraction=0.4)
    trainer = Trainer(SparseAutoencoder(TopKConfig(D, F, K)), config)
    ks = [trainer.annealed_k(step) for step in range(120)]
    assert ks[0] == 50 and ks[20] == (50 + K) // 2 and ks[39] == K + 1
    assert ks[40:] == [K] * 80
    assert all(k is not None and abs(k - (50 - 42 * i / 40)) <= 0.5 for i, k in enumerate(ks[:40]))
    assert Trainer(SparseAutoencoder(TopKConfig(D, F, K))).annealed_k(0) is None


@pytest.mark.parametrize("sae_config", [TopKConfig(D, F, K), BatchTopKConfig(D, F, K)])
def test_each_step_keeps_as_many_latents_as_the_schedule_says(sae_config: SAEConfig) -> None:
    config = TrainerConfig(tokens=10 * B, batch_size=B, k_start=20, k_anneal_fraction=0.5)
    sae = SparseAutoencoder(sae_config)
    with torch.no_grad():
        sae.b_enc.fill_(30)  # so that every pre-activation is positive
    trainer = Trainer(sae, config)
    l0s = [float(trainer.step(rows()).l0) for _ in range(10)]
    assert l0s == [20, 18, 15, 13, 10, 8, 8, 8, 8, 8]
    assert sae.config == sae_config


@pytest.mark.parametrize(
    ("k", "multiple", "bias"), [(8, 4, 0.0), (8, 4, -3.0), (70, 3, 0.0), (F, 4, 0.0)]
)
def test_multi_topk_equals_autograd_of_its_formula(k: int, multiple: int, bias: float) -> None:
    sae = SparseAutoencoder(TopKConfig(D, F, k), seed=2).double()
    with torch.no_grad():
        sae.b_dec.normal_()
        sae.b_enc.normal_().add_(bias)  # with a negative one rows lack positive latents
    x = rows().double()
    trainer = Trainer(sae, TrainerConfig(multi_topk_coefficient=0.3, multi_topk=multiple))
    losses = trainer.loss(x)

    acts_BF = ((x - sae.b_dec) @ sae.W_enc.T + sae.b_enc).relu()
    order_BF = acts_BF.argsort(dim=-1, descending=True)
    parts: list[Tensor] = []
    for n in (k, min(multiple * k, F)):
        kept = torch.zeros_like(acts_BF).scatter_(-1, order_BF[:, :n], 1.0)
        parts.append(((acts_BF * kept) @ sae.W_dec + sae.b_dec - x).square().mean())
    expected = parts[0] + 0.3 * parts[1]
    torch.testing.assert_close(losses.total, expected)
    torch.testing.assert_close(losses.mse, parts[0])
    torch.testing.assert_close(losses.terms["multi_topk"], parts[1])
    assert losses.codes.values.shape == (B, k)
    weights = list(sae.parameters())
    wanted = torch.autograd.grad(expected, weights)
    for got, want in zip(torch.autograd.grad(losses.total, weights), wanted, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.slow
def test_multi_topk_makes_more_latents_than_k_useful() -> None:
    def fvu_at(n: int, coefficient: float) -> float:
        sae = SparseAutoencoder(TopKConfig(D, F, K), seed=3)
        config = TrainerConfig(
            tokens=80 * B, batch_size=B, lr=6e-3, multi_topk_coefficient=coefficient
        )
        trainer = Trainer(sae, config)
        generator = torch.Generator().manual_seed(3)
        data = rows(80 * B)[torch.randperm(80 * B, generator=generator)]
        for x in torch.split(data, B):
            trainer.step(x)
        x = rows(2000)
        with torch.no_grad():
            error = x - sae.decode_scaled(sae.encode_train(x, n))
        return float(error.square().sum() / (x - x.mean(0)).square().sum())

    assert fvu_at(4 * K, 1 / 8) < 0.8 * fvu_at(4 * K, 0.0)


@pytest.mark.parametrize(
    ("sae_config", "changes", "field"),
    [
        (TopAFAConfig(D, F), {"k_start": 9}, "k_start"),
        (JumpReLUConfig(D, F), {"k_start": 9}, "k_start"),
        (TopKConfig(D, F, K), {"k_start": 7}, "k_start"),
        (BatchTopKConfig(D, F, K), {"multi_topk_coefficient": 0.125}, "multi_topk_coefficient"),
        (
            TopKConfig(D, F, K, prefixes=(9,)),
            {"multi_topk_coefficient": 0.1},
            "multi_topk_coefficient",
        ),
        (BatchTopKConfig(D, F, K), {"k_start": 201}, "k_start"),
    ],
)
def test_options_that_do_not_suit_the_autoencoder_are_refused(
    sae_config: SAEConfig, changes: dict[str, Any], field: str
) -> None:
    config = TrainerConfig(**changes)
    with pytest.raises(InputError) as caught:
        Trainer(SparseAutoencoder(sae_config), config)
    assert caught.value.field == field
    k = getattr(sae_config, "k", None)
    activation: Any = sae_config.activation
    with pytest.raises(InputError) as caught:
        TrainConfig(
            cache="c",
            out="o",
            activation=activation,
            n_latents=F,
            k=k,
            prefixes=tuple(map(float, sae_config.prefixes)),
            trainer=config,
        ).sae_config(D)
    assert caught.value.field == field


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"k_start": 0}, "k_start"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"precision": "fp8"}, "precision"),
        ({"multi_topk": 1}, "multi_topk"),
        ({"multi_topk_coefficient": -1.0}, "multi_topk_coefficient"),
        ({"k_anneal_fraction": 1.5}, "k_anneal_fraction"),
    ],
)
def test_wrong_options_are_named(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        TrainerConfig(**changes)
    assert caught.value.field == field
