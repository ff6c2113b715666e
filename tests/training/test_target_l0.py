"""top_afa at a wanted L0: its target scale is led there, saved, resumed, described and exported."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from sparsteer.sae import InputError, JumpReLUConfig, SparseAutoencoder, TopAFAConfig, TopKConfig
from sparsteer.sae.activations.top_afa import TopAFA
from sparsteer.sae.config import SAEConfig
from sparsteer.sae.fingerprint import sae_fingerprint
from sparsteer.sae.interop.export import export
from sparsteer.sae.metrics import measure_rows
from sparsteer.training import trainer as trainer_module
from sparsteer.training.checkpoint import restore_newest, trainer_state
from sparsteer.training.config import TrainConfig
from sparsteer.training.distributed.collectives import Distributed
from sparsteer.training.forecast.memory import StepSizes
from sparsteer.training.non_finite import NonFiniteLoss
from sparsteer.training.target_l0 import aimed_l0
from sparsteer.training.train import train
from sparsteer.training.trainer import Trainer
from sparsteer.training.trainer_config import TrainerConfig

from .test_train import assert_same_run, config_of, train_until
from .training_cases import planted_rows, save_checkpoint

D, F, K, B = 24, 120, 6, 128
LEARNING = TopAFAConfig(D, F, learned_scale=True)


def new_trainer(n_steps: int, target: int = K, **settings: Any) -> Trainer:
    settings = {"tokens": n_steps * B, "batch_size": B, "lr": 3e-3, **settings}
    config = TrainerConfig(target_l0=target, dead_after_tokens=20 * B, **settings)
    return Trainer(SparseAutoencoder(LEARNING, seed=1), config)


def scale_of(sae: SparseAutoencoder) -> Tensor:
    return sae.get_buffer("target_scale")


def mean_l0(sae: SparseAutoencoder, rows: Tensor) -> float:
    return float((sae.encode(rows).values > 0).sum(-1).double().mean())


@pytest.mark.parametrize(
    ("target", "start", "n_steps"),
    [(K, None, 60), (K, None, 400), (K, 1.6, 400), (K, 0.3, 400), (20, None, 400)],
)
@pytest.mark.slow_except("6-None-60")
def test_training_comes_to_the_target(target: int, start: float | None, n_steps: int) -> None:
    rows = planted_rows((n_steps + 8) * B)
    trainer = new_trainer(n_steps, target)
    trainer.initialize(rows[: 8 * B])
    if start is not None:
        scale_of(trainer.sae).fill_(start)
    began = float(scale_of(trainer.sae))
    for batch in torch.split(rows[8 * B :], B):
        trainer.step(batch, measured=False)
    assert mean_l0(trainer.sae, rows[: 8 * B]) == pytest.approx(target, rel=0.05)
    measures = measure_rows(trainer.sae, rows[: 8 * B])
    assert measures.fvu < 0.6
    assert measures.result()["l0"] == pytest.approx(target, rel=0.05)
    if start is not None:
        assert abs(math.log(float(scale_of(trainer.sae)) / began)) > 0.1


def test_it_begins_near_the_target() -> None:
    trainer = new_trainer(10)
    rows = planted_rows(2000)
    trainer.initialize(rows)
    assert mean_l0(trainer.sae, rows) == pytest.approx(K, rel=0.3)
    fixed = SparseAutoencoder(TopAFAConfig(D, F))
    before = {name: tensor.clone() for name, tensor in fixed.state_dict().items()}
    fixed.activation.initialize(fixed, rows, {"target_l0": K})
    assert all(torch.equal(tensor, before[name]) for name, tensor in fixed.state_dict().items())


@pytest.mark.parametrize(
    ("l0", "moved"),
    [
        (K, 1.0),
        (2 * K, 0.5**0.02),
        (K // 2, 2**0.02),
        (0, math.exp(0.02)),
        (9 * K, math.exp(-0.02)),
    ],
)
def test_a_step_moves_the_scale_by_how_far_off_it_is(l0: int, moved: float) -> None:
    sae = SparseAutoencoder(dataclasses.replace(LEARNING, target_scale=0.8))
    with torch.no_grad():  # all of the first latents are active, no others
        sae.b_enc.fill_(-1e6)
        sae.b_enc[:l0] = 1
        sae.W_enc.zero_()
    x = torch.full((5, D), 1e6)
    codes = sae.encode_train(x)
    assert (codes.values > 0).sum() == 5 * l0
    sae.activation.after_step(sae, codes, {"target_l0": K}, Distributed())
    assert float(scale_of(sae)) == pytest.approx(0.8 * moved, rel=1e-6)


def test_the_scale_stays_within_bounds() -> None:
    sae = SparseAutoencoder(LEARNING)
    codes = sae.encode_train(torch.randn(50, D))
    for start, target in ((1e3, F), (1e-3, 1)):
        scale_of(sae).fill_(start)
        sae.activation.after_step(sae, codes, {"target_l0": target}, Distributed())
        assert float(scale_of(sae)) == pytest.approx(start, rel=1e-6)


def test_a_resumed_training_ends_with_the_same_bits(tmp_path: Path) -> None:
    batches = torch.split(planted_rows(24 * B), B)
    whole, first, second = (new_trainer(24) for _ in range(3))
    for batch in batches:
        whole.step(batch)
    for batch in batches[:11]:
        first.step(batch)
    save_checkpoint(tmp_path, first, seconds=1.0, keep=1)
    restore_newest(tmp_path, second, print)
    assert float(scale_of(second.sae)) == float(scale_of(first.sae)) != 1
    for batch in batches[11:]:
        second.step(batch)
    expected = trainer_state(whole)
    for name, tensor in trainer_state(second).items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("late", [False, True], ids=["at once", "as on a GPU"])
def test_a_step_that_is_not_done_leaves_the_scale(
    late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_late(tensor: Tensor) -> bool:
        return late

    monkeypatch.setattr(trainer_module, "uses_triton", is_late)
    trainer = new_trainer(8)
    rows = planted_rows(4 * B)
    for batch in torch.split(rows, B)[:3]:
        trainer.step(batch)
    trainer.synchronize()
    before = float(scale_of(trainer.sae))
    bad = rows[-B:].clone()
    bad[17, 3] = torch.nan
    with pytest.raises(NonFiniteLoss, match="step 3 "):
        trainer.step(bad)
        assert late
        trainer.synchronize()
    assert float(scale_of(trainer.sae)) == before
    trainer.step(rows[-B:])
    trainer.synchronize()
    assert float(scale_of(trainer.sae)) != before


def test_files_say_the_scale_that_was_learned(tmp_path: Path) -> None:
    trainer = new_trainer(5)
    rows = planted_rows(5 * B)
    for batch in torch.split(rows, B):
        trainer.step(batch)
    sae, scale = trainer.sae, float(scale_of(trainer.sae))
    assert scale != 1
    sae.save(tmp_path / "saved")
    loaded = SparseAutoencoder.load(tmp_path / "saved")
    assert loaded.config == dataclasses.replace(LEARNING, target_scale=scale)
    assert sae_fingerprint(loaded) == sae_fingerprint(sae)

    export(sae, tmp_path / "exported", "sparsteer")
    exported = SparseAutoencoder.load(tmp_path / "exported")
    assert exported.config == TopAFAConfig(D, F, target_scale=scale)
    assert "target_scale" not in exported.state_dict()
    for read in (loaded, exported):
        codes, expected = read.encode(rows), sae.encode(rows)
        assert torch.equal(codes.indices, expected.indices)
        assert torch.equal(codes.values, expected.values)
        assert isinstance(read.activation, TopAFA)
    again = SparseAutoencoder(TopAFAConfig(D, F, target_scale=0.7))
    assert again.activation.exported(again) is again

    for layout in ("saelens", "sparsify", "dictionary_learning"):
        with pytest.raises(InputError, match="activation is top_afa"):
            export(sae, tmp_path / layout, layout)


@pytest.mark.parametrize(
    ("sae", "target", "sentence"),
    [
        (
            TopKConfig(D, F, K),
            8,
            "target_l0 is 8, but topk has none; leave it out, or choose activation "
            "top_afa or jumprelu",
        ),
        (TopAFAConfig(D, F), 8, "has a fixed target_scale, 1; leave it out, or set learned_scale"),
        (LEARNING, F + 1, f"target_l0 is {F + 1}, but there are only {F} latents; lower"),
        (JumpReLUConfig(D, F), F + 1, f"but there are only {F} latents"),
    ],
)
def test_a_target_that_does_not_suit_is_refused(sae: SAEConfig, target: int, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as caught:
        Trainer(SparseAutoencoder(sae), TrainerConfig(target_l0=target))
    assert caught.value.field == "target_l0"


def test_the_flag_makes_the_scale_learned() -> None:
    def config(**changes: Any) -> TrainConfig:
        trainer = TrainerConfig(target_l0=changes.pop("target_l0", None))
        values: Any = {"activation": "top_afa", "n_latents": F, "trainer": trainer, **changes}
        return TrainConfig(cache="c", out="o", **values)

    assert config().sae_config(D) == TopAFAConfig(D, F)
    assert config(target_l0=K).sae_config(D) == LEARNING
    with pytest.raises(InputError, match=r"target_scale is 0.7, but with target_l0 6 training"):
        config(target_l0=K, target_scale=0.7).sae_config(D)
    with pytest.raises(InputError, match="target_l0 is 0"):
        config(target_l0=0)


def test_what_a_target_left_open_comes_to() -> None:
    for target, expected in ((None, 32), (K, K)):
        for sae in (JumpReLUConfig(D, F), LEARNING):
            settings = TrainerConfig(target_l0=target).activation_settings(sae)
            assert aimed_l0(sae, target) == settings["target_l0"] == expected
    assert aimed_l0(TopAFAConfig(D, F), None) is aimed_l0(TopKConfig(D, F, K), None) is None


def test_the_forecast_counts_the_latents_aimed_at() -> None:
    def slots(sae: SAEConfig, **settings: Any) -> int:
        backend: Any = None
        return StepSizes(sae, TrainerConfig(**settings), "float32", backend).slots_per_row

    assert slots(dataclasses.replace(LEARNING, n_latents=4096), target_l0=64) == 64
    assert slots(JumpReLUConfig(D, 4096)) == 32
    assert slots(TopAFAConfig(D, 4096)) == 256


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["topk", "jumprelu", "top_afa"])
def test_a_run_of_an_older_version_goes_on(
    activation: Any, planted_cache: Path, tmp_path: Path
) -> None:
    """It wrote a target of 32 for every activation, of which only jumprelu took it."""
    train(config_of(planted_cache, tmp_path / "whole", activation))
    config = config_of(planted_cache, tmp_path / "run", activation)
    train_until(config, 20)
    path = tmp_path / "run" / "config.yaml"
    resolved = yaml.safe_load(path.read_text())
    assert resolved["trainer"]["target_l0"] is None
    resolved["trainer"]["target_l0"] = 32
    del resolved["sha256"], resolved["version"]
    path.write_text(yaml.safe_dump(resolved))
    train(config)
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    if activation == "top_afa":
        with pytest.raises(InputError, match="holds a run with target_l0=None, not 32"):
            train(config_of(planted_cache, tmp_path / "run", activation, target_l0=32))
