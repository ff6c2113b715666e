"""The kernels that count firings against PyTorch."""

import pytest
import torch

from sparsteer.kernels.codes import Codes
from sparsteer.kernels.firing import count_firings_, fired_latents


@pytest.mark.parametrize("size", [(1, 1, 1), (37, 5, 101), (700, 3, 5000)])
@pytest.mark.parametrize("loss", [1.5, torch.nan, -torch.inf])
def test_counts_and_dead_latents_are_those_of_pytorch(
    size: tuple[int, int, int], loss: float, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_rows, M, F = size
    indices = torch.randint(F, (n_rows, M), device=device)
    values = torch.randn(n_rows, M, device=device, dtype=torch.bfloat16)
    values[0, 0] = torch.nan
    codes, loss_tensor = Codes(indices, values), torch.tensor(loss, device=device)
    since = torch.randint(2000, (F,), device=device)
    expected = since.clone()
    with monkeypatch.context() as patch:
        patch.setenv("SPARSTEER_KERNELS", "eager")
        fired = fired_latents(codes, F)
        eager = count_firings_(expected, fired, loss_tensor, n_rows=n_rows, dead_after=1000)
    assert torch.equal(fired_latents(codes, F), fired)
    ours = count_firings_(since, fired, loss_tensor, n_rows=n_rows, dead_after=1000)
    assert torch.equal(since, expected) and torch.equal(ours.numbers, eager.numbers)
    assert torch.equal(ours.finite, eager.finite)
    assert ours.dead is not None and eager.dead is None
    dead = (expected >= 1000).nonzero()[:, 0]
    assert torch.equal(ours.dead[: len(dead)], dead)
    assert torch.equal(ours.dead.sort().values, torch.arange(F, device=device))
