"""Averages of weights: their values over the steps, and what is evaluated and saved."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sparsteer.kernels.numerics import row_norms
from sparsteer.sae import BatchTopKConfig, InputError, SparseAutoencoder
from sparsteer.sae.common.tensor_files import load_tensors, save_tensors
from sparsteer.sae.metrics import measure_rows
from sparsteer.training.averages import WeightAverages
from sparsteer.training.checkpoint import restore_newest
from sparsteer.training.config import TrainConfig
from sparsteer.training.data.cache.reader import ActivationCache
from sparsteer.training.train import train
from sparsteer.training.trainer import Trainer
from sparsteer.training.trainer_config import TrainerConfig

from .training_cases import save_checkpoint

D, F, K = 12, 70, 4


def steps_of(trainer: Trainer, n_steps: int) -> list[dict[str, Tensor]]:
    """The weights after each of some steps."""
    seen: list[dict[str, Tensor]] = []
    for _ in range(n_steps):
        trainer.step(torch.randn(64, D))
        seen.append({name: w.detach().clone() for name, w in trainer.sae.named_parameters()})
    return seen


def test_they_are_means_at_first_and_moving_averages_later() -> None:
    config = TrainerConfig(tokens=64 * 20, batch_size=64, lr=1e-2, ema_decay=0.8)
    trainer = Trainer(SparseAutoencoder(BatchTopKConfig(D, F, K)), config)
    assert trainer.averages is not None
    seen = steps_of(trainer, 5)
    for name, mean in trainer.averages.tensors.items():
        expected = torch.stack([weights[name] for weights in seen]).mean(0)
        torch.testing.assert_close(mean, expected, msg=name)
    later = steps_of(trainer, 7)
    for name, mean in trainer.averages.tensors.items():
        expected = torch.stack([weights[name] for weights in seen]).mean(0)
        for weights in later:
            expected = 0.8 * expected + 0.2 * weights[name]
        torch.testing.assert_close(mean, expected, msg=name)
        assert not torch.allclose(mean, later[-1][name]), name


def test_the_trained_autoencoder_has_the_averages_and_unit_rows() -> None:
    config = TrainerConfig(tokens=64 * 20, batch_size=64, lr=3e-2, ema_decay=0.9)
    trainer = Trainer(SparseAutoencoder(BatchTopKConfig(D, F, K)), config)
    steps_of(trainer, 9)
    assert trainer.averages is not None
    before = {name: tensor.clone() for name, tensor in trainer.sae.state_dict().items()}
    trained, means = trainer.trained(), trainer.averages.tensors
    assert (row_norms(means["W_dec"]) < 0.999).any(), "the averages of unit rows are shorter"
    torch.testing.assert_close(trained.decoder_norms(), torch.ones(F))
    torch.testing.assert_close(
        trained.W_dec.data, torch.nn.functional.normalize(means["W_dec"], dim=-1)
    )
    for name in ("W_enc", "b_enc", "b_dec"):
        assert torch.equal(trained.get_parameter(name), means[name])
    threshold = trained.get_buffer("threshold")
    assert torch.equal(threshold, trainer.sae.get_buffer("threshold")) and threshold > 0
    for name, tensor in trainer.sae.state_dict().items():
        assert torch.equal(tensor, before[name]), "the trained weights themselves changed"


def test_low_precision_weights_are_averaged_in_float32() -> None:
    sae = SparseAutoencoder(BatchTopKConfig(D, F, K)).bfloat16()
    averages = WeightAverages(sae, 0.999)
    for number in range(1, 40):
        averages.update(number)
    assert averages.tensors["W_enc"].dtype == torch.float32
    torch.testing.assert_close(averages.tensors["W_enc"], sae.W_enc.data.float())


def test_a_run_evaluates_and_saves_the_averages(planted_cache: Path, tmp_path: Path) -> None:
    settings = TrainerConfig(
        tokens=24 * 128,
        batch_size=128,
        lr=1e-2,
        ema_decay=0.9,
        eval_every=16,
        eval_rows=200,
        checkpoint_every=16,
        device="cpu",
    )
    config = TrainConfig(
        cache=str(planted_cache),
        out=str(tmp_path / "run"),
        activation="batch_topk",
        n_latents=F,
        k=K,
        trainer=settings,
    )
    summary = train(config)
    rows = ActivationCache(planted_cache).held_out(limit=200)
    saved = SparseAutoencoder.load(tmp_path / "run")
    assert measure_rows(saved, rows).result() == summary["held_out"]

    trainer = Trainer(SparseAutoencoder(config.sae_config(D)), settings)
    restore_newest(tmp_path / "run" / "checkpoints", trainer, print)
    assert trainer.steps_done == 16
    written = (tmp_path / "run" / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in written.splitlines()]
    (at_16,) = (line["held_out"] for line in lines if "held_out" in line)
    assert measure_rows(trainer.trained(), rows).result() == at_16
    assert measure_rows(trainer.sae, rows).fvu != pytest.approx(at_16["fvu"], rel=1e-3)


def test_averaging_leaves_the_steps_as_they_are(planted_cache: Path) -> None:
    batches = [torch.randn(64, D) for _ in range(6)]
    plain = TrainerConfig(tokens=64 * 6, batch_size=64, lr=1e-2)
    trainers = [
        Trainer(SparseAutoencoder(BatchTopKConfig(D, F, K)), config)
        for config in (plain, dataclasses.replace(plain, ema_decay=0.99))
    ]
    for trainer in trainers:
        for x in batches:
            trainer.step(x)
    for name, tensor in trainers[0].sae.state_dict().items():
        assert torch.equal(tensor, trainers[1].sae.state_dict()[name]), name
    assert trainers[0].trained() is trainers[0].sae


@pytest.mark.parametrize("lost", ["adam.second.W_enc", "average.b_enc"])
def test_a_checkpoint_without_what_training_needs_is_named(tmp_path: Path, lost: str) -> None:
    trainer = Trainer(SparseAutoencoder(BatchTopKConfig(D, F, K)), TrainerConfig(ema_decay=0.9))
    trainer.step(torch.randn(64, D))
    folder = save_checkpoint(tmp_path, trainer, seconds=1.0, keep=1)
    tensors = load_tensors(folder / "trainer.safetensors", "no remedy")
    del tensors[lost]
    save_tensors(folder / "trainer.safetensors", tensors)
    (folder / "progress.json").write_text('{"steps_done": 1, "seconds": 1.0}')  # without checksums
    before = {name: tensor.clone() for name, tensor in trainer.sae.state_dict().items()}
    with pytest.raises(InputError, match=f"step-1 lacks {lost}, which training"):
        restore_newest(tmp_path, trainer, print)
    assert all(torch.equal(t, before[name]) for name, t in trainer.sae.state_dict().items())
