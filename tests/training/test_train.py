"""Whole runs: exact resume, the run folder, held-out figures, and what is refused."""

import dataclasses
import json
import platform
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from filelock import FileLock

from sparsteer.sae import InputError, SparseAutoencoder
from sparsteer.sae.metrics import measure_rows
from sparsteer.training import train as train_module
from sparsteer.training import trainer as trainer_module
from sparsteer.training.checkpoint import restore_newest
from sparsteer.training.checkpoint_writer import CheckpointWriter
from sparsteer.training.config import TrainConfig
from sparsteer.training.data.cache.reader import ActivationCache
from sparsteer.training.non_finite import NonFiniteLoss
from sparsteer.training.run import RunFolder
from sparsteer.training.runtime.stopping import Interrupted, StopRequest
from sparsteer.training.runtime.threads import use_threads
from sparsteer.training.step_metrics import StepMetrics
from sparsteer.training.train import train
from sparsteer.training.trainer import Trainer

from .training_cases import TRAINER, save_checkpoint


def config_of(cache: Path, out: Path, activation: Any = "topk", **changes: Any) -> TrainConfig:
    nested = activation.startswith("nested ")
    activation = activation.removeprefix("nested ")
    return TrainConfig(
        cache=str(cache),
        out=str(out),
        activation=activation,
        n_latents=70,
        k=4 if "topk" in activation else None,
        prefixes=(0.2, 30.0) if nested else (),
        trainer=dataclasses.replace(TRAINER, **changes),
    )


class Killed(Exception):
    """Stands in for a kill: nothing in the code catches it."""


def train_until(config: TrainConfig, step: int) -> None:
    """Train and die right after the step was reported."""

    def report(done: int, total: int, figures: dict[str, float]) -> None:
        if done >= step:
            raise Killed

    with pytest.raises(Killed):
        train(config, report=report)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return SparseAutoencoder.load(run).state_dict()


def without_times(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    lines = json.loads(json.dumps(lines))
    for name in ("seconds", "tokens_per_second", "run"):
        lines[-1]["summary"].pop(name)
    lines[-1].pop("crc32")
    return lines


def metrics_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def files_of(run: Path) -> dict[Path, bytes]:
    """The content of a run, beside its lock."""
    paths = (path for path in run.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path: path.read_bytes() for path in paths}


def assert_same_run(left: Path, right: Path) -> None:
    for name, tensor in weights(left).items():
        assert torch.equal(tensor, weights(right)[name]), name
    assert without_times(metrics_of(left)) == without_times(metrics_of(right))


@pytest.mark.parametrize(
    "activation", ["topk", "batch_topk", "top_afa", "jumprelu", "nested batch_topk"]
)
@pytest.mark.parametrize("step", [4, 20, 39], ids=["before-a-checkpoint", "middle", "end"])
@pytest.mark.slow_except("before-a-checkpoint-jumprelu", "middle-batch_topk", "end-top_afa")
def test_a_killed_run_ends_with_the_same_bits(
    planted_cache: Path, tmp_path: Path, activation: str, step: int
) -> None:
    train(config_of(planted_cache, tmp_path / "whole", activation))
    killed = config_of(planted_cache, tmp_path / "killed", activation)
    train_until(killed, step)
    said: list[str] = []
    train(killed, say=said.append)
    if step > 8:
        assert f"goes on from step {step // 8 * 8 if step < 40 else 32}" in said[0]
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("activation", "options"),
    [
        ("batch_topk", {"k_start": 12, "k_anneal_fraction": 0.9}),
        ("topk", {"multi_topk_coefficient": 0.125, "multi_topk": 3, "k_start": 12}),
        ("jumprelu", {"ema_decay": 0.95}),
        ("top_afa", {"target_l0": 6}),
        ("batch_topk", {"precision": "bfloat16"}),
        ("topk", {"ema_decay": 0.95, "whitening": 0.7}),
        ("nested batch_topk", {"whitening": 1.0, "whitening_loss": "whitened"}),
        ("jumprelu", {"sparsity": "quadratic", "loss_term": ("frequency=0.01",)}),
        ("topk", {"lr": 4e-3, "loss_term": ("orthogonality=0.1",)}),
    ],
)
def test_a_killed_run_with_options_ends_with_the_same_bits(
    planted_cache: Path, tmp_path: Path, activation: str, options: dict[str, Any]
) -> None:
    train(config_of(planted_cache, tmp_path / "whole", activation, **options))
    killed = config_of(planted_cache, tmp_path / "killed", activation, **options)
    train_until(killed, 20)
    train(killed)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    name = next(iter(options))
    # By default a run goes on in its own precision.
    other = {"precision": "float32"} if name == "precision" else {}
    plain = config_of(planted_cache, tmp_path / "killed", activation, **other)
    with pytest.raises(InputError, match=f"holds a run with {name}={options[name]!r}, not"):
        train(plain)


