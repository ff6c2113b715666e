"""Adam over a module: torch's own Adam where nothing is special, unit rows, clipping, its state."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from sparsteer.kernels import reference
from sparsteer.kernels.numerics import row_norms
from sparsteer.kernels.optimizer import normalize_rows_
from sparsteer.training.optimizer import Adam

BETAS, EPSILON = (0.9, 0.99), 1e-9


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Parameter(normalize_rows_(torch.randn(13, 5)))
        self.weights = nn.Parameter(torch.randn(7, 3))
        self.bias = nn.Parameter(torch.randn(9))
        self.frozen = nn.Parameter(torch.randn(2), requires_grad=False)


def give_gradients(module: nn.Module, *others: nn.Module) -> None:
    """The same random gradients to every module."""
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn_like(parameter) * 3
            for other in others:
                other.get_parameter(name).grad = parameter.grad.clone()


def adam(module: nn.Module, clip_norm: float | None = None) -> Adam:
    return Adam(module, unit_rows={"rows"}, betas=BETAS, epsilon=EPSILON, clip_norm=clip_norm)


@pytest.mark.parametrize("clip_norm", [None, 2.5, 1e6])
def test_equals_torchs_adam_with_projection_scaling_and_clipping(clip_norm: float | None) -> None:
    ours = Small()
    theirs = copy.deepcopy(ours)
    frozen = ours.frozen.clone()
    optimizer = adam(ours, clip_norm)
    torchs = torch.optim.Adam(theirs.parameters(), betas=BETAS, eps=EPSILON)
    for number in range(1, 5):
        lr = 0.02 * number
        give_gradients(ours, theirs)
        norm = nn.utils.clip_grad_norm_(theirs.parameters(), clip_norm or math.inf)
        assert theirs.rows.grad is not None
        theirs.rows.grad = reference.project_rows(theirs.rows.grad, theirs.rows.detach())
        torchs.param_groups[0]["lr"] = lr
        torchs.step()  # pyright: ignore[reportUnknownMemberType] - its closure is untyped
        normalize_rows_(theirs.rows.data)
        torch.testing.assert_close(optimizer.step(number, lr), norm)
        assert all(parameter.grad is None for parameter in ours.parameters())
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(ours.get_parameter(name), parameter, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(row_norms(ours.rows.data), torch.ones(13))
    assert torch.equal(ours.frozen, frozen)


def test_its_state_carries_a_step_over_bit_for_bit() -> None:
    module = Small()
    optimizer = adam(module)
    give_gradients(module)
    optimizer.step(1, 0.1)
    other = copy.deepcopy(module)
    restored = adam(other)
    state: dict[str, Tensor] = {name: tensor.clone() for name, tensor in optimizer.state().items()}
    assert set(state) == {
        f"{m}.{n}" for m in ("first", "second") for n in ("rows", "weights", "bias")
    }
    restored.load_state(state)
    give_gradients(module, other)
    optimizer.step(2, 0.1)
    restored.step(2, 0.1)
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter, other.get_parameter(name)), name
    del state["second.bias"]
    with pytest.raises(KeyError, match=r"second\.bias"):
        restored.load_state(state)


def test_a_parameter_that_the_loss_does_not_reach_is_named_and_nothing_changes() -> None:
    module = Small()
    give_gradients(module)
    module.weights.grad = None
    before = module.rows.clone()
    with pytest.raises(RuntimeError, match="the loss does not reach weights"):
        adam(module).step(1, 0.1)
    assert torch.equal(module.rows, before)
