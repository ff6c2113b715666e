"""The loss terms that are asked for by name: their values, and their gradients in float64."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsteer.kernels.codes import Codes
from sparsteer.sae import JumpReLUConfig, SparseAutoencoder, TopKConfig
from sparsteer.sae.activations.jumprelu import l0_loss, quadratic_l0_loss
from sparsteer.sae.frequency_penalty import FREQUENCY_SCALE, frequency_penalty
from sparsteer.sae.losses import ForwardPass, own_mean
from sparsteer.sae.orthogonality_penalty import nearest_in_chunks, orthogonality_penalty
from sparsteer.training.trainer import Trainer
from sparsteer.training.trainer_config import TrainerConfig

D, F, K = 13, 57, 5


def forward_of(sae: SparseAutoencoder, x: Tensor, codes: Codes, step: int = 0) -> ForwardPass:
    return ForwardPass(sae, x, x, x, x, codes, own_mean, step)


def orthogonality(W_dec: Tensor, step: int = 0) -> Tensor:
    """The penalty of decoder rows, which a penalty on weights alone needs nothing else for."""
    holder: Any = torch.nn.Module()
    holder.W_dec = W_dec
    no: Any = None
    return orthogonality_penalty(ForwardPass(holder, no, no, no, no, no, own_mean, step))


def test_orthogonality_is_the_mean_square_of_the_largest_cosines() -> None:
    W_dec = torch.randn(40, 6, dtype=torch.float64)
    unit = torch.nn.functional.normalize(W_dec, dim=1)
    cosines = (unit @ unit.T).fill_diagonal_(-1)
    torch.testing.assert_close(orthogonality(W_dec), cosines.amax(1).relu().square().mean())
    assert float(orthogonality(torch.eye(7))) == 0
    assert float(orthogonality(torch.tensor([[1.0, 0.0], [-2.0, 0.0]]))) == 0
    assert float(orthogonality(torch.tensor([[1.0, 2.0]]))) == 0
    torch.testing.assert_close(orthogonality(torch.eye(4).repeat(2, 1)), torch.tensor(1.0))


def test_the_gradient_of_orthogonality() -> None:
    W_dec = torch.randn(11, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(orthogonality, (W_dec,))


def test_parts_of_the_dictionary_are_drawn_anew_for_each_step() -> None:
    unit = torch.nn.functional.normalize(torch.randn(50, 6), dim=1)
    cosines = (unit @ unit.T).fill_diagonal_(-1)
    best = cosines.argmax(1)
    found = torch.stack([nearest_in_chunks(unit, step, chunk=10) for step in range(60)])
    assert torch.equal(found[3], nearest_in_chunks(unit, 3, chunk=10))
    assert (found != torch.arange(50)).all(), "a row was compared with itself"
    hits = (found == best).float().mean(0)
    assert (hits > 0).all() and hits.mean() < 0.5
    assert torch.equal(nearest_in_chunks(unit, 0, chunk=50), best)


def jump_forward() -> tuple[SparseAutoencoder, ForwardPass]:
    sae = SparseAutoencoder(JumpReLUConfig(D, F, 0.4)).double()
    with torch.no_grad():
        sae.get_parameter("threshold_exponent").add_(torch.log(torch.tensor(0.3)) / D**0.5)
        sae.b_enc[::5] = 1.0
    x = torch.randn(31, D, dtype=torch.float64)
    return sae, forward_of(sae, x, sae.encode_train(x))


def test_frequency_is_the_sum_of_squared_frequencies() -> None:
    for forward in (jump_forward()[1], topk_forward()[1]):
        frequencies = (forward.codes.dense(F) > 0).double().mean(0)
        expected = frequencies.square().sum() / FREQUENCY_SCALE
        torch.testing.assert_close(frequency_penalty(forward), expected)
        assert frequencies.max() > 0.3, "no latent is dense"


def topk_forward() -> tuple[SparseAutoencoder, ForwardPass]:
    sae = SparseAutoencoder(TopKConfig(D, F, K)).double()
    with torch.no_grad():
        sae.b_enc[:3] = 2.0
    x = torch.randn(31, D, dtype=torch.float64)
    return sae, forward_of(sae, x, sae.encode_train(x))


def test_the_gradient_of_frequency_goes_through_the_gates_alone() -> None:
    sae, forward = jump_forward()
    gates = forward.codes.l0_gate
    assert gates is not None
    (found,) = torch.autograd.grad(frequency_penalty(forward), gates, retain_graph=True)
    wanted = gates.detach().clone().requires_grad_()
    dense = torch.zeros(31, F, dtype=torch.float64).scatter_add(1, forward.codes.indices, wanted)
    (expected,) = torch.autograd.grad(dense.mean(0).square().sum() / FREQUENCY_SCALE, wanted)
    torch.testing.assert_close(found, expected)
    names = [name for name, _ in sae.named_parameters()]
    gradients = torch.autograd.grad(
        frequency_penalty(forward), list(sae.parameters()), allow_unused=True
    )
    found_by_name: dict[str, Any] = dict(zip(names, gradients, strict=True))
    moved = [name for name, g in found_by_name.items() if g is not None and g.any()]
    assert moved == ["threshold_exponent"]


def test_without_thresholds_active_values_pay_for_their_latents_frequency() -> None:
    _, forward = topk_forward()
    (found,) = torch.autograd.grad(frequency_penalty(forward), forward.codes.values)
    frequencies = (forward.codes.dense(F) > 0).double().mean(0)
    expected = 2 * frequencies[forward.codes.indices] / FREQUENCY_SCALE / 31
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("target", [3, 12.5])
def test_quadratic_l0_is_of_each_row(target: float) -> None:
    _, forward = jump_forward()
    gates = forward.codes.l0_gate
    assert gates is not None
    rows: Tensor = gates.detach().sum(-1)
    assert rows.max() > rows.min()
    found = quadratic_l0_loss(forward.codes, target)
    torch.testing.assert_close(found, (rows / target - 1).square().mean())
    spread = rows.var(correction=0) / target**2
    torch.testing.assert_close(found, l0_loss(forward.codes, target) + spread)

    def loss(gate: Tensor) -> Tensor:
        return quadratic_l0_loss(forward.codes._replace(l0_gate=gate), target)

    assert torch.autograd.gradcheck(loss, (gates.detach().requires_grad_(),))
    with pytest.raises(ValueError, match="no l0_gate"):
        quadratic_l0_loss(forward.codes._replace(l0_gate=None), target)


def rows(n_rows: int, seed: int) -> Tensor:
    """Rows of which two directions are common to all."""
    common = torch.randn(2, D, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(seed)
    weights = 4 * torch.rand(n_rows, 2, generator=generator)
    return torch.randn(n_rows, D, generator=generator) + weights @ common


def trained(terms: Sequence[str], n_steps: int = 8, **settings: Any) -> Trainer:
    config = TrainerConfig(
        tokens=64 * n_steps, batch_size=64, lr=5e-3, loss_term=tuple(terms), **settings
    )
    trainer = Trainer(SparseAutoencoder(TopKConfig(D, F, K), seed=2), config)
    for step in range(n_steps):
        trainer.step(rows(64, step))
    return trainer


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.slow_except("float32")
def test_a_coefficient_of_0_measures_and_changes_nothing(precision: str) -> None:
    plain = trained([], precision=precision)
    measured = trained(["frequency=0", "orthogonality=0"], precision=precision)
    for name, tensor in plain.sae.state_dict().items():
        assert torch.equal(tensor, measured.sae.state_dict()[name]), name
    terms = measured.loss(torch.randn(64, D)).terms
    assert float(terms["frequency"]) > 0 and float(terms["orthogonality"]) > 0


@pytest.mark.parametrize(("term", "coefficient"), [("frequency", 0.3), ("orthogonality", 3)])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.slow_except("float32-frequency-0.3")
def test_each_term_lowers_what_it_penalizes(term: str, coefficient: float, precision: str) -> None:
    found: list[float] = []
    for weight in (0, coefficient):
        trainer = trained([f"{term}={weight}"], 40, precision=precision)
        losses = trainer.loss(trainer.sae.scaled(rows(500, 99)))
        found.append(float(losses.terms[term].detach()))
    assert found[1] < 0.9 * found[0]
