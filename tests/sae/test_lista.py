"""One LISTA step of the encoder: its formula, its gradients, and where it is refused."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsteer.kernels import reference
from sparsteer.kernels.codes import Codes
from sparsteer.sae import (
    BatchTopKConfig,
    InputError,
    JumpReLUConfig,
    SparseAutoencoder,
    TopAFAConfig,
    TopKConfig,
)
from sparsteer.sae.config import SAEConfig, config_to_dict
from sparsteer.sae.interop.export import export
from sparsteer.sae.interop.push import write_layouts
from sparsteer.steering.features.near_misses import why_none
from sparsteer.steering.interventions.firing import LatentTable
from sparsteer.training.config import TrainConfig
from sparsteer.training.trainer import Trainer
from sparsteer.training.trainer_config import TrainerConfig

from .random_sae import random_sae

D, F, K, ETA = 13, 57, 5, 0.3
CONFIGS = [
    TopKConfig(D, F, K, lista_step=ETA),
    BatchTopKConfig(D, F, K, lista_step=ETA),
    JumpReLUConfig(D, F, 0.4, lista_step=ETA),
]


def select(sae: SparseAutoencoder, pre_BF: Tensor) -> Codes:
    if isinstance(sae.config, TopKConfig):
        return reference.topk_select(pre_BF, K)
    acts_BF = reference.jumprelu(pre_BF, sae.thresholds())
    indices_BF = torch.arange(F).expand(len(pre_BF), F)
    return Codes(indices_BF, acts_BF)


def by_formula(sae: SparseAutoencoder, x: Tensor) -> Tensor:
    """Dense codes: activation(pre + eta (x - x_hat) @ W_enc^T)."""
    pre_BF = reference.pre_activations(x, sae.b_dec, sae.W_enc, sae.b_enc)
    x_hat = reference.decode(select(sae, pre_BF), sae.W_dec, sae.b_dec)
    return select(sae, pre_BF + ETA * (x - x_hat) @ sae.W_enc.T).dense(F)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.activation)
def test_codes_are_those_of_the_formula(config: SAEConfig) -> None:
    sae = random_sae(config).double()
    x = 3 * torch.randn(40, D, dtype=torch.float64)
    dense = sae.encode(x).dense(F)
    torch.testing.assert_close(dense, by_formula(sae, sae.scaled(x)))
    once = SparseAutoencoder(dataclasses.replace(config, lista_step=0.0)).double()
    once.load_state_dict(sae.state_dict())
    assert not torch.equal(dense > 0, once.encode(x).dense(F) > 0), "the choice is the same"
    torch.testing.assert_close(sae(x), sae.decode(sae.encode(x)))


def test_a_row_that_is_rebuilt_exactly_keeps_its_codes() -> None:
    sae = SparseAutoencoder(TopKConfig(8, 8, 3, lista_step=ETA)).double()
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(8)[torch.randperm(8)])
        sae.W_dec.copy_(sae.W_enc)
    codes = torch.zeros(5, 8, dtype=torch.float64)
    codes[:, 2:5] = torch.rand(5, 3) + 0.1
    x = codes @ sae.W_dec
    torch.testing.assert_close(sae.encode(x).dense(8), codes)
    torch.testing.assert_close(sae(x), x)


def test_the_gradient_of_a_step_of_training() -> None:
    sae = random_sae(TopKConfig(D, F, K, lista_step=ETA)).double()
    x = torch.randn(40, D, dtype=torch.float64)
    trainer = Trainer(sae, TrainerConfig(auxk_coefficient=0.0))
    weights = list(sae.parameters())
    found = torch.autograd.grad(trainer.loss(x).total, weights)
    x_hat = by_formula(sae, x) @ sae.W_dec + sae.b_dec
    expected = torch.autograd.grad((x_hat - x).square().mean(), weights)
    for got, want in zip(found, expected, strict=True):
        torch.testing.assert_close(got, want)


def test_gradcheck_of_the_second_reading() -> None:
    sae = random_sae(TopKConfig(4, 9, 2, lista_step=ETA)).double()
    x = torch.randn(3, 4, dtype=torch.float64)
    names = [name for name, _ in sae.named_parameters()]

    class Missed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sae = sae

        def forward(self) -> Tensor:
            return self.sae.decode_scaled(self.sae.encode_train(x)) - x

    module = Missed()

    def missed(*weights: Tensor) -> Tensor:
        given = {f"sae.{name}": tensor for name, tensor in zip(names, weights, strict=True)}
        return torch.func.functional_call(module, given, ())

    given = tuple(p.detach().clone().requires_grad_() for p in sae.parameters())
    assert torch.autograd.gradcheck(missed, given)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.activation)
def test_it_is_saved_with_the_autoencoder(config: SAEConfig, tmp_path: Path) -> None:
    sae = random_sae(config)
    sae.save(tmp_path / "own")
    assert SparseAutoencoder.load(tmp_path / "own").config == config
    export(sae, tmp_path / "exported", "sparsteer")
    exported, x = SparseAutoencoder.load(tmp_path / "exported"), torch.randn(20, D)
    torch.testing.assert_close(exported.encode(x).dense(F), sae.encode(x).dense(F))
    assert "lista_step" not in config_to_dict(TopKConfig(D, F, K))


@pytest.mark.parametrize("layout", ["saelens", "sparsify", "dictionary_learning", "circuit-tracer"])
def test_no_other_layout_takes_it(layout: str, tmp_path: Path) -> None:
    sae = random_sae(TopKConfig(D, F, K, lista_step=ETA))
    with pytest.raises(InputError, match=r"lista_step is 0\.3: .* choose --format sparsteer"):
        export(sae, tmp_path / "out", layout)
    assert not (tmp_path / "out").exists()


def test_a_push_leaves_out_the_layout_that_cannot_say_it(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    why = write_layouts(random_sae(CONFIGS[0]), tmp_path / "folder")
    assert why is not None and why.startswith("lista_step is 0.3")


@torch.no_grad()
def test_steering_asks_the_encoder_itself() -> None:
    """Which latents a gate looks at is not decided by the pre-activations of the first reading."""
    sae = random_sae(TopKConfig(D, F, K, lista_step=ETA))
    h = 3 * torch.randn(60, D)
    dense = sae.encode(h).dense(F)
    pre = (sae.scaled(h) - sae.b_dec) @ sae.W_enc.T + sae.b_enc
    row, latent = divmod(int((dense - pre.relu()).argmax()), F)
    assert dense[row, latent] > pre[row, latent] + 0.1, "no latent is lifted"
    threshold = float((dense + pre)[row, latent]) / 2
    table = LatentTable(sae, [[latent]], [[threshold]])
    found = table.activations(h[None, row : row + 1], torch.ones(1, 1, dtype=torch.bool))
    torch.testing.assert_close(found[0, 0, 0], dense[row, latent])
    assert "LISTA" in why_none(sae) and not why_none(random_sae(TopKConfig(D, F, K)))


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (TopAFAConfig, {}, "top_afa compares its latents with the norm of the row"),
        (TopKConfig, {"k": K, "transcoder": True}, "a transcoder predicts other activations"),
        (TopKConfig, {"k": K, "lista_step": -0.1}, "lista_step is -0.1"),
        (TopKConfig, {"k": K, "lista_step": float("nan")}, "lista_step is nan"),
    ],
)
def test_where_it_means_nothing(kind: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        kind(D, F, **({"lista_step": ETA} | options))
    assert caught.value.field == "lista_step"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shards": 2}, "shards is 2, but only topk"),
        ({"cuda_graph": True}, "cuda_graph is on, but steps with lista_step 0.3"),
        ({"multi_topk_coefficient": 0.1}, "but with lista_step 0.3 the k largest"),
    ],
)
def test_steps_that_cannot_have_it(settings: dict[str, Any], message: str) -> None:
    config = TrainConfig(cache="c", out="o", lista_step=ETA, trainer=TrainerConfig(**settings))
    with pytest.raises(InputError, match=re.escape(message)):
        config.sae_config(D)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.slow_except("float32")
def test_it_trains(precision: Any) -> None:
    config = TrainConfig(cache="c", out="o", n_latents=F, k=K, lista_step=ETA).sae_config(D)
    settings = TrainerConfig(tokens=30 * 64, batch_size=64, lr=5e-3, precision=precision)
    trainer = Trainer(SparseAutoencoder(config), settings)
    x = torch.randn(64, 6) @ torch.randn(6, D)
    fvus = [trainer.step(x).fvu for _ in range(30)]
    assert float(fvus[-1]) < 0.6 * float(fvus[0])
