"""Training that begins with a trained autoencoder: its bits, its settings, its units."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsteer.sae import JumpReLUConfig, SparseAutoencoder, TopKConfig
from sparsteer.sae.common.errors import InputError
from sparsteer.sae.config import BatchTopKConfig, ReLUConfig, SAEConfig, TopAFAConfig
from sparsteer.sae.interop.folding import in_raw_units
from sparsteer.training.config import TrainConfig
from sparsteer.training.data.cache.reader import ActivationCache
from sparsteer.training.finetuning import as_started, into_training_units, trainable
from sparsteer.training.run import RunFolder
from sparsteer.training.runtime.stopping import Interrupted, StopRequest
from sparsteer.training.train import train
from sparsteer.training.trainer import Trainer
from sparsteer.training.trainer_config import TrainerConfig

from .training_cases import config_of, planted_rows

D, F, K = 12, 70, 4


@pytest.fixture(scope="module")
def source(planted_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 40 steps."""
    out = tmp_path_factory.mktemp("source") / "run"
    train(config_of(planted_cache, out))
    return out


def from_source(cache: Path, source: Path, out: Path, **changes: Any) -> TrainConfig:
    of_trainer = {field.name for field in dataclasses.fields(TrainerConfig)}
    trainer = {name: value for name, value in changes.items() if name in of_trainer}
    own = {name: value for name, value in changes.items() if name not in of_trainer}
    config = config_of(cache, out, seed=9, **trainer)
    changed = {"n_latents": None, "k": None, "finetune": str(source), **own}
    return dataclasses.replace(config, **changed)


def weights_of(run: Path) -> bytes:
    return (run / "sae" / "sae.safetensors").read_bytes()


def test_steps_of_no_length_leave_its_bits(
    planted_cache: Path, source: Path, tmp_path: Path
) -> None:
    train(from_source(planted_cache, source, tmp_path / "run", lr=1e-30, tokens=3 * 128))
    before, after = (SparseAutoencoder.load(run).state_dict() for run in (source, tmp_path / "run"))
    assert before.keys() == after.keys()
    for name in before.keys() - {"W_dec"}:
        assert torch.equal(before[name], after[name]), name
    torch.testing.assert_close(after["W_dec"], before["W_dec"], rtol=0, atol=2e-7)  # unit again


