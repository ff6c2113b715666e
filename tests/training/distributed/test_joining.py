"""Which GPU each of several processes takes, how long they wait, and a group of one on a GPU."""

from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as torch_dist

from sparsteer.sae import InputError
from sparsteer.sae.common.devices import as_current
from sparsteer.training.distributed import joining
from sparsteer.training.distributed.collectives import Distributed
from sparsteer.training.distributed.data_parallel import DataParallel
from sparsteer.training.distributed.joining import init_distributed
from sparsteer.training.distributed.sharded_moments import ShardedMoments

from ..training_cases import run_case
from .test_data_parallel import assert_close

ON_A_GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


class Team(Distributed):
    """One of four ranks of a machine."""

    world_size = local_world_size = 4

    def __init__(self, local_rank: int = 0, gpus: list[str] | None = None) -> None:
        self.local_rank = local_rank
        self._gpus = gpus

    def all_gather_object(self, value: object) -> list[Any]:
        return [value] * 4 if self._gpus is None else self._gpus


@pytest.fixture
def visible_gpus(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pretends that a process sees so many GPUs."""

    def see(number: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: number > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: number)

    return see


@pytest.mark.parametrize("name", ["auto", "cuda"])
@pytest.mark.parametrize(
    ("visible", "devices"),
    [
        (4, ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]),
        (1, ["cuda:0"] * 4),  # each process sees another one
        (2, ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]),
    ],
)
def test_each_rank_takes_a_gpu_that_it_sees(
    visible: int, devices: list[str], name: str, visible_gpus: Any
) -> None:
    visible_gpus(visible)
    assert [Team(rank).device(name) for rank in range(4)] == devices
    assert Distributed().device(name) == name
    assert Team(2).device("cpu") == "cpu"


@pytest.mark.parametrize("visible", [0, 4])
def test_a_numbered_gpu_is_for_one_process(visible: int, visible_gpus: Any) -> None:
    visible_gpus(visible)
    with pytest.raises(InputError, match="device is cuda:0, which all 4 processes of this machine"):
        Team(2).device("cuda:0")
    assert Distributed().device("cuda:1") == "cuda:1"


def test_two_ranks_on_one_gpu_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def properties(device: torch.device) -> SimpleNamespace:
        return SimpleNamespace(uuid="a")

    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    with pytest.raises(InputError, match="4 processes have 2 GPUs; start one for each GPU"):
        Team(gpus=list("abab")).require_own_device(torch.device("cuda:0"))
    Team(gpus=list("abcd")).require_own_device(torch.device("cuda:0"))
    Team(gpus=list("aaaa")).require_own_device(torch.device("cpu"))


@pytest.mark.parametrize("on_gpus", [False, True])
def test_gloo_waits_for_a_day_and_nccl_for_minutes(
    on_gpus: bool, visible_gpus: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, timedelta]] = []

    def init(backend: str, timeout: timedelta) -> None:
        calls.append((backend, timeout))

    def new_group(backend: str, timeout: timedelta) -> str:
        calls.append((backend, timeout))
        return "host"

    def data_parallel(host_group: Any) -> Any:
        return host_group

    visible_gpus(int(on_gpus))
    for name, value in {"RANK": 0, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "MASTER_ADDR": "here"}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(torch_dist, "is_initialized", lambda: False)
    monkeypatch.setattr(torch_dist, "init_process_group", init)
    monkeypatch.setattr(torch_dist, "new_group", new_group)
    monkeypatch.setattr(torch_dist, "destroy_process_group", lambda: None)
    monkeypatch.setattr(joining, "DataParallel", data_parallel)
    with init_distributed() as host_group:
        pass
    day, minutes = timedelta(days=1), timedelta(minutes=10)
    if on_gpus:
        assert calls == [("cpu:gloo,cuda:nccl", minutes), ("gloo", day)]
        assert host_group == "host"
    else:
        assert calls == [("gloo", day)] and host_group is None


@contextmanager
def group_of_one(backend: str, folder: Path) -> Generator[None]:
    """A process group of this process alone."""
    store = f"file://{folder / 'store'}"
    torch_dist.init_process_group(backend, init_method=store, rank=0, world_size=1)
    try:
        yield
    finally:
        torch_dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("device", "backend"),
    [
        ("cpu", "gloo"),
        pytest.param("cuda", "cpu:gloo,cuda:nccl", marks=ON_A_GPU),
    ],
)
def test_every_collective_in_a_group_of_one(device: str, backend: str, tmp_path: Path) -> None:
    alone, _ = run_case("topk", Distributed(), device=device)
    with as_current(torch.device(device)), group_of_one(backend, tmp_path):
        for dist in (DataParallel(), ShardedMoments(reduce_scatter=True)):
            curve, trainer = run_case("topk", dist, device=device)
            assert_close(curve, alone)
            moments = trainer.optimizer.state()
            gathered = dist.gather_moments(trainer.sae, moments)
            for name, moment in gathered.items():
                assert torch.equal(moment, moments[name].cpu()), name
            assert bool(gathered) == isinstance(dist, ShardedMoments)
            with pytest.raises(ValueError, match="of all"), dist.errors_on_all_ranks():
                raise ValueError("of all")
