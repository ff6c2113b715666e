"""The losses of jumprelu: where they are zero, and what they move."""

import pytest
import torch

from sparsteer.sae import JumpReLUConfig, SparseAutoencoder
from sparsteer.sae.activations.jumprelu import l0_loss, tanh_loss


def test_sparsity_losses_are_zero_at_their_target_only() -> None:
    sae = SparseAutoencoder(JumpReLUConfig(13, 57)).double()
    with torch.no_grad():
        codes = sae.encode_train(torch.randn(31, 13, dtype=torch.float64))
    for loss, count in (
        (l0_loss, (codes.values > 0).double().sum(-1).mean()),
        (tanh_loss, (4 * codes.values).tanh().sum(-1).mean()),
    ):
        assert float(loss(codes, float(count))) == pytest.approx(0, abs=1e-12)
        assert float(loss(codes, 2 * float(count))) == pytest.approx(0.25)


def test_step_loss_moves_thresholds_only_and_needs_them() -> None:
    sae = SparseAutoencoder(JumpReLUConfig(13, 57)).double()
    x = torch.randn(31, 13, dtype=torch.float64)
    loss = l0_loss(sae.encode_train(x), 3.0)
    names, parameters = zip(*sae.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, materialize_grads=True)
    for name, gradient in zip(names, found, strict=True):
        assert (gradient != 0).any() == (name == "threshold_exponent"), name
    with pytest.raises(ValueError, match="have no l0_gate"):
        l0_loss(sae.encode_scaled(x), 3.0)