def test_it_goes_on_learning_and_says_from_what(
    planted_cache: Path, source: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    summary = train(from_source(planted_cache, source, tmp_path / "run"), say=said.append)
    assert any(f"training begins with {source}: topk, 70 latents" in one for one in said)
    assert summary["held_out"]["fvu"] < RunFolder(source).summary()["held_out"]["fvu"]
    settings = RunFolder(tmp_path / "run").settings()
    assert settings["finetune"] == str(source) and len(settings["finetune_fingerprint"]) == 64
    assert settings["finetune_origin"].startswith("tiny at ")
    assert settings["sae"]["n_latents"] == F and settings["sae"]["k"] == K


def test_an_interrupted_run_ends_as_one_that_was_not(
    planted_cache: Path, source: Path, tmp_path: Path
) -> None:
    train(from_source(planted_cache, source, tmp_path / "whole"))
    stop = StopRequest()
    config = from_source(planted_cache, source, tmp_path / "stopped")
    with pytest.raises(Interrupted):
        train(config, stop=stop, report=lambda done, total, figures: stop.set())
    train(config)
    assert weights_of(tmp_path / "whole") == weights_of(tmp_path / "stopped")


def test_a_run_belongs_to_what_it_began_with(
    planted_cache: Path, source: Path, tmp_path: Path
) -> None:
    train(from_source(planted_cache, source, tmp_path / "run", tokens=256))
    other = SparseAutoencoder.load(source)
    with torch.no_grad():
        other.b_enc[0] += 1
    other.save(tmp_path / "other")
    with pytest.raises(InputError, match="holds a run with finetune_fingerprint="):
        train(from_source(planted_cache, tmp_path / "other", tmp_path / "run", tokens=256))
    with pytest.raises(InputError, match="holds a run with"):
        train(config_of(planted_cache, tmp_path / "run", tokens=256, seed=9))


def test_k_may_be_another(planted_cache: Path, source: Path, tmp_path: Path) -> None:
    summary = train(from_source(planted_cache, source, tmp_path / "run", k=7, tokens=256))
    assert summary["k"] == 7
    assert SparseAutoencoder.load(tmp_path / "run").config.latents_of_row == 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_latents": 71}, "n_latents is 71, but SOURCE has 70; leave it out"),
        ({"activation": "batch_topk"}, "activation is batch_topk, but SOURCE has topk"),
        ({"prefixes": (0.5,)}, "prefixes is 35, but SOURCE has none"),
        ({"bandwidth": 0.3, "activation": "jumprelu"}, "activation is jumprelu, but SOURCE"),
        ({"site": None, "target_site": "x"}, "target_site is x, but SOURCE is an autoencoder"),
        ({"finetune": "missing"}, "missing"),
    ],
)
def test_what_contradicts_it_is_refused(
    planted_cache: Path, source: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    config = from_source(planted_cache, source, tmp_path / "run", **changes)
    with pytest.raises(InputError, match=re.escape(message.replace("SOURCE", str(source)))):
        train(config)
    assert not (tmp_path / "run").exists()


def test_another_width_is_refused(planted_cache: Path, tmp_path: Path) -> None:
    SparseAutoencoder(TopKConfig(D + 1, F, K)).save(tmp_path / "wide")
    with pytest.raises(InputError, match="width 13"):
        train(from_source(planted_cache, tmp_path / "wide", tmp_path / "run"))


def test_a_relu_autoencoder_is_not_trained() -> None:
    with pytest.raises(InputError, match="is relu, which is not trained here; give one that is"):
        trainable(SparseAutoencoder(ReLUConfig(D, F)))
    layered = SparseAutoencoder(TopKConfig(D, F, K, normalize_activations="layer_norm"))
    with pytest.raises(InputError, match="normalizes every row"):
        trainable(layered)


CONFIGS = [
    TopKConfig(24, F, K),
    TopKConfig(24, F, K, apply_b_dec_to_input=False),
    TopKConfig(24, F, K, transcoder=True),
    BatchTopKConfig(24, F, K),
    JumpReLUConfig(24, F),
    JumpReLUConfig(24, F, transcoder=True),
    TopAFAConfig(24, F, target_scale=0.7),
    TopAFAConfig(24, F, learned_scale=True),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.activation}-{c.transcoder}")
def test_raw_units_become_those_of_training_and_nothing_else_changes(config: SAEConfig) -> None:
    """What other libraries give: raw rows, latents in raw units, thresholds that are fixed."""
    rows, target = 40 * planted_rows(400) + 3, 7 * planted_rows(400).flip(0) - 2
    sae = SparseAutoencoder(config, seed=3)
    with torch.no_grad():
        sae.b_dec.copy_(rows.mean(0))
        sae.b_enc.copy_(torch.randn(F))
        if config.activation == "batch_topk":
            sae.get_buffer("threshold").fill_(5.0)
        if config.activation == "jumprelu":
            sae.get_parameter("threshold_exponent").fill_(0.3)
    raw = in_raw_units(sae) if config.activation == "jumprelu" else sae
    found = trainable(raw)
    assert found.config.apply_b_dec_to_input
    before = raw(rows)
    torch.testing.assert_close(found(rows), before, rtol=1e-4, atol=1e-3)
    samples = (rows, target) if config.transcoder else (rows,)
    assert into_training_units(found, *samples)
    assert not into_training_units(found, *samples)
    torch.testing.assert_close(found(rows), before, rtol=1e-3, atol=2e-2)
    assert found.scaled(rows).square().sum(-1).mean() == pytest.approx(24, rel=0.3)
    trainer = Trainer(found, TrainerConfig(tokens=4000, batch_size=100, target_l0=_target(config)))
    for start in range(0, 400, 100):
        part = slice(start, start + 100)
        metrics = trainer.step(*(sample[part] for sample in samples))
        assert metrics.figures()["loss"] > 0


@pytest.mark.parametrize(
    "config", [JumpReLUConfig(24, F), TopAFAConfig(24, F), TopKConfig(24, F, K)], ids=str
)
def test_decoder_rows_get_norm_1_where_no_latent_is_chosen_otherwise(config: SAEConfig) -> None:
    sae = SparseAutoencoder(config, seed=3)
    with torch.no_grad():
        sae.b_enc.copy_(0.1 * torch.randn(F))
        sae.W_dec.mul_(torch.rand(F, 1) + 0.5)
        sae.W_dec[5] = 0
    rows = planted_rows(200)
    if config.activation == "topk":
        with pytest.raises(InputError, match=r"decoder rows of norms from 0 to 1\.[3-5]"):
            trainable(sae)
        return
    before = sae(rows)
    found = trainable(sae)
    norms = found.decoder_norms()
    torch.testing.assert_close(norms[norms > 0], torch.ones(F - 1))
    torch.testing.assert_close(found(rows), before, rtol=1e-4, atol=1e-4)
    assert torch.equal(sae(rows), before)  # which is not changed


def test_a_lista_step_comes_along_and_whitening_is_refused() -> None:
    twice = SparseAutoencoder(TopKConfig(D, F, K, lista_step=0.3))
    config = as_started(TrainConfig(cache="c", out="o", finetune="s"), twice)
    assert config.sae_config(D) == twice.config
    with pytest.raises(InputError, match=r"lista_step is 0.1, but s has 0.3"):
        as_started(TrainConfig(cache="c", out="o", finetune="s", lista_step=0.1), twice)
    whitened = TrainerConfig(tokens=4096, whitening=0.5)
    with pytest.raises(InputError, match="whitening"):
        as_started(TrainConfig(cache="c", out="o", finetune="s", trainer=whitened), twice)


def _target(config: SAEConfig) -> int | None:
    return 5 if "target_l0" in config.training_settings and _learns(config) else None


def _learns(config: SAEConfig) -> bool:
    return config.activation == "jumprelu"


def test_settings_of_the_source_fill_what_is_left_out() -> None:
    nested = SparseAutoencoder(BatchTopKConfig(D, F, K, prefixes=(9, 30)))
    config = as_started(TrainConfig(cache="c", out="o", finetune="s"), nested)
    assert config.sae_config(D) == nested.config
    jump = SparseAutoencoder(JumpReLUConfig(D, F, 0.7))
    config = as_started(TrainConfig(cache="c", out="o", finetune="s"), jump)
    assert config.sae_config(D) == jump.config


def test_a_wanted_l0_begins_at_the_scale_of_the_source(planted_cache: Path, tmp_path: Path) -> None:
    SparseAutoencoder(TopAFAConfig(D, F, target_scale=0.6)).save(tmp_path / "source")
    config = from_source(
        planted_cache, tmp_path / "source", tmp_path / "run", target_l0=5, tokens=128, lr=1e-30
    )
    train(config)
    learned = SparseAutoencoder.load(tmp_path / "run").config
    assert isinstance(learned, TopAFAConfig) and learned.learned_scale
    assert learned.target_scale == pytest.approx(0.6, rel=0.03)  # one step away


def test_another_model_is_said(planted_cache: Path, source: Path, tmp_path: Path) -> None:
    sae = SparseAutoencoder.load(source)
    assert sae.origin is not None
    sae.origin = dataclasses.replace(sae.origin, model="another")
    sae.save(tmp_path / "source")
    said: list[str] = []
    config = from_source(planted_cache, tmp_path / "source", tmp_path / "run", tokens=128)
    train(config, say=said.append)
    assert any("was trained on another at" in one and "goes on tiny at" in one for one in said)
    assert ActivationCache(planted_cache).d_model == D