def test_a_run_begun_before_a_setting_existed_goes_on(planted_cache: Path, tmp_path: Path) -> None:
    train(config_of(planted_cache, tmp_path / "whole"))
    config = config_of(planted_cache, tmp_path / "run")
    train_until(config, 20)
    resolved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    del resolved["trainer"]["k_start"], resolved["sha256"], resolved["version"]
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(resolved))
    train(config)
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_a_run_goes_on_with_the_threads_it_was_begun_with(
    planted_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[int] = []
    step = Trainer.step

    def counted(trainer: Trainer, x: torch.Tensor, **options: Any) -> Any:
        used.append(torch.get_num_threads())
        return step(trainer, x, **options)

    monkeypatch.setattr(Trainer, "step", counted)
    monkeypatch.setattr(train_module, "allowed_cores", lambda: 2)
    said: list[str] = []
    config = config_of(planted_cache, tmp_path / "run")
    for threads, stop in ((2, 10), (1, 20)):
        with use_threads(threads):
            train_until(config, stop)
            assert torch.get_num_threads() == threads
    assert set(used) == {2}
    monkeypatch.setattr(train_module, "allowed_cores", lambda: 1)
    train(config, say=said.append)
    assert used[-1] == 1
    assert any(
        "begun with 2 threads, more than there are cores here, 1:" in sentence for sentence in said
    )


def test_a_broken_newest_checkpoint_is_passed_over(planted_cache: Path, tmp_path: Path) -> None:
    train(config_of(planted_cache, tmp_path / "whole"))
    config = config_of(planted_cache, tmp_path / "killed")
    train_until(config, 28)
    newest = tmp_path / "killed" / "checkpoints" / "step-24" / "trainer.safetensors"
    newest.write_bytes(newest.read_bytes()[:1000])
    said: list[str] = []
    train(config, say=said.append)
    assert "step-24 is broken and passed over" in said[0]
    assert "goes on from step 16" in said[1]
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize(
    "progress",
    [
        None,
        '{"steps_done": 25, "seconds": 1.0}',
        '{"steps_done": 24.0, "seconds": 1.0}',
        '{"steps_done": 24, "seconds": "a"}',
        '{"version": 2, "steps_done": 24, "seconds": 1.0}',
    ],
)
@pytest.mark.slow_except("None")
def test_a_checkpoint_that_has_changed_is_passed_over(
    planted_cache: Path, tmp_path: Path, progress: str | None
) -> None:
    train(config_of(planted_cache, tmp_path / "whole"))
    config = config_of(planted_cache, tmp_path / "killed")
    train_until(config, 28)
    newest = tmp_path / "killed" / "checkpoints" / "step-24"
    if progress is None:
        content = bytearray((newest / "trainer.safetensors").read_bytes())
        content[-1000] ^= 1
        (newest / "trainer.safetensors").write_bytes(content)
    else:
        (newest / "progress.json").write_text(progress)
    said: list[str] = []
    train(config, say=said.append)
    assert "step-24 is broken and passed over" in said[0]
    assert "goes on from step 16" in said[1]
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


def test_a_checkpoint_of_a_step_that_training_does_not_have(
    planted_cache: Path, tmp_path: Path
) -> None:
    train(config_of(planted_cache, tmp_path / "whole"))
    config = config_of(planted_cache, tmp_path / "killed")
    train_until(config, 28)
    checkpoints = tmp_path / "killed" / "checkpoints"
    (checkpoints / "step-24").rename(checkpoints / f"step-{10**18}")
    (checkpoints / f"step-{10**18}" / "progress.json").write_text(
        json.dumps({"steps_done": 10**18, "seconds": 1.0})
    )
    said: list[str] = []
    train(config, say=said.append)
    assert "but the training has 40" in said[0] and "goes on from step 16" in said[1]
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    # A broken one of a later step takes no place of those that are kept.
    assert {"step-24", "step-32"} < {path.name for path in checkpoints.iterdir()}


def test_a_run_of_an_earlier_version_goes_on(planted_cache: Path, tmp_path: Path) -> None:
    train(config_of(planted_cache, tmp_path / "whole"))
    config = config_of(planted_cache, tmp_path / "run")
    train_until(config, 28)
    run = tmp_path / "run"
    for path in (run / "config.yaml", run / "environment.json", *run.glob("checkpoints/*/*.json")):
        values = yaml.safe_load(path.read_text())
        for name in ("version", "sha256", "files"):
            values.pop(name, None)
        path.write_text(json.dumps(values))
    lines = metrics_of(run)
    for line in lines:
        del line["crc32"]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    said: list[str] = []
    train(config, say=said.append)
    assert "goes on from step 24" in said[0]
    assert_same_run(tmp_path / "whole", run)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("config.yaml", "lr: ", "lr: 1"),
        ("config.yaml", "sha256: ", "sha257: "),
        ("environment.json", '"threads": ', '"threads": 1'),
        ("metrics.jsonl", '"loss": ', '"loss": 1'),
        ("metrics.jsonl", '"loss": ', '"loss" 1'),
        ("metrics.jsonl", "\n", "J"),
    ],
)
def test_a_run_whose_files_have_changed_is_refused(
    planted_cache: Path, tmp_path: Path, file: str, old: str, new: str
) -> None:
    config = config_of(planted_cache, tmp_path / "run")
    train_until(config, 28)
    path = tmp_path / "run" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=rf"{file}.* written .*; restore"):
        train(config)
    path.write_text(text)
    train(config)


