"""group_max: each group of neighboring latents keeps its largest, if that is positive."""

import pytest
import torch

from sparsteer.sae import InputError, SparseAutoencoder
from sparsteer.sae.config import GroupMaxConfig

from ..random_sae import random_sae

D, F, K = 13, 57, 19


@pytest.mark.parametrize("rows", [0, 1, 700])
@torch.no_grad()
def test_the_largest_of_each_group(rows: int) -> None:
    sae = random_sae(GroupMaxConfig(D, F, K))
    x = torch.randn(rows, D)
    pre_BF = (sae.scaled(x) - sae.b_dec) @ sae.W_enc.T + sae.b_enc
    groups_BKG = pre_BF.view(rows, K, F // K)
    largest_BKG = groups_BKG == groups_BKG.amax(2, keepdim=True)
    expected_BF = (groups_BKG * largest_BKG).relu().flatten(1)
    codes = sae.encode(x)
    torch.testing.assert_close(codes.dense(F), expected_BF)
    assert codes.counts is not None
    assert torch.equal(codes.counts, (expected_BF > 0).sum(1))
    if rows == 700:
        assert codes.counts.min() < K and codes.counts.max() <= K


def test_gradients_reach_the_kept_latents_alone() -> None:
    sae = random_sae(GroupMaxConfig(D, F, K))
    codes = sae.encode(torch.randn(4, D))
    torch.autograd.backward(codes.values.sum())
    used = codes.dense(F).detach().sum(0) > 0
    assert sae.b_enc.grad is not None
    assert torch.equal(sae.b_enc.grad > 0, used)


def test_groups_have_one_size() -> None:
    with pytest.raises(InputError, match="k is 5, which does not divide the 57 latents"):
        SparseAutoencoder(GroupMaxConfig(D, F, 5))
