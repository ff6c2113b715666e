"""Whole runs with whitening, a LISTA step and penalties: resumed, in grids, and what they save."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsteer.sae import InputError, SparseAutoencoder
from sparsteer.sae.metrics import measure_rows
from sparsteer.training.config import TrainConfig
from sparsteer.training.data.cache.reader import ActivationCache
from sparsteer.training.grid import grid_configs, parse_grid
from sparsteer.training.train import train, train_grid
from sparsteer.training.trainer_config import TrainerConfig

from .conftest import SITE

TRAINER = TrainerConfig(
    tokens=12 * 64, batch_size=64, lr=3e-3, log_every=3, eval_every=5, checkpoint_every=5
)


def config_of(cache: Path, out: Path, lista_step: float = 0.0, **changes: Any) -> TrainConfig:
    return TrainConfig(
        cache=str(cache),
        out=str(out),
        activation="batch_topk",
        n_latents=40,
        k=4,
        lista_step=lista_step,
        trainer=dataclasses.replace(TRAINER, **changes),
    )


def bits(run: str | Path) -> dict[str, bytes]:
    tensors = SparseAutoencoder.load(run).state_dict()
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


class Killed(Exception):
    """Stands in for a kill: nothing in the code catches it."""


def train_until(config: TrainConfig, step: int) -> None:
    def report(done: int, total: int, figures: dict[str, float]) -> None:
        if done >= step:
            raise Killed

    with pytest.raises(Killed):
        train(config, report=report)


ALL: dict[str, Any] = {"whitening": 0.8, "loss_term": ("frequency=0.01", "orthogonality=0.1")}


def test_a_killed_run_with_all_of_them_ends_with_the_same_bits(
    planted_cache: Path, tmp_path: Path
) -> None:
    summary = train(config_of(planted_cache, tmp_path / "whole", 0.3, **ALL))
    killed = config_of(planted_cache, tmp_path / "killed", 0.3, **ALL)
    train_until(killed, 6)
    train(killed)
    assert bits(tmp_path / "whole") == bits(tmp_path / "killed")
    assert summary["lista_step"] == 0.3
    with pytest.raises(InputError, match=r"holds a run with .*lista_step"):
        train(config_of(planted_cache, tmp_path / "killed", **ALL))


@pytest.mark.slow
def test_each_of_a_grid_is_the_one_trained_alone(planted_cache: Path, tmp_path: Path) -> None:
    config = config_of(planted_cache, tmp_path / "grid")
    words = ["whitening=0,0.8", "lista-step=0,0.3"]
    configs = grid_configs(config, parse_grid(words))
    train_grid(configs)
    for one in configs:
        name = Path(one.out).name
        alone = dataclasses.replace(one, out=str(tmp_path / name))
        train(alone)
        assert bits(one.out) == bits(alone.out), name
    plain = config_of(planted_cache, tmp_path / "plain")
    train(plain)
    assert bits(plain.out) == bits(tmp_path / "whitening0.0-lista_step0.0")


def test_what_is_saved_reads_plain_rows(planted_cache: Path, tmp_path: Path) -> None:
    summary = train(config_of(planted_cache, tmp_path / "run", **ALL))
    sae = SparseAutoencoder.load(tmp_path / "run")
    rows = ActivationCache(str(planted_cache)).held_out(site=SITE, limit=500)
    found = measure_rows(sae, rows).result()
    assert found["fvu"] == pytest.approx(summary["held_out"]["fvu"])
    assert not torch.allclose(sae.decoder_norms(), torch.ones(40), atol=1e-3)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    logged = [json.loads(line) for line in lines if '"loss"' in line]
    assert all(line["frequency"] > 0 and line["orthogonality"] > 0 for line in logged)
