"""What `auto` comes to, TF32 set only for as long, and runs that keep the precision they have."""

import dataclasses
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from sparsteer.sae import InputError, SparseAutoencoder, TopKConfig
from sparsteer.training.chosen_precision import (
    chosen_precision,
    measuring_precision,
    products_in,
)
from sparsteer.training.config import TrainConfig
from sparsteer.training.run import checked_yaml, read_checked_yaml
from sparsteer.training.train import train
from sparsteer.training.trainer import Trainer
from sparsteer.training.trainer_config import TrainerConfig

from .test_train import assert_same_run, config_of, train_until

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that says what the GPU, which need not be there, multiplies natively."""

    def say(*, bfloat16: bool, tf32: bool) -> None:
        def supports_bfloat16(including_emulation: bool = True) -> bool:
            return bfloat16 or including_emulation

        monkeypatch.setattr(torch.cuda, "device", nullcontext)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", supports_bfloat16)
        monkeypatch.setattr(torch.cuda, "is_tf32_supported", lambda: tf32)

    return say


@pytest.mark.parametrize(
    ("bfloat16", "tf32", "shards", "weights", "expected"),
    [
        (True, True, 1, torch.float32, "bfloat16"),
        (True, True, 2, torch.float32, "tf32"),
        (False, True, 1, torch.float32, "tf32"),
        (False, False, 1, torch.float32, "float32"),
        (True, True, 1, torch.float64, "float32"),
    ],
)
def test_what_auto_comes_to_on_a_gpu(
    gpu: Any, bfloat16: bool, tf32: bool, shards: int, weights: torch.dtype, expected: str
) -> None:
    gpu(bfloat16=bfloat16, tf32=tf32)
    assert chosen_precision(TrainerConfig(shards=shards), CUDA, weights) == expected
    assert measuring_precision("auto", CUDA) == ("tf32" if tf32 else "float32")


def test_on_a_cpu_auto_is_float32_and_tf32_is_refused() -> None:
    assert chosen_precision(TrainerConfig(), CPU) == measuring_precision("auto", CPU) == "float32"
    assert chosen_precision(TrainerConfig(precision="bfloat16"), CPU) == "bfloat16"
    sae = SparseAutoencoder(TopKConfig(4, 8, 2))
    assert Trainer(sae, TrainerConfig()).config.precision == "float32"
    for refused in (
        lambda: Trainer(sae, TrainerConfig(precision="tf32")),
        lambda: measuring_precision("tf32", CPU),
    ):
        with pytest.raises(InputError, match="precision is tf32, which cpu does not have"):
            refused()


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_tf32_is_set_and_put_back(before: bool, precision: str) -> None:
    matmul = torch.backends.cuda.matmul
    try:
        matmul.allow_tf32 = before
        with pytest.raises(ZeroDivisionError), products_in(precision, CUDA):
            expected = {"float32": "ieee", "tf32": "tf32"}
            unchanged = "tf32" if before else "ieee"
            assert matmul.fp32_precision == expected.get(precision, unchanged)
            raise ZeroDivisionError
        assert matmul.allow_tf32 is before
        with products_in(precision, CPU):
            assert matmul.allow_tf32 is before
    finally:
        matmul.allow_tf32 = False


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_a_step_on_a_gpu_multiplies_what_it_is_asked_to(
    monkeypatch: pytest.MonkeyPatch, precision: Any
) -> None:
    sae = SparseAutoencoder(TopKConfig(16, 64, 4)).cuda()
    trainer = Trainer(sae, TrainerConfig(precision=precision, tokens=64, batch_size=32))
    found: list[Any] = []
    compute = trainer.loss

    def loss(*given: Any) -> Any:
        found.append(torch.backends.cuda.matmul.fp32_precision)
        return compute(*given)

    monkeypatch.setattr(trainer, "loss", loss)
    before = torch.backends.cuda.matmul.fp32_precision
    trainer.step(torch.randn(32, 16, device="cuda"))
    assert found == ["tf32" if precision == "tf32" else "ieee"]
    assert torch.backends.cuda.matmul.fp32_precision == before


def settings_of(config: TrainConfig) -> dict[str, Any]:
    settings: dict[str, Any] = yaml.safe_load((Path(config.out) / "config.yaml").read_text())
    return settings


def rewrite(config: TrainConfig, resolved: str | None, asked: str | None) -> None:
    """Let config.yaml say that the run was begun otherwise; None: it does not say."""
    path = Path(config.out) / "config.yaml"
    settings = read_checked_yaml(path)
    settings.pop("version")
    for values, name, value in (
        (settings, "resolved_precision", resolved),
        (settings["trainer"], "precision", asked),
    ):
        values.pop(name)
        if value is not None:
            values[name] = value
    path.write_text(checked_yaml(settings))


def test_a_run_says_and_keeps_its_precision(planted_cache: Path, tmp_path: Path) -> None:
    def config(name: str, precision: Any = "auto") -> TrainConfig:
        return config_of(planted_cache, tmp_path / name, precision=precision)

    said: list[str] = []
    whole = config("whole", precision="bfloat16")
    train(whole, say=said.append)
    assert settings_of(whole)["resolved_precision"] == "bfloat16" and not said
    train_until(config("killed", precision="bfloat16"), 20)
    with pytest.raises(InputError, match="with precision='bfloat16', not 'float32'"):
        train(config("killed", precision="float32"))
    train(config("killed"), say=said.append)
    assert "was begun in bfloat16 and stays so" in said[0]
    assert settings_of(config("killed"))["trainer"]["precision"] == "auto"
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize("asked", ["float32", pytest.param(None, marks=pytest.mark.slow)])
def test_a_run_of_before_there_was_auto_goes_on(
    planted_cache: Path, tmp_path: Path, asked: str | None
) -> None:
    whole, killed = (config_of(planted_cache, tmp_path / name) for name in ("whole", "killed"))
    said: list[str] = []
    train(whole, say=said.append)
    assert said[0] == "training multiplies float32 on cpu; --precision chooses"
    found = settings_of(whole)
    assert (found["resolved_precision"], found["trainer"]["precision"]) == ("float32", "auto")
    train_until(killed, 20)
    rewrite(killed, None, asked)
    said.clear()
    train(killed, say=said.append)
    assert said == [f"{killed.out} goes on from step 16"]
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


def test_a_run_begun_on_a_gpu_in_tf32_is_not_gone_on_with_on_a_cpu(
    planted_cache: Path, tmp_path: Path
) -> None:
    config = config_of(planted_cache, tmp_path / "run")
    train_until(config, 10)
    rewrite(config, "tf32", "auto")
    with pytest.raises(InputError, match="precision is tf32, which cpu does not have"):
        train(config)


@pytest.mark.parametrize("asked", ["tf32", "auto"])
def test_a_complete_run_in_tf32_is_told_to_be_complete_on_a_cpu(
    planted_cache: Path, tmp_path: Path, asked: str
) -> None:
    def config(tokens: int = 10 * 128) -> TrainConfig:
        constant = {"warmup_fraction": 0.0, "decay_fraction": 0.0, "dead_after_tokens": 10**5}
        return config_of(planted_cache, tmp_path / "run", tokens=tokens, **constant)

    summary = train(config())
    rewrite(config(), "tf32", asked)
    said: list[str] = []
    settings: dict[str, Any] = {"precision": asked}
    again, further = (
        dataclasses.replace(each, trainer=dataclasses.replace(each.trainer, **settings))
        for each in (config(), config(20 * 128))
    )
    found = train(again, say=said.append)
    assert said == [f"{again.out} is complete; nothing to train"]
    assert {**found, "crc32": 0} == {**summary, "crc32": 0}
    with pytest.raises(InputError, match="precision is tf32, which cpu does not have"):
        train(further)
    assert (tmp_path / "run" / "sae" / "config.json").exists()
