"""Grids: what they name, what they refuse, and that each autoencoder is the one trained alone."""

import dataclasses
import errno
import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsteer.sae import InputError, SparseAutoencoder, TopAFAConfig
from sparsteer.sae.common.locks import hold_folder
from sparsteer.training import checkpoint as checkpoint_module
from sparsteer.training.config import TrainConfig
from sparsteer.training.data.cache import reader as cache_module
from sparsteer.training.grid import grid_configs, parse_grid
from sparsteer.training.non_finite import NonFiniteLoss
from sparsteer.training.runtime.stopping import Interrupted, StopRequest
from sparsteer.training.train import train, train_grid
from sparsteer.training.trainer import Trainer
from sparsteer.training.trainer_config import TrainerConfig

GRID = ["activation=topk,top_afa", "k=3,5", "seed=0,4", "afa_coefficient=0.01,0.1"]


def config_of(cache: str | Path, out: Path) -> TrainConfig:
    trainer = TrainerConfig(
        tokens=30 * 64, batch_size=64, lr=3e-3, log_every=3, eval_every=7, checkpoint_every=7
    )
    return TrainConfig(cache=str(cache), out=str(out), n_latents=40, trainer=trainer)


def names(configs: list[TrainConfig]) -> list[str]:
    return [Path(config.out).name for config in configs]


def bits(run: str | Path) -> dict[str, Any]:
    return {
        name: tensor.numpy().tobytes()
        for name, tensor in SparseAutoencoder.load(run).state_dict().items()
    }


def steps_logged(run: str | Path) -> list[tuple[int, str]]:
    """Step and kind of every line."""
    lines = [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]
    kinds = ("loss", "held_out", "summary")
    return [(line["step"], next(kind for kind in kinds if kind in line)) for line in lines]


def test_settings_go_to_the_activations_that_have_them() -> None:
    configs = grid_configs(config_of("c", Path("out")), parse_grid(GRID))
    of_topk = [f"topk-k{k}-seed{seed}" for k in (3, 5) for seed in (0, 4)]
    of_afa = [f"top_afa-seed{s}-afa_coefficient{c}" for s in (0, 4) for c in (0.01, 0.1)]
    assert names(configs) == of_topk + of_afa
    by_name = dict(zip(names(configs), configs, strict=True))
    assert by_name["topk-k5-seed4"].k == 5
    assert by_name["topk-k5-seed4"].trainer.seed == 4
    afa = by_name["top_afa-seed0-afa_coefficient0.1"]
    assert (afa.k, afa.trainer.afa_coefficient, afa.activation) == (None, 0.1, "top_afa")


def test_a_k_given_beside_the_grid_is_for_those_that_have_one() -> None:
    config = dataclasses.replace(config_of("c", Path("out")), k=6)
    topk, afa = grid_configs(config, parse_grid(["activation=topk,top_afa"]))
    assert (topk.k, afa.k) == (6, None)


def test_a_setting_of_training_goes_to_the_activations_that_have_it() -> None:
    config = config_of("c", Path("out"))
    config = dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, k_start=40))
    words = ["activation=topk,jumprelu", "k_anneal_fraction=0.2,0.5"]
    few, many, jump = grid_configs(config, parse_grid(words))
    assert (few.trainer.k_start, few.trainer.k_anneal_fraction) == (40, 0.2)
    assert many.trainer.k_anneal_fraction == 0.5
    assert jump.trainer.k_start is None and jump.sae_config(12).n_latents == 40


def test_a_target_l0_goes_to_the_activations_that_have_one() -> None:
    config = config_of("c", Path("out"))
    config = dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, target_l0=9))
    topk, afa, jump = grid_configs(config, parse_grid(["activation=topk,top_afa,jumprelu"]))
    assert (topk.trainer.target_l0, afa.trainer.target_l0, jump.trainer.target_l0) == (None, 9, 9)
    assert afa.sae_config(12) == TopAFAConfig(12, 40, learned_scale=True)
    words = ["activation=topk,top_afa", "k=3", "target-l0=5,7"]
    assert names(grid_configs(config, parse_grid(words))) == [
        "topk-k3",
        "top_afa-target_l05",
        "top_afa-target_l07",
    ]


