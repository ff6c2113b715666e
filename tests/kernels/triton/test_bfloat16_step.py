"""Steps in bfloat16 on Triton: gradients as they were summed, and copies that are never stale."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sparsteer.kernels import policy
from sparsteer.kernels.numerics import row_norms
from sparsteer.sae import SparseAutoencoder, TopKConfig
from sparsteer.sae.config import SAEConfig
from sparsteer.training.initialize import initialize_from_rows
from sparsteer.training.trainer import Trainer
from sparsteer.training.trainer_config import TrainerConfig

D, F, K, B = 9, 26, 3, 7


@pytest.fixture(autouse=True)
def sparse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "_DENSE_BELOW_LATENTS_PER_SLOT_ON_GPU", 0)


def batches(n: int, device: str) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    directions = torch.randn(12, D, generator=generator)
    chosen = torch.rand(n, B, 12, generator=generator) < 0.3
    return [*(chosen.float() @ directions + 0.1 * torch.randn(n, B, D)).to(device)]


def trainer_of(device: str, config: SAEConfig | None = None, **settings: Any) -> Trainer:
    sae = SparseAutoencoder(config or TopKConfig(D, F, K), seed=1).to(device)
    initialize_from_rows(sae, batches(1, device)[0])
    settings = {"precision": "bfloat16", "auxk_coefficient": 0.0, **settings}
    return Trainer(sae, TrainerConfig(tokens=100 * B, batch_size=B, lr=1e-2, **settings))


class MatrixPasses(TorchDispatchMode):
    """Counts conversions, copies and norms of matrices and their gradients, outside of kernels."""

    n = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        passes = any(name in str(func) for name in ("_to_copy", "clone", "norm", "add"))
        if passes and args[0].shape == (F, D):
            self.n += 1
        return func(*args, **(kwargs or {}))


def loss_of_rounded_weights(trainer: Trainer, x: Tensor) -> Tensor:
    """The loss at the weights as they are, by an autoencoder that has no copies."""
    fresh = Trainer(copy.deepcopy(trainer.sae), trainer.config)
    return fresh.loss(trainer.sae.scaled(x)).total.detach()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.slow
def test_a_step_passes_over_matrices_in_kernels_alone(precision: str, device: str) -> None:
    trainer = trainer_of(device, precision=precision)
    first, *rest = batches(3, device)
    trainer.step(first)  # which rounds them once
    with MatrixPasses() as passes:
        for x in rest:
            trainer.step(x)
    assert passes.n == 0


@pytest.mark.parametrize("case", ["alone", "with auxk", "changed"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.slow_except("float32-changed", "bfloat16-with auxk")
def test_the_gradients_norm_is_that_of_the_gradients_as_they_are(
    precision: str, case: str, device: str
) -> None:
    trainer = trainer_of(device, precision=precision, auxk_coefficient=1.0)
    scaled = trainer.sae.scaled(batches(1, device)[0])
    dead = torch.arange(5, device=device) if case == "with auxk" else None
    losses = trainer.loss(scaled, dead)
    trainer.dist.backward(losses.total, trainer.sae, torch.ones(F, dtype=torch.bool, device=device))
    gradients = {n: p.grad for n, p in trainer.sae.named_parameters() if p.grad is not None}
    assert len(gradients) == 4
    if case == "changed":
        gradients["W_dec"].mul_(3)
    exact = torch.stack([g.double().square().sum() for g in gradients.values()]).sum().sqrt()
    with MatrixPasses() as passes:
        norm = trainer.dist.gradient_norm(gradients)
    torch.testing.assert_close(norm.double(), exact, rtol=1e-5, atol=0)
    assert passes.n == {"alone": 0, "with auxk": 2, "changed": 1}[case]
    assert trainer.dist.square_sums is not None and not trainer.dist.square_sums.take()


def test_gradients_are_those_of_the_rounded_weights_in_float32(device: str) -> None:
    trainer = trainer_of(device)
    sae, x = trainer.sae, batches(1, device)[0]
    scaled = sae.scaled(x)
    losses = trainer.loss(scaled)
    parameters = dict(sae.named_parameters())
    ours = dict(
        zip(parameters, torch.autograd.grad(losses.total, [*parameters.values()]), strict=True)
    )
    # Codes and reconstructions are rounded on the way.
    kept_BF = losses.codes.dense(F).double()
    error = 2 / x.numel() * (losses.x_hat.double() - (scaled - sae.b_dec).bfloat16().double())
    dW_dec = kept_BF.T @ error
    for name, got in ours.items():
        assert got.dtype == torch.float32, name
    torch.testing.assert_close(ours["W_dec"].double(), dW_dec, rtol=0.02, atol=2e-5)
    # Products of bfloat16 rounded to bfloat16 would be multiples of powers of two themselves.
    assert not torch.equal(ours["W_dec"], ours["W_dec"].bfloat16().float())
    assert not torch.equal(ours["W_enc"], ours["W_enc"].bfloat16().float())


def edit_in_place(sae: SparseAutoencoder) -> None:
    with torch.no_grad():
        sae.W_enc.mul_(0.5)


def edit_an_entry(sae: SparseAutoencoder) -> None:
    with torch.no_grad():
        sae.b_enc[7] = 3.0


def load(sae: SparseAutoencoder) -> None:
    other = SparseAutoencoder(sae.config, seed=9)
    sae.load_state_dict({**sae.state_dict(), "W_dec": other.W_dec.detach()})


def put_another_tensor(sae: SparseAutoencoder) -> None:
    sae.W_dec.data = torch.flip(sae.W_dec.detach(), [0])


@pytest.mark.parametrize("change", [edit_in_place, edit_an_entry, load, put_another_tensor])
@pytest.mark.slow
def test_weights_changed_from_outside_are_rounded_anew(
    change: Callable[[SparseAutoencoder], None], device: str
) -> None:
    trainer = trainer_of(device)
    for x in batches(2, device):
        trainer.step(x)
    x = batches(3, device)[2]
    before = loss_of_rounded_weights(trainer, x)
    change(trainer.sae)
    expected = loss_of_rounded_weights(trainer, x)
    assert not torch.equal(expected, before)
    assert torch.equal(trainer.step(x).loss, expected)


def test_weights_that_another_optimizer_moves_are_rounded_anew(device: str) -> None:
    """Unlike Adam's, its changes through `.data` are told by nobody."""
    trainer = trainer_of(device)
    x = batches(1, device)[0]
    scaled = trainer.sae.scaled(x)
    for _ in range(2):
        expected = loss_of_rounded_weights(trainer, x)
        assert torch.equal(trainer.loss(scaled).total.detach(), expected)
        trainer.sae.W_enc.data.mul_(0.5)