def test_the_last_line_of_metrics(planted_cache: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    train(config_of(planted_cache, run.path))
    path, lines = run.path / "metrics.jsonl", run.metrics()
    whole = path.read_text()
    path.write_text(whole[:-10])
    assert run.metrics() == lines[:-1], "cut short by a kill"
    for changed in (f"{whole[:-1]}J", f"{whole[:-10]}J\n"):
        path.write_text(changed)
        with pytest.raises(InputError, match=f"line {len(lines)} of .* is not as it was written"):
            run.curve()


def test_checkpoints_rotate_and_restore_everything(planted_cache: Path, tmp_path: Path) -> None:
    config = config_of(planted_cache, tmp_path / "run")
    train_until(config, 36)
    checkpoints = tmp_path / "run" / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["step-24", "step-32"]
    cache = ActivationCache(planted_cache)
    trainer = Trainer(SparseAutoencoder(config.sae_config(12), seed=9), config.trainer)
    restore_newest(checkpoints, trainer, print)
    assert trainer.steps_done == 32
    save_checkpoint(tmp_path / "again", trainer, seconds=1.0, keep=1)
    other = Trainer(SparseAutoencoder(config.sae_config(12), seed=5), config.trainer)
    assert restore_newest(tmp_path / "again", other, print) == 1.0
    batches = cache.batches(128, start=32)
    for _, rows in zip(range(3), batches, strict=False):
        assert trainer.step(rows).figures() == other.step(rows).figures()
    batches.close()
    assert torch.equal(trainer.tokens_since_fired, other.tokens_since_fired)


def test_a_finished_run_is_not_trained_again(
    planted_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(planted_cache, tmp_path / "run")
    summary = train(config)
    before = files_of(tmp_path / "run")
    monkeypatch.setattr(platform, "platform", lambda: "another machine")
    said: list[str] = []
    assert train(config, say=said.append) == summary
    assert "complete" in said[0]
    assert files_of(tmp_path / "run") == before


FURTHER = {"warmup_fraction": 0.0, "decay_fraction": 0.0, "dead_after_tokens": 700}


@pytest.mark.parametrize("harm", ["gone", "damaged"])
def test_a_finished_run_without_a_whole_checkpoint_is_not_trained_further(
    planted_cache: Path, tmp_path: Path, harm: str
) -> None:
    config = config_of(planted_cache, tmp_path / "run", tokens=18 * 128, **FURTHER)
    summary = train(config)
    for path in (tmp_path / "run" / "checkpoints").glob("*/trainer.safetensors"):
        if harm == "gone":
            shutil.rmtree(path.parent)
        else:
            path.write_bytes(path.read_bytes()[:-1])
    before = files_of(tmp_path / "run")
    longer = config_of(planted_cache, tmp_path / "run", tokens=32 * 128, **FURTHER)
    with pytest.raises(InputError, match="cannot be trained further: its checkpoints in"):
        train(longer)
    assert files_of(tmp_path / "run") == before
    assert train(config) == summary


def test_a_finished_run_that_never_had_a_checkpoint_says_how_to_have_one(
    planted_cache: Path, tmp_path: Path
) -> None:
    def config(out: str, steps: int, every: int) -> TrainConfig:
        settings = FURTHER | {"tokens": steps * 128, "checkpoint_every": every}
        return config_of(planted_cache, tmp_path / out, **settings)

    train(config("run", 11, 11))
    refused = "it has no checkpoint, as it took 11 steps and --checkpoint-every is 11; give another"
    with pytest.raises(InputError, match=refused):
        train(config("run", 13, 11))
    train(config("other", 11, 10))
    train(config("other", 13, 10))


def test_a_run_is_trained_further_from_a_checkpoint_of_its_last_step(
    planted_cache: Path, tmp_path: Path
) -> None:
    for out, steps in (("whole", 32), ("run", 24)):
        train(config_of(planted_cache, tmp_path / out, tokens=steps * 128, **FURTHER))
    last = Path("checkpoints", "step-24")
    shutil.copytree(tmp_path / "whole" / last, tmp_path / "run" / last)
    said: list[str] = []
    longer = config_of(planted_cache, tmp_path / "run", tokens=32 * 128, **FURTHER)
    train(longer, say=said.append)
    assert "goes on from step 24" in said[0]
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_the_run_folder_and_its_figures(planted_cache: Path, tmp_path: Path) -> None:
    config = config_of(planted_cache, tmp_path / "run")
    summary = train(config)
    run = tmp_path / "run"
    assert {"config.yaml", "environment.json", "metrics.jsonl", "sae"} <= {
        path.name for path in run.iterdir()
    }
    lines = metrics_of(run)
    steps = [line["step"] for line in lines if "loss" in line]
    assert steps == sorted(set(steps)) and steps[-1] == 40
    assert [line["step"] for line in lines if "held_out" in line] == [16, 32]
    assert lines[-1]["summary"] == summary
    points = RunFolder(run).curve()
    held_out = {p["tokens"] / 128: p["held_out_fvu"] for p in points if "held_out_fvu" in p}
    assert list(held_out) == [16, 32, 40]
    assert held_out[40] == summary["held_out"]["fvu"]
    assert summary["tokens"] == 40 * 128 and summary["tokens_per_second"] > 0

    cache, sae = ActivationCache(planted_cache), SparseAutoencoder.load(run)
    x = cache.held_out(limit=200).double()
    x_hat = sae(x.float()).detach().double()
    fvu = float((x - x_hat).square().sum() / (x - x.mean(0)).square().sum())
    assert summary["held_out"]["fvu"] == pytest.approx(fvu, rel=1e-6)
    assert fvu < 0.8
    assert sae.origin is not None and sae.origin.site == cache.sites[0]
    assert float(sae.input_scale) != 1


def test_only_steps_that_are_logged_are_measured(
    planted_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[int] = []
    metrics_of_step = Trainer._metrics  # pyright: ignore[reportPrivateUsage]

    def noted(trainer: Trainer, *args: Any) -> StepMetrics:
        measured.append(trainer.steps_done)
        return metrics_of_step(trainer, *args)

    monkeypatch.setattr(Trainer, "_metrics", noted)
    train(config_of(planted_cache, tmp_path / "run"))
    logged = [line["step"] for line in metrics_of(tmp_path / "run") if "loss" in line]
    assert measured == logged and len(logged) < 40


def test_held_out_rows_are_limited(planted_cache: Path) -> None:
    cache = ActivationCache(planted_cache)
    sae = SparseAutoencoder(TrainConfig(cache="c", out="o", n_latents=70, k=4).sae_config(12))
    assert measure_rows(sae, cache.held_out(limit=50)).result()["rows"] == 50


def test_another_configuration_in_the_folder_is_refused(
    planted_cache: Path, tmp_path: Path, write_cache: Callable[..., Path]
) -> None:
    train_until(config_of(planted_cache, tmp_path / "run"), 12)
    before = sorted(path for path in (tmp_path / "run").rglob("*"))
    with pytest.raises(InputError, match=r"a run with seed=0, not 3; give another --out"):
        train(config_of(planted_cache, tmp_path / "run", seed=3))
    with pytest.raises(InputError, match=r"a run with k=4, not 5; give"):
        train(dataclasses.replace(config_of(planted_cache, tmp_path / "run"), k=5))
    other = write_cache(tmp_path / "other", seed=1)
    with pytest.raises(InputError, match="cache"):
        train(config_of(other, tmp_path / "run"))
    assert sorted(path for path in (tmp_path / "run").rglob("*")) == before


def test_a_folder_with_other_things_is_refused(planted_cache: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="is not a run"):
        train(config_of(planted_cache, tmp_path / "run"))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]


def test_nan_in_the_data_at_the_start_stops_the_run(
    tmp_path: Path, write_cache: Callable[..., Path]
) -> None:
    bad = write_cache(tmp_path / "bad", bad_row=True)
    with pytest.raises(InputError, match="rows of activations are not finite; cache them again"):
        train(config_of(bad, tmp_path / "run"))
    assert not (tmp_path / "run" / "sae").exists()


@pytest.mark.parametrize(("bad_step", "late"), [(21, False), (19, True), (21, True), (29, True)])
@pytest.mark.slow_except("21-True")
def test_nan_in_the_middle_stops_the_run_and_keeps_its_checkpoint(
    planted_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad_step: int, late: bool
) -> None:
    train(config_of(planted_cache, tmp_path / "whole"))
    config = config_of(planted_cache, tmp_path / "run")
    step = Trainer.step

    def poisoned(trainer: Trainer, x: torch.Tensor, **options: Any) -> Any:
        return step(trainer, x * torch.nan if trainer.steps_done == bad_step else x, **options)

    def is_late(weights: torch.Tensor) -> bool:
        return late

    monkeypatch.setattr(trainer_module, "uses_triton", is_late)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", poisoned)
        with pytest.raises(NonFiniteLoss, match=f"loss of step {bad_step} .*row 0 of its batch"):
            train(config)
    train(config)
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_a_batch_larger_than_the_cache_is_refused(planted_cache: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="batch_size is 100,000"):
        train(config_of(planted_cache, tmp_path / "run", batch_size=100_000, tokens=100_000))
    assert not (tmp_path / "run").exists()


def test_a_run_that_failed_before_its_first_step_takes_other_settings(
    planted_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it ended by an error, or was killed and so left its files."""

    failed, killed = tmp_path / "failed", tmp_path / "killed"

    def no_memory(trainer: Trainer, x: torch.Tensor, **options: Any) -> Any:
        shutil.copytree(failed, killed)
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", no_memory)
        with pytest.raises(MemoryError):
            train(config_of(planted_cache, failed, seed=3))
    assert not failed.exists()
    assert yaml.safe_load((killed / "config.yaml").read_text())["trainer"]["seed"] == 3
    train(config_of(planted_cache, killed))
    train(config_of(planted_cache, tmp_path / "whole"))
    assert_same_run(tmp_path / "whole", killed)


def test_what_a_kill_leaves_among_checkpoints_is_cleared(
    planted_cache: Path, tmp_path: Path
) -> None:
    config = config_of(planted_cache, tmp_path / "run", keep_checkpoints=1)
    train_until(config, 20)
    checkpoints = tmp_path / "run" / "checkpoints"
    shutil.copytree(checkpoints / "step-16", checkpoints / "step-8")  # not removed yet
    (checkpoints / ".tmp-0123456789ab-step-4").mkdir()  # in the middle of its removal
    (tmp_path / "run" / ".tmp-0123456789ab-picks.json").touch()
    train(config)
    assert [path.name for path in checkpoints.iterdir()] == ["step-32"]
    assert not list((tmp_path / "run").glob(".*"))


def test_a_run_that_was_moved_with_its_cache_goes_on(planted_cache: Path, tmp_path: Path) -> None:
    train(config_of(planted_cache, tmp_path / "whole"))
    train_until(config_of(planted_cache, tmp_path / "run"), 20)
    shutil.move(tmp_path / "run", tmp_path / "moved")
    shutil.copytree(planted_cache, tmp_path / "cache")
    train(config_of(tmp_path / "cache", tmp_path / "moved"))
    assert_same_run(tmp_path / "whole", tmp_path / "moved")


@pytest.mark.parametrize("device", ["nonsense", "cuda:77"])
def test_an_unusable_device_is_named_and_leaves_no_folder(
    planted_cache: Path, tmp_path: Path, device: str
) -> None:
    with pytest.raises(InputError, match=f"device '{device}' cannot be used here"):
        train(config_of(planted_cache, tmp_path / "run", device=device))
    assert not (tmp_path / "run").exists()


def test_a_finished_run_without_its_summary_is_named(planted_cache: Path, tmp_path: Path) -> None:
    config = config_of(planted_cache, tmp_path / "run")
    train(config)
    (tmp_path / "run" / "metrics.jsonl").unlink()
    with pytest.raises(InputError, match=r"metrics\.jsonl lacks its summary"):
        train(config)


def test_a_request_to_stop_saves_the_step_in_hand(
    planted_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(config_of(planted_cache, tmp_path / "whole"))
    config = config_of(planted_cache, tmp_path / "run")
    step, stop = Trainer.step, StopRequest()

    def asking(trainer: Trainer, x: torch.Tensor, **options: Any) -> Any:
        assert stop.is_watched
        if trainer.steps_done == 13:
            stop.set()
        return step(trainer, x, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", asking)
        with pytest.raises(Interrupted, match="at step 14 of 40, which is saved"):
            train(config, stop=stop)
    assert not stop.is_watched
    assert (tmp_path / "run" / "checkpoints" / "step-14").is_dir()
    said: list[str] = []
    train(config, say=said.append)
    assert "goes on from step 14" in said[0]
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_asked_before_it_begins_it_stops_after_a_step(planted_cache: Path, tmp_path: Path) -> None:
    stop = StopRequest()
    stop.set()
    with pytest.raises(Interrupted, match="at step 1 of 40, which is saved"):
        train(config_of(planted_cache, tmp_path / "run"), stop=stop)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["in a step", "in a checkpoint"])
def test_ctrl_c_in_python_leaves_whole_files_only(
    planted_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    train(config_of(planted_cache, tmp_path / "whole"))
    config = config_of(planted_cache, tmp_path / "run")
    step, wait = Trainer.step, CheckpointWriter.wait

    def interrupted_step(trainer: Trainer, x: torch.Tensor, **options: Any) -> Any:
        metrics = step(trainer, x, **options)
        if moment == "in a step" and trainer.steps_done == 21:
            raise KeyboardInterrupt
        return metrics

    def interrupted_wait(writer: CheckpointWriter) -> None:
        wait(writer)
        if moment == "in a checkpoint" and (tmp_path / "run/checkpoints/step-16").exists():
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", interrupted_step)
        patch.setattr(CheckpointWriter, "wait", interrupted_wait)
        with pytest.raises(KeyboardInterrupt) as caught:
            train(config)
    assert not isinstance(caught.value, Interrupted)
    names = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert {name for name in names if not name.startswith(".")} == {"step-8", "step-16"}
    assert not (tmp_path / "run" / "sae").exists()
    said: list[str] = []
    train(config, say=said.append)
    assert "goes on from step 16" in said[0]
    assert_same_run(tmp_path / "whole", tmp_path / "run")


@pytest.mark.parametrize("late", [False, True], ids=["at once", "late, as on a GPU"])
def test_asked_in_a_step_that_is_not_done_it_claims_to_save_nothing(
    planted_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    step, stop = Trainer.step, StopRequest()

    def asking(trainer: Trainer, x: torch.Tensor, **options: Any) -> Any:
        if trainer.steps_done != 13:
            return step(trainer, x, **options)
        stop.set()
        return step(trainer, x * torch.nan, **options)

    def is_late(weights: torch.Tensor) -> bool:
        return late

    monkeypatch.setattr(trainer_module, "uses_triton", is_late)
    monkeypatch.setattr(Trainer, "step", asking)
    with pytest.raises(NonFiniteLoss, match="the loss of step 13 is not finite"):
        train(config_of(planted_cache, tmp_path / "run"), stop=stop)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-8"]


def test_a_run_in_a_thread(planted_cache: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor() as pool:
        pool.submit(train, config_of(planted_cache, tmp_path / "thread")).result()
    train(config_of(planted_cache, tmp_path / "main"))
    assert_same_run(tmp_path / "thread", tmp_path / "main")


def test_the_seeds_decide_directions_and_order_apart(planted_cache: Path, tmp_path: Path) -> None:
    firsts: dict[tuple[int, int], dict[str, Any]] = {}
    for seed, data_seed in ((0, 0), (1, 0), (0, 1)):
        run = tmp_path / f"{seed}{data_seed}"
        train_until(config_of(planted_cache, run, log_every=1, seed=seed, data_seed=data_seed), 1)
        firsts[seed, data_seed] = metrics_of(run)[0]
    assert len({line["loss"] for line in firsts.values()}) == 3


def test_a_second_process_is_refused_and_leftovers_go(planted_cache: Path, tmp_path: Path) -> None:
    config = config_of(planted_cache, tmp_path / "run")
    train_until(config, 12)
    leftover = tmp_path / "run" / "checkpoints" / ".tmp-0123456789ab-step-16"
    leftover.mkdir()
    with FileLock(tmp_path / "run" / ".lock"):
        with pytest.raises(InputError, match=r"another process is writing .*run; wait for it"):
            train(config)
        assert leftover.exists()
    train(config)
    assert not leftover.exists()