def test_words_become_values_of_the_settings_type() -> None:
    grid = parse_grid(["n-latents=1_024,2048", "lr=1e-3", "activation=topk"])
    assert grid == {"n_latents": (1024, 2048), "lr": (1e-3,), "activation": ("topk",)}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "grid is empty"),
        (["n_latnts=3"], "grid has no setting 'n_latnts'; perhaps you meant n_latents"),
        (
            ["zzz=3"],
            "grid has no setting 'zzz'; it has site, target_site, activation, n_latents, k",
        ),
        (["batch-size=3"], "grid has batch-size, but .* give --batch-size instead"),
        (["k"], "grid has 'k'; write k=VALUE,VALUE"),
        (["k=3,,4"], "grid has 'k=3,,4'; write k=VALUE"),
        (["k=3", "k=4"], "grid has k twice"),
        ([f"seed={','.join(map(str, range(20_000)))}"], "grid has 20,000 choices, more than the"),
        (["lr=fast"], "grid has lr=fast, but must have a number"),
        (["activation=topk,top_afaa"], "activation is 'top_afaa'; did you mean top_afa?"),
        (["activation=top_afa", "k=3"], "grid has k, which none of its autoencoders use"),
        (["lr=-1,1"], "grid, lr-1.0: lr is -1.0, but must be between"),
    ],
)
def test_what_is_refused(words: list[str], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        grid_configs(config_of("c", Path("out")), parse_grid(words))


def test_a_mapping_with_an_unknown_setting_is_refused() -> None:
    with pytest.raises(InputError, match="grid has no setting 'sede'"):
        grid_configs(config_of("c", Path("out")), {"sede": [1]})


@pytest.mark.slow
def test_each_is_the_one_trained_alone_from_one_reading(
    planted_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings: list[int] = []
    read = cache_module.shuffled_batches

    def counted(*shards: Any, batch_size: int, **options: Any) -> Any:
        readings.append(batch_size)
        yield from read(*shards, batch_size=batch_size, **options)

    grid = parse_grid([GRID[0], GRID[2]])
    configs = grid_configs(config_of(planted_cache, tmp_path / "grid"), grid)
    with monkeypatch.context() as patch:
        patch.setattr(cache_module, "shuffled_batches", counted)
        summaries = train_grid(configs)
    assert readings.count(64) == 1 and len(readings) == 2  # beside it the sample to begin from
    assert [summary["run"] for summary in summaries] == [config.out for config in configs]
    for config in configs:
        alone = dataclasses.replace(config, out=str(tmp_path / "alone" / Path(config.out).name))
        summary = train(alone)
        assert bits(alone.out) == bits(config.out)
        assert steps_logged(alone.out) == steps_logged(config.out)
        assert summary["held_out"] in [other["held_out"] for other in summaries]
    assert len({str(bits(config.out)) for config in configs}) == len(configs)


@pytest.mark.slow
def test_each_resumes_from_where_it_was(
    planted_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is complete, one further on than another, and one has not begun."""
    grid = parse_grid(["k=3,4,5,6"])
    whole = grid_configs(config_of(planted_cache, tmp_path / "whole"), grid)
    train_grid(whole)
    configs = grid_configs(config_of(planted_cache, tmp_path / "grid"), grid)
    train(configs[0])
    step, last = Trainer.step, {4: 20, 5: 9}

    class Killed(Exception):
        pass

    def killed(trainer: Trainer, x: torch.Tensor, **options: Any) -> Any:
        if trainer.steps_done == last[dataclasses.asdict(trainer.sae.config)["k"]]:
            raise Killed
        return step(trainer, x, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", killed)
        for config in configs[1:3]:
            with pytest.raises(Killed):
                train(config)
    said: list[str] = []
    train_grid(configs, say=said.append)
    for sentence in ("k3 is complete", "k4 goes on from step 14", "k5 goes on from step 7"):
        assert any(sentence in one for one in said)
    for ours, uninterrupted in zip(configs, whole, strict=True):
        assert bits(ours.out) == bits(uninterrupted.out)
        assert steps_logged(ours.out) == steps_logged(uninterrupted.out)


def test_a_request_to_stop_saves_all(planted_cache: Path, tmp_path: Path) -> None:
    configs = grid_configs(config_of(planted_cache, tmp_path / "grid"), {"seed": [0, 1]})
    stop = StopRequest()

    def report(name: str, done: int, total: int, figures: dict[str, float]) -> None:
        if done == 12 and name == configs[0].out:
            stop.set()

    with pytest.raises(Interrupted, match="at step 12 of 30"):
        train_grid(configs, report=report, stop=stop)
    for config in configs:
        assert (Path(config.out) / "checkpoints" / "step-12").is_dir()


def test_a_request_between_two_of_them_stops_both_after_the_same_step(
    planted_cache: Path, tmp_path: Path
) -> None:
    configs = grid_configs(config_of(planted_cache, tmp_path / "grid"), {"seed": [0, 1]})
    stop = StopRequest()

    def report(name: str, done: int, total: int, figures: dict[str, float]) -> None:
        if done == 12 and name == configs[1].out:  # when the first has gone on
            stop.set()

    with pytest.raises(Interrupted, match="at step 12 of 30"):
        train_grid(configs, report=report, stop=stop)
    for config in configs:
        assert (Path(config.out) / "checkpoints" / "step-12").is_dir()


@pytest.mark.parametrize("n_read", [0, 5])
def test_where_a_batch_cannot_be_read_all_are_saved(
    planted_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_read: int
) -> None:
    configs = grid_configs(config_of(planted_cache, tmp_path / "grid"), {"seed": [0, 1]})
    batches = cache_module.ActivationCache.batches

    def cut(self: Any, *words: Any, **options: Any) -> Any:
        yield from islice(batches(self, *words, **options), n_read)
        raise InputError("a shard is gone")

    with monkeypatch.context() as patch:
        patch.setattr(cache_module.ActivationCache, "batches", cut)
        told = "^a shard is gone; step 5 is saved$" if n_read else "^a shard is gone$"
        with pytest.raises(InputError, match=told):
            train_grid(configs)
    for config in configs:
        assert (Path(config.out) / "checkpoints" / "step-5").is_dir() == bool(n_read)


def test_one_that_diverges_stops_alone(
    planted_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = grid_configs(config_of(planted_cache, tmp_path / "grid"), {"seed": [0, 1]})
    step = Trainer.step

    def diverging(trainer: Trainer, x: torch.Tensor, **options: Any) -> Any:
        if trainer.steps_done == 11 and trainer.config.seed == 1:
            raise NonFiniteLoss("the loss of step 11 is not finite")
        return step(trainer, x, **options)

    monkeypatch.setattr(Trainer, "step", diverging)
    good, bad = train_grid(configs)
    assert good["steps"] == 30
    assert bad == {"run": configs[1].out, "failed": "the loss of step 11 is not finite"}
    assert not Path(configs[1].out, "sae").exists()
    assert Path(configs[1].out, "checkpoints", "step-7").is_dir()


def test_a_full_disk_is_told_where_all_diverge(
    planted_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No run is left whose next checkpoint would tell it."""
    configs = grid_configs(config_of(planted_cache, tmp_path / "grid"), {"seed": [0, 1]})
    step = Trainer.step

    def diverging(trainer: Trainer, x: torch.Tensor, **options: Any) -> Any:
        if trainer.steps_done == 7:
            raise NonFiniteLoss("the loss of step 7 is not finite")
        return step(trainer, x, **options)

    def full(path: Path, tensors: dict[str, torch.Tensor]) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Trainer, "step", diverging)
    found = train_grid(configs)
    assert [summary["failed"] for summary in found] == ["the loss of step 7 is not finite"] * 2
    monkeypatch.setattr(checkpoint_module, "save_tensors", full)
    configs = grid_configs(config_of(planted_cache, tmp_path / "full"), {"seed": [0]})
    with pytest.raises(OSError, match="No space left"):
        train_grid(configs)


def test_other_settings_in_one_folder_are_refused_before_any_training(
    planted_cache: Path, tmp_path: Path, write_cache: Callable[..., Path]
) -> None:
    configs = grid_configs(config_of(planted_cache, tmp_path / "grid"), {"seed": [0, 1]})
    train(configs[1])
    changed = [
        dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, lr=1e-4))
        for config in configs
    ]
    with pytest.raises(InputError, match=r"seed1 holds a run with lr=0\.003, not 0\.0001"):
        train_grid(changed)
    assert not Path(configs[0].out, "metrics.jsonl").exists()


