"""Adam's moments spread over two and three processes: the bits of those that have all of them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsteer.sae import InputError, TopKConfig
from sparsteer.sae.common.tensor_files import load_tensors
from sparsteer.training.distributed.sharded_moments import rows_of_rank
from sparsteer.training.train import train
from sparsteer.training.trainer_config import TrainerConfig

from ..training_cases import config_of
from .sharded_moments_processes import BATCH
from .test_data_parallel import ROOT, assert_close, assert_same_bits, bits_of, metrics_of

RUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
WORK = "tests.training.distributed.sharded_moments_processes"

Results = tuple[int, list[dict[str, Any]], Path]


@pytest.fixture(scope="module", params=[2, 3])
def results(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    planted_cache: Path,
) -> Results:
    """The number of processes, what each of them says, and where they have left their runs."""
    size, folder = request.param, tmp_path_factory.mktemp("moments")
    done = subprocess.run(
        [*RUN, str(size), "-m", WORK, planted_cache, folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    said = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(size)]
    return size, said, folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["topk", "batch_topk", "jumprelu"])
def test_bits_are_those_of_whole_moments(name: str, results: Results) -> None:
    size, said, _ = results
    for rank, every in enumerate(said):
        found = every[name]
        assert found["same curve"] and found["same weights"] and found["same moments"]
        assert found["clipped"] and found["auxk"], "the case is too easy"
        assert found["own rows"] == 120 // size
        assert found["gathered"] == ([] if rank else [*MOMENTS])


MOMENTS = ("first.W_dec", "first.W_enc", "second.W_dec", "second.W_enc")


@pytest.mark.slow
def test_gradients_of_own_rows_alone(results: Results) -> None:
    _, said, _ = results
    for every in said:
        clipped = every["reduce-scatter"]
        assert clipped["clipped"] and clipped["furthest"] < 1e-5
        assert clipped["unit"] < 1e-6
        assert every["without clipping"]["furthest"] < 1e-5
    curves = [every["reduce-scatter"]["furthest"] for every in said]
    assert len(set(curves)) == 1, "the processes differ"


@pytest.mark.slow
def test_runs_and_their_checkpoints(results: Results) -> None:
    size, said, folder = results
    n_rows = [rows_of_rank(torch.Size((70, 12)), size) * rank for rank in range(size)]
    assert 70 - n_rows[-1] < 70 / size, "the parts are even"
    assert metrics_of(folder / "parts") == metrics_of(folder / "whole")
    assert_same_bits(bits_of(folder / "parts"), bits_of(folder / "whole"))
    for step in (24, 32):
        states = [
            load_tensors(folder / run / "checkpoints" / f"step-{step}" / "trainer.safetensors", "")
            for run in ("parts", "whole")
        ]
        assert_same_bits(*states)
    for every in said:
        assert every["resumed"].startswith("Interrupted: interrupted at step 14 of 40")
    assert metrics_of(folder / "resumed") == metrics_of(folder / "whole")
    assert_same_bits(bits_of(folder / "resumed"), bits_of(folder / "whole"))


@pytest.mark.slow
def test_no_process_ever_has_whole_moments(results: Results) -> None:
    size, said, _ = results
    each = rows_of_rank(torch.Size((70, 12)), size)
    for rank, every in enumerate(said):
        own = min(each, 70 - rank * each)
        assert every["rows made"] == every["rows made when resumed"] == [own] * 4


@pytest.mark.slow
def test_one_process_goes_on_where_several_stopped(results: Results, planted_cache: Path) -> None:
    _, _, folder = results
    train(config_of(planted_cache, folder / "left", batch_size=BATCH, tokens=40 * BATCH))
    assert_close(metrics_of(folder / "left"), metrics_of(folder / "whole"))


@pytest.mark.slow
def test_collectives_of_a_step(results: Results) -> None:
    for every in results[1]:
        # Whether all could read and any is to stop; the loss; which latents fired; which rows have
        # gradients, and those.
        assert every["rows"] == {"all_reduce": 5}
        # In place of rows the gradients of two matrices, and of all vectors together.
        assert every["matrices"] == {"all_reduce": 6}
        # AuxK's mean residual; its error and variance.
        assert every["matrices and dead latents"] == {"all_reduce": 8}
        assert every["matrices and parts"] == {"all_reduce": 6, "all_gather": 2}


@pytest.mark.parametrize("size", [2, 3, 7])
@pytest.mark.parametrize(
    ("shape", "together"), [((120, 24), 2), ((70, 12), 4), ((5, 3), 16), ((4000, 627), 1672)]
)
def test_parts_end_where_vectors_do(shape: tuple[int, int], together: int, size: int) -> None:
    each = rows_of_rank(torch.Size(shape), size)
    assert each % together == 0 and each * size >= shape[0]
    assert each - together < shape[0] / size
    assert rows_of_rank(torch.Size((shape[0], 768)), size) == -(-shape[0] // size)


def test_not_with_latents_in_shards() -> None:
    with pytest.raises(InputError, match="shard_optimizer is on, but with shards 2 each process"):
        TrainerConfig(shards=2, shard_optimizer=True).validate_for(TopKConfig(12, 70, 4))
