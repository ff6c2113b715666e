"""Two real processes against one: curves, bits, resume, stopping, and errors of one of them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsteer.sae import BatchTopKConfig, InputError, SparseAutoencoder, TopKConfig
from sparsteer.sae.common.tensor_files import load_tensors
from sparsteer.sae.config import SAEConfig
from sparsteer.training.checkpoint import trainer_state
from sparsteer.training.distributed.collectives import Distributed
from sparsteer.training.distributed.sharded import require_shards
from sparsteer.training.train import train
from sparsteer.training.trainer_config import TrainerConfig

from ..training_cases import CASES, N_STEPS, B, config_of, run_case

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, planted_cache: Path) -> Path:
    """Where two processes have left their results."""
    folder = tmp_path_factory.mktemp("two-processes")
    command = [*TORCHRUN, "-m", "tests.training.distributed.two_processes", planted_cache, folder]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def both(out: Path) -> list[dict[str, Any]]:
    """What each of the processes says."""
    return [json.loads((out / f"rank-{rank}.json").read_text()) for rank in range(2)]


def assert_close(
    ours: list[dict[str, Any]],
    theirs: list[dict[str, Any]],
    *,
    relative: float = 1e-5,
    absolute: float = 1e-7,
) -> None:
    assert [line.keys() for line in ours] == [line.keys() for line in theirs]
    for line, other in zip(ours, theirs, strict=True):
        for name, value in line.items():
            if isinstance(value, int | float):
                assert value == pytest.approx(other[name], rel=relative, abs=absolute), (name, line)


def metrics_of(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "summary" not in line]


def bits_of(run: Path) -> dict[str, torch.Tensor]:
    return SparseAutoencoder.load(run).state_dict()


def assert_same_bits(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name


@pytest.mark.parametrize("name", CASES)
def test_the_curve_is_that_of_one_process(name: str, both: list[dict[str, Any]], out: Path) -> None:
    alone, trainer = run_case(name, Distributed())
    assert len(alone) == N_STEPS
    assert any(step["auxk"] > 0 for step in alone), "no latent was dead"
    assert both[0][name] == both[1][name]
    assert_close(both[0][name], alone)
    states = [load_tensors(out / f"{name}-{rank}.safetensors", "") for rank in range(2)]
    assert_same_bits(states[0], states[1])
    counts = trainer_state(trainer)["tokens_since_fired"]
    assert torch.equal(states[0]["tokens_since_fired"], counts)


def test_the_curve_of_a_dictionary_in_two_shards(both: list[dict[str, Any]], out: Path) -> None:
    alone, trainer = run_case("topk", Distributed(), averages=False)
    assert any(step["auxk"] > 0 for step in alone)
    assert_close(both[0]["sharded"], alone)
    states = [load_tensors(out / f"sharded-{rank}.safetensors", "") for rank in range(2)]
    assert torch.equal(states[0]["sae.b_dec"], states[1]["sae.b_dec"])
    counts = torch.cat([state["tokens_since_fired"] for state in states])
    assert torch.equal(counts, trainer.tokens_since_fired)
    weights = torch.cat([state["sae.W_dec"] for state in states])
    torch.testing.assert_close(weights, trainer.sae.W_dec.detach(), rtol=0, atol=1e-4)


def test_the_curve_of_two_shards_in_bfloat16(both: list[dict[str, Any]]) -> None:
    alone, _ = run_case("topk", Distributed(), averages=False, precision="bfloat16")
    assert both[0]["sharded bfloat16"] == both[1]["sharded bfloat16"]
    # Each shard's reconstruction is rounded; one process rounds their sum.
    assert_close(both[0]["sharded bfloat16"], alone, relative=0.02, absolute=2e-3)


def test_a_run_in_two_shards(
    both: list[dict[str, Any]], out: Path, planted_cache: Path, tmp_path: Path
) -> None:
    alone = train(config_of(planted_cache, tmp_path / "alone"))
    assert_close(metrics_of(out / "sharded"), metrics_of(tmp_path / "alone"))
    assert both[0]["train sharded"] == both[1]["train sharded"]
    assert both[0]["train sharded"]["n_latents"] == alone["n_latents"]
    assert SparseAutoencoder.load(out / "sharded").config == TopKConfig(12, 70, 4)


def test_one_process_goes_on_where_two_shards_stopped(
    both: list[dict[str, Any]], out: Path, planted_cache: Path
) -> None:
    assert both[0]["train sharded left"].startswith("Interrupted: interrupted at step 14 of 40")
    train(config_of(planted_cache, out / "sharded left"))
    assert_close(metrics_of(out / "sharded left"), metrics_of(out / "sharded"))


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        (BatchTopKConfig(12, 70, 4), {}),
        (TopKConfig(12, 70, 4, prefixes=(20,)), {}),
        (TopKConfig(12, 70, 4, transcoder=True), {}),
        (TopKConfig(12, 70, 4), {"ema_decay": 0.9}),
        (TopKConfig(12, 70, 4), {"multi_topk_coefficient": 0.1}),
    ],
)
def test_what_cannot_be_cut(config: SAEConfig, settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="shards is 2, but only topk"):
        TrainerConfig(shards=2, **settings).validate_for(config)


@pytest.mark.parametrize(
    ("config", "shards", "sentence"),
    [
        (TopKConfig(12, 70, 4), 3, "does not divide the number of processes, 4"),
        (TopKConfig(12, 70, 4), 4, "does not divide the 70 latents"),
        (TopKConfig(12, 70, 40), 2, "fewer latents than k, 40"),
    ],
)
def test_shards_that_do_not_fit(config: TopKConfig, shards: int, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        require_shards(config, shards, 4)
    require_shards(config, 1, 4)
    with pytest.raises(InputError, match="fewer latents than k_start, 36"):
        require_shards(TopKConfig(12, 70, 4), 2, 4, k_start=36)
    require_shards(TopKConfig(12, 70, 4), 2, 4, k_start=35)


def test_sending_only_rows_with_a_gradient(both: list[dict[str, Any]]) -> None:
    assert both[0]["row gradients"] == {"0.0": True, "0.1": True, "0.9": True}


def test_a_row_that_is_not_finite_ends_all(both: list[dict[str, Any]]) -> None:
    assert both[0]["not finite"] == both[1]["not finite"]
    assert (
        "NonFiniteLoss: the loss of step 0 is not finite: row 70 of its batch"
        in (both[0]["not finite"])
    )
    assert "(2 such rows)" in both[0]["not finite"]
    assert 70 > B // 2  # only the second process has it


@pytest.mark.parametrize("activation", ["topk", "batch_topk"])
def test_a_run(
    activation: str, both: list[dict[str, Any]], out: Path, planted_cache: Path, tmp_path: Path
) -> None:
    assert both[0][f"train {activation}"] == both[1][f"train {activation}"]
    alone = train(config_of(planted_cache, tmp_path / "alone", activation))
    summary = both[0][f"train {activation}"]
    assert_close([summary["held_out"]], [alone["held_out"]])
    assert_close(metrics_of(out / activation), metrics_of(tmp_path / "alone"))
    assert json.loads((out / activation / "environment.json").read_text())["processes"] == 2


def test_a_request_to_one_stops_both_and_resume_is_exact(
    both: list[dict[str, Any]], out: Path
) -> None:
    for results in both:
        assert results["stopped"].startswith("Interrupted: interrupted at step 14 of 40")
    assert both[0]["resumed"] == both[1]["resumed"]
    assert metrics_of(out / "stopped") == metrics_of(out / "batch_topk")
    assert_same_bits(bits_of(out / "stopped"), bits_of(out / "batch_topk"))


def test_one_process_goes_on_where_two_stopped(
    both: list[dict[str, Any]], out: Path, planted_cache: Path
) -> None:
    assert both[0]["left"].startswith("Interrupted: interrupted at step 14 of 40")
    said: list[str] = []
    train(config_of(planted_cache, out / "left", "batch_topk"), say=said.append)
    assert said == [f"{out / 'left'} goes on from step 14"]
    assert_close(metrics_of(out / "left"), metrics_of(out / "batch_topk"))


def test_a_grid(both: list[dict[str, Any]], out: Path) -> None:
    assert both[0]["grid"] == both[1]["grid"] == both[0]["again"] == both[1]["again"]
    assert metrics_of(out / "grid" / "topk") == metrics_of(out / "topk")
    assert_same_bits(bits_of(out / "grid" / "topk"), bits_of(out / "topk"))


@pytest.mark.parametrize(
    ("piece", "sentence"),
    [
        ("changed shard", "OSError: [Errno 5] Input/output error"),
        ("full disk", "OSError: [Errno 28] No space left on device"),
        ("uneven", "InputError: batch_size is 127, which 2 processes cannot share evenly"),
        (
            "three shards",
            "InputError: shards is 3, which does not divide the number of processes, 2",
        ),
        ("another", "holds a run with lr=0.003, not 0.001"),
    ],
)
def test_what_ends_one_ends_both(piece: str, sentence: str, both: list[dict[str, Any]]) -> None:
    assert both[0][piece] == both[1][piece]
    assert sentence in both[0][piece]