@pytest.mark.parametrize("harm", ["checkpoints", "settings", "summary", "held"])
def test_a_grid_that_one_member_forbids_to_go_further_is_left_as_it_is(
    planted_cache: Path, tmp_path: Path, harm: str
) -> None:
    def further(tokens: int) -> list[TrainConfig]:
        first = config_of(planted_cache, tmp_path / "grid")
        settings = {"warmup_fraction": 0.0, "decay_fraction": 0.0, "dead_after_tokens": 700}
        trainer = dataclasses.replace(first.trainer, tokens=tokens, **settings)
        return grid_configs(dataclasses.replace(first, trainer=trainer), {"seed": [0, 1]})

    configs, longer = further(8 * 64), further(12 * 64)
    train_grid(configs)
    last = Path(configs[1].out)
    held = hold_folder(last) if harm == "held" else nullcontext()
    if harm == "checkpoints":
        shutil.rmtree(last / "checkpoints")
    elif harm == "settings":
        shutil.rmtree(last)
        train(dataclasses.replace(configs[1], n_latents=41))
    elif harm == "summary":
        train(longer[1])
        metrics = last / "metrics.jsonl"
        metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:-1]))
    before = {path: path.read_bytes() for path in (tmp_path / "grid").rglob("*") if path.is_file()}
    with held, pytest.raises(InputError, match="seed1"):
        train_grid(longer)
    after = {path: path.read_bytes() for path in (tmp_path / "grid").rglob("*") if path.is_file()}
    assert after == before