@pytest.mark.slow
def test_a_graph_from_before_the_step_refuses_to_run_backward(device: str) -> None:
    trainer = trainer_of(device)
    x = batches(1, device)[0]
    trainer.step(x)
    losses = trainer.loss(trainer.sae.scaled(x))
    for parameter in trainer.sae.parameters():
        parameter.grad = torch.zeros_like(parameter)
    trainer.optimizer.step(2, 0.1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.backward(losses.total)


@pytest.mark.slow
def test_a_run_goes_on_bit_for_bit_from_what_is_saved(device: str) -> None:
    whole = trainer_of(device, ema_decay=0.9)
    xs = batches(5, device)
    for x in xs[:3]:
        whole.step(x)
    resumed = trainer_of(device, ema_decay=0.9)
    resumed.sae.load_state_dict(copy.deepcopy(whole.sae.state_dict()))
    resumed.optimizer.load_state(copy.deepcopy(whole.optimizer.state()))
    resumed.steps_done = whole.steps_done
    resumed.tokens_since_fired.copy_(whole.tokens_since_fired)
    assert whole.averages is not None and resumed.averages is not None
    resumed.averages.tensors = copy.deepcopy(whole.averages.tensors)
    for x in xs[3:]:
        ours, theirs = whole.step(x), resumed.step(x)
        assert torch.equal(ours.loss, theirs.loss)
        assert torch.equal(ours.gradient_norm, theirs.gradient_norm)
    for mine, other in zip(
        (whole.sae.state_dict(), whole.optimizer.state(), whole.averages.tensors),
        (resumed.sae.state_dict(), resumed.optimizer.state(), resumed.averages.tensors),
        strict=True,
    ):
        assert all(torch.equal(mine[name], other[name]) for name in mine)
    torch.testing.assert_close(row_norms(whole.sae.W_dec.detach()), torch.ones(F, device=device))
    assert torch.equal(whole.trained().W_enc.detach(), whole.averages.tensors["W_enc"])


@pytest.mark.slow
def test_a_step_that_is_not_done_leaves_copies_as_they_are(device: str) -> None:
    trainer = trainer_of(device)
    first, second, third = batches(3, device)
    trainer.step(first)
    trainer.synchronize()
    expected = loss_of_rounded_weights(trainer, third)
    second[3, 2] = torch.nan
    trainer.step(second)
    with pytest.raises(ArithmeticError):
        trainer.synchronize()
    assert torch.equal(trainer.step(third).loss, expected)
