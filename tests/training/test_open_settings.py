"""Batch size, learning rate and dead window that a command leaves open: derived, kept, resumed."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from sparsteer.sae.common.errors import InputError
from sparsteer.training.config import TrainConfig
from sparsteer.training.defaults import derived_defaults
from sparsteer.training.open_settings import OPEN_SETTINGS, as_begun, begun_with, with_defaults
from sparsteer.training.run import RunFolder, checked_yaml
from sparsteer.training.train import estimate_training, train, train_grid
from sparsteer.training.trainer_config import TrainerConfig

TOKENS, LATENTS = 3000, 40
OPEN = TrainerConfig(
    tokens=TOKENS, log_every=5, eval_every=10**6, eval_rows=100, checkpoint_every=8, device="cpu"
)
RULE = dataclasses.asdict(derived_defaults(TOKENS, LATENTS, "topk"))


def config_of(cache: Path, out: Path, **changes: Any) -> TrainConfig:
    trainer = dataclasses.replace(OPEN, **changes)
    return TrainConfig(cache=str(cache), out=str(out), n_latents=LATENTS, k=4, trainer=trainer)


def weights_of(run: Path) -> bytes:
    return (run / "sae" / "sae.safetensors").read_bytes()


def test_what_is_open_is_derived_said_and_written_and_the_same_as_given(
    planted_cache: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    train(config_of(planted_cache, tmp_path / "open"), say=said.append)
    settings = RunFolder(tmp_path / "open").settings()
    assert {name: settings["trainer"][name] for name in OPEN_SETTINGS} == RULE
    assert settings["derived_settings"] == list(OPEN_SETTINGS)
    (sentence,) = [one for one in said if "by its rule" in one]
    assert f"{RULE['batch_size']} rows" in sentence and f"{RULE['lr']:g}" in sentence
    train(config_of(planted_cache, tmp_path / "given", **RULE), say=said.append)
    assert RunFolder(tmp_path / "given").settings()["derived_settings"] == []
    assert weights_of(tmp_path / "open") == weights_of(tmp_path / "given")
    assert len([one for one in said if "by its rule" in one]) == 1


def test_a_run_that_has_begun_goes_on_in_its_own(planted_cache: Path, tmp_path: Path) -> None:
    """Whatever the rule says by now; a value that is given must be its own."""
    own = {"batch_size": 100, "lr": 0.002, "dead_after_tokens": 900}
    summary = train(config_of(planted_cache, tmp_path / "run", **own))
    assert train(config_of(planted_cache, tmp_path / "run")) == summary
    assert train(config_of(planted_cache, tmp_path / "run", lr=0.002)) == summary
    with pytest.raises(InputError, match=r"holds a run with lr=0\.002, not 0\.003"):
        train(config_of(planted_cache, tmp_path / "run", lr=0.003))
    estimate = estimate_training(config_of(planted_cache, tmp_path / "run"))
    assert {name: getattr(estimate, name) for name in OPEN_SETTINGS} == own


def test_a_run_of_an_older_sparsteer_goes_on(planted_cache: Path, tmp_path: Path) -> None:
    """It wrote its batch size, and left rate and dead window open."""
    came_to = {"batch_size": 128, "lr": 2e-4 / (LATENTS / 2**14) ** 0.5, "dead_after_tokens": 300}
    summary = train(config_of(planted_cache, tmp_path / "run", **came_to))
    run = RunFolder(tmp_path / "run")
    settings = run.settings()
    del settings["derived_settings"]
    settings["trainer"] |= {"lr": None, "dead_after_tokens": None}
    (run.path / "config.yaml").write_text(checked_yaml(settings))
    assert begun_with(run.settings()) == came_to
    assert train(config_of(planted_cache, tmp_path / "run")) == summary
    assert train(config_of(planted_cache, tmp_path / "run", batch_size=128)) == summary
    with pytest.raises(InputError, match="holds a run with batch_size=128, not 256"):
        train(config_of(planted_cache, tmp_path / "run", batch_size=256))


@pytest.mark.slow
@pytest.mark.parametrize("name", OPEN_SETTINGS)
def test_what_was_derived_from_the_total_is_not_trained_further(
    planted_cache: Path, tmp_path: Path, name: str
) -> None:
    flat: dict[str, Any] = {"warmup_fraction": 0.0, "decay_fraction": 0.0}
    train(config_of(planted_cache, tmp_path / "run", **flat))
    some = {key: value for key, value in RULE.items() if key != name}
    with pytest.raises(InputError, match=re.escape(f"({name}, left open, count from the total)")):
        train(config_of(planted_cache, tmp_path / "run", **flat, **some, tokens=2 * TOKENS))
    # Given, they are those of a run that was asked for more at first.
    train(config_of(planted_cache, tmp_path / "run", **flat, **RULE, tokens=2 * TOKENS))
    train(config_of(planted_cache, tmp_path / "whole", **flat, **RULE, tokens=2 * TOKENS))
    assert weights_of(tmp_path / "run") == weights_of(tmp_path / "whole")


def test_a_grid_shares_its_batches_with_a_run_that_has_begun(
    planted_cache: Path, tmp_path: Path
) -> None:
    train(config_of(planted_cache, tmp_path / "old", batch_size=100))
    new = dataclasses.replace(config_of(planted_cache, tmp_path / "new"), n_latents=100 * LATENTS)
    train_grid([config_of(planted_cache, tmp_path / "old"), new])
    old, new_settings = (RunFolder(tmp_path / name).settings() for name in ("old", "new"))
    assert old["trainer"]["batch_size"] == new_settings["trainer"]["batch_size"] == 100
    assert old["trainer"]["lr"] > new_settings["trainer"]["lr"]


def test_nothing_given_is_changed() -> None:
    given = {"batch_size": 77, "lr": 0.5, "dead_after_tokens": 5}
    config = TrainConfig(
        cache="c", out="o", n_latents=LATENTS, trainer=dataclasses.replace(OPEN, **given)
    )
    assert with_defaults(config, 8) is config
    assert as_begun([config], [RULE]) == [config]
