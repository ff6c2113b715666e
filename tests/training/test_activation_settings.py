"""What an activation's configuration declares, and who keeps to it."""

import dataclasses
from typing import Any

import pytest
import torch

from sparsteer.sae import (
    BatchTopKConfig,
    JumpReLUConfig,
    SAEConfig,
    SparseAutoencoder,
    TopAFAConfig,
)
from sparsteer.sae.activations.registry import ACTIVATIONS
from sparsteer.sae.config import activations_with, config_class, settings_of
from sparsteer.training.config import TrainConfig, autoencoder_settings
from sparsteer.training.grid import grid_configs, parse_grid
from sparsteer.training.trainer import Trainer
from sparsteer.training.trainer_config import TrainerConfig


@pytest.mark.parametrize("name", ["topk", "batch_topk", "top_afa", "jumprelu"])
def test_a_name_leads_to_one_configuration_and_one_class(name: str) -> None:
    config = config_class(name)
    assert config.activation == name and ACTIVATIONS.get(name).config_class is config
    trainer = {field.name for field in dataclasses.fields(TrainerConfig)}
    assert set(config.training_settings) <= trainer


def test_activations_with_a_setting_are_those_that_declare_it() -> None:
    assert activations_with("k") == activations_with("k_start") == ["topk", "batch_topk"]
    assert activations_with("target_scale") == activations_with("afa_coefficient") == ["top_afa"]
    assert activations_with("target_l0") == ["top_afa", "jumprelu"]
    assert activations_with("lr") == activations_with("n_latents") == []


def test_settings_of_the_autoencoder_are_compared_as_its_own_configuration() -> None:
    names = ["n_latents", "k", "bandwidth", "target_scale", "prefixes", "lista_step"]
    assert autoencoder_settings() == names


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("topk", {"k", "k_start", "k_anneal_fraction", "multi_topk", "multi_topk_coefficient"}),
        ("batch_topk", {"k", "k_start", "k_anneal_fraction"}),
        ("top_afa", {"target_scale", "afa_coefficient", "target_l0"}),
        (
            "jumprelu",
            {"bandwidth", "target_l0", "sparsity", "sparsity_coefficient"},
        ),
    ],
)
def test_a_grid_varies_a_setting_of_those_that_have_it(name: str, own: set[str]) -> None:
    of_all = {field.name for field in dataclasses.fields(SAEConfig)}
    of_all |= {"fixed_thresholds", "learned_scale"}
    assert settings_of(config_class(name)) - of_all == own
    values = {"sparsity": "step,tanh", "k_anneal_fraction": "0.2,0.5"}
    config = TrainConfig(cache="c", out="o", n_latents=64)
    for setting in own:
        grid = parse_grid([f"activation={name}", f"{setting}={values.get(setting, '2,3')}"])
        varied = grid_configs(config, grid)
        assert len(varied) == 2, setting


@pytest.mark.parametrize(
    ("config", "terms"),
    [
        (BatchTopKConfig(8, 40, 4), set[str]()),
        (TopAFAConfig(8, 40), {"afa"}),
        (JumpReLUConfig(8, 40), {"sparsity"}),
    ],
    ids=lambda value: getattr(value, "activation", ""),
)
def test_a_loss_has_the_terms_of_its_activation(config: Any, terms: set[str]) -> None:
    trainer = Trainer(SparseAutoencoder(config))
    assert trainer.loss(torch.randn(16, 8)).terms.keys() == terms
    figures = trainer.step(torch.randn(16, 8)).figures()
    assert [*figures][:6] == ["loss", "mse", "auxk", "afa", "sparsity", "multi_topk"]
    assert {name for name in ("afa", "sparsity") if figures[name]} == terms
