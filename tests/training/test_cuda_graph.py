"""Which steps are recorded as CUDA graphs, and that what is recorded holds for all of them."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsteer.kernels import dispatch
from sparsteer.kernels.dead_latents import dead_latents_mse
from sparsteer.kernels.optimizer import adam_step_
from sparsteer.sae import (
    BatchTopKConfig,
    JumpReLUConfig,
    SAEConfig,
    SparseAutoencoder,
    TopAFAConfig,
    TopKConfig,
)
from sparsteer.sae.common.errors import InputError
from sparsteer.training.config import TrainConfig
from sparsteer.training.cuda_graph import WARM_UPS, padded_dead, require_graphs, way_of_step
from sparsteer.training.graph_trainer import GraphTrainer
from sparsteer.training.runtime.stopping import Interrupted, StopRequest
from sparsteer.training.train import estimate_training, train
from sparsteer.training.trainer import Trainer
from sparsteer.training.trainer_config import Precision, TrainerConfig

from .training_cases import config_of

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ROWS, WIDTH, LATENTS, K = 256, 64, 4096, 8


@pytest.mark.parametrize("n_latents", [1, 100, 4096, 12_289])
def test_dead_latents_are_padded_to_few_lengths(n_latents: int) -> None:
    lengths = [padded_dead(n, n_latents) for n in range(n_latents + 1)]
    assert lengths[0] == 0 and lengths == sorted(lengths)
    for n, length in enumerate(lengths[1:], 1):
        assert n <= length <= min(n_latents, max(128, 1.25 * n))
        assert length % 32 == 0 or length == n_latents
    assert len(set(lengths)) <= 2 + 4 * max(0, n_latents.bit_length() - 7)


def test_which_steps_are_replayed() -> None:
    usual: dict[str, Any] = {"measured": False, "same_batch": True, "k_falls": False}
    usual |= {"copies_current": True, "n_warm_ups": WARM_UPS, "is_recorded": True}

    def way(**changes: Any) -> str:
        values: Any = usual | changes
        return way_of_step(**values)

    assert way() == "replay"
    assert way(is_recorded=False) == "record"
    for n in range(WARM_UPS):
        assert way(is_recorded=False, n_warm_ups=n) == "warm up"
    for name in ("measured", "same_batch", "k_falls", "copies_current"):
        assert way(**{name: not usual[name]}) == "eager"


@pytest.mark.parametrize(
    ("sae", "settings"),
    [
        (BatchTopKConfig(8, 32, 2), {}),
        (JumpReLUConfig(8, 32), {}),
        (TopAFAConfig(8, 32), {}),
        (TopKConfig(8, 32, 2), {"shards": 2}),
    ],
)
def test_steps_that_no_graph_can_hold_are_refused(sae: SAEConfig, settings: dict[str, Any]) -> None:
    config = TrainerConfig(cuda_graph=True, **settings)
    with pytest.raises(InputError, match="cuda_graph is on, but only steps of topk") as raised:
        config.validate_for(sae)
    assert raised.value.field == "cuda_graph"


class NoRecorder:
    """For steps of which none is recorded."""

    def warming_up(self) -> AbstractContextManager[None]:
        return nullcontext()

    def record(self, call: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        raise AssertionError("a step is recorded")

    def forget(self) -> None:
        raise AssertionError("nothing was recorded")


def test_a_graph_trainer_refuses_them_whatever_its_configuration_says() -> None:
    sae = SparseAutoencoder(BatchTopKConfig(8, 32, 2))
    with pytest.raises(InputError, match="only steps of topk"):
        GraphTrainer(sae, TrainerConfig(), recorder=NoRecorder())


def test_places_that_have_no_graphs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainerConfig(cuda_graph=True)
    sae = SparseAutoencoder(TopKConfig(8, 32, 2))
    with pytest.raises(InputError, match="training runs on cpu, and only an NVIDIA GPU") as raised:
        GraphTrainer(sae, config)
    assert raised.value.field == "cuda_graph"
    with pytest.raises(InputError, match="a Trainer records none; make a GraphTrainer"):
        Trainer(sae, config)
    with pytest.raises(InputError, match="2 processes talk to each other"):
        require_graphs(torch.device("cuda"), world_size=2)
    monkeypatch.setenv("SPARSTEER_KERNELS", "eager")
    here = torch.empty(0)

    def empty(*_: Any, **__: Any) -> torch.Tensor:
        return here

    monkeypatch.setattr(torch, "empty", empty)
    with pytest.raises(InputError, match="with SPARSTEER_KERNELS=eager a step waits"):
        require_graphs(torch.device("cuda"), world_size=1)


def test_a_run_that_is_refused_leaves_no_folder(
    tmp_path: Path, write_cache: Callable[..., Path]
) -> None:
    config = TrainConfig(
        cache=str(write_cache(tmp_path / "cache")),
        out=str(tmp_path / "run"),
        trainer=TrainerConfig(cuda_graph=True, tokens=512, batch_size=64, device="cpu"),
    )
    for attempt in (train, estimate_training):
        with pytest.raises(InputError, match="cuda_graph is on, but training runs on cpu"):
            attempt(config)
    assert not (tmp_path / "run").exists()
    estimate = estimate_training(config, gpu="h100")
    assert any("recorded steps" in sentence for sentence in estimate.unknown)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_run_that_is_stopped_and_resumed_ends_with_the_same_bits(
    tmp_path: Path, write_cache: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, step, stop = write_cache(tmp_path / "cache"), GraphTrainer.step, StopRequest()
    recorded: list[int] = []

    def config(out: str) -> TrainConfig:
        return config_of(cache, tmp_path / out, cuda_graph=True, device="cuda")

    def step_until_stopped(trainer: GraphTrainer, *sides: torch.Tensor, measured: bool) -> Any:
        metrics = step(trainer, *sides, measured=measured)
        recorded.append(len(trainer.recorded))
        if trainer.steps_done == 14:
            stop.set()
        return metrics

    train(config("whole"))
    with monkeypatch.context() as patch:
        patch.setattr(GraphTrainer, "step", step_until_stopped)
        with pytest.raises(Interrupted):
            train(config("parts"), stop=stop)
    assert max(recorded) > 0
    train(config("parts"))
    whole, parts = (
        SparseAutoencoder.load(tmp_path / out / "sae").state_dict() for out in ("whole", "parts")
    )
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_numbers_in_memory_need_the_kernel() -> None:
    rows = torch.randn(3, 4)
    with pytest.raises(ValueError, match="only the Triton kernel"):
        adam_step_(rows, rows.clone(), rows, rows, step=1, lr=0.1, in_memory=torch.ones(3))


@pytest.mark.parametrize("k", [2, 40])
@pytest.mark.slow
def test_padding_of_dead_latents_changes_nothing(k: int) -> None:
    """In float64, with other latents that would be kept if they took part."""
    x, target = torch.randn(2, 30, 12, dtype=torch.float64)
    center, W_enc, b_enc, W_dec = (
        torch.randn(*shape, dtype=torch.float64).requires_grad_()
        for shape in ((12,), (60, 12), (60,), (60, 12))
    )
    order = torch.randperm(60)

    def run(dead: torch.Tensor, k: int, n_dead: torch.Tensor | None) -> list[torch.Tensor]:
        error = dead_latents_mse(x, center, W_enc, b_enc, W_dec, dead, k, target, n_dead)
        return [error.detach(), *torch.autograd.grad(error, (center, W_enc, b_enc, W_dec))]

    expected = run(order[:20], min(k, 20), None)
    for got, want in zip(run(order[:50], k, torch.tensor(20)), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


class Counting:
    """Records nothing, but counts what a recording asks of the GPU."""

    def __init__(self) -> None:
        self.restart: Callable[[], Any] = lambda: None
        self.counts: list[Any] = []

    def warming_up(self) -> nullcontext[None]:
        return nullcontext()

    def forget(self) -> None:
        pass

    def record(self, call: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        self.restart()
        result = call()
        self.counts.append(self.restart())
        return result, lambda: None


RECORDED: dict[str, tuple[SAEConfig, dict[str, Any]]] = {
    "topk": (TopKConfig(WIDTH, LATENTS, K), {}),
    "nested": (TopKConfig(WIDTH, LATENTS, K, prefixes=(512, 2048)), {"clip_norm": 0.0}),
    "transcoder": (TopKConfig(WIDTH, LATENTS, K, transcoder=True), {"ema_decay": 0.99}),
    "multi-topk": (TopKConfig(WIDTH, LATENTS, K), {"multi_topk_coefficient": 0.125}),
}


@pytest.mark.skipif(dispatch.triton_version() is None, reason="Triton is not installed here")
@pytest.mark.parametrize("n_dead", [0, 400])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", RECORDED)
@pytest.mark.slow_except("topk-bfloat16-400")
def test_what_is_recorded_waits_for_nothing_and_holds_for_later_steps(
    kind: str, precision: Precision, n_dead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step at another learning rate launches the same, with the same numbers."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))  # pyright: ignore[reportUnknownMemberType] - untyped
    counting: Any = import_module("step_counting")
    sae_config, settings = RECORDED[kind]
    tokens = 1000 * ROWS
    config = TrainerConfig(
        batch_size=ROWS, tokens=tokens, precision=precision, cuda_graph=True, **settings
    )
    recorder = Counting()
    with torch.device("meta"):
        sae = SparseAutoencoder(sae_config)
    with counting.on_meta(counting.Guesses(ROWS, LATENTS, K, n_dead)) as restart:
        recorder.restart = restart
        trainer = GraphTrainer(sae, config, recorder=recorder)
        sides = torch.empty(1 + sae_config.transcoder, ROWS, WIDTH, device="meta").unbind()
        for first in (0, 700):
            trainer.steps_done = first
            trainer.forget_graphs()
            for _ in range(2 + WARM_UPS):  # the weights' first copies belong to the first step
                trainer.step(*sides, measured=False)
            assert len(trainer.recorded) == 1
    (recorded,) = trainer.recorded
    assert recorded.dead_places == padded_dead(n_dead, LATENTS)
    assert trainer.learning_rate(3) != trainer.learning_rate(703)
    early, late = recorder.counts[:2], recorder.counts[2:]
    assert len(late) == 2
    for before, after in zip(early, late, strict=True):
        assert before.waits == after.waits == 0, (before.by_wait, after.by_wait)
        assert before.launches > 10
        assert [(o.name, o.numbers) for o in before.operations] == [
            (o.name, o.numbers) for o in after.operations
        ]
