"""Which mistake of a conversion explains bad figures; test_import.py has the other mistakes."""

import pytest
import torch

from sparsteer.sae.autoencoder import SparseAutoencoder
from sparsteer.sae.config import JumpReLUConfig, ReLUConfig
from sparsteer.training.evaluation.conversion_faults import Rows, likely_causes

D, F, K = 200, 500, 16


@pytest.fixture(scope="module")
def rows() -> Rows:
    """Rows that an autoencoder of seed 3 gives back well if it keeps some 16 latents of each."""
    random = torch.Generator().manual_seed(7)
    chosen = torch.rand(700, F, generator=random).topk(K).indices
    codes = torch.zeros(700, F).scatter(1, chosen, 1 + torch.rand(700, K, generator=random))
    return Rows(codes @ SparseAutoencoder(ReLUConfig(D, F), seed=3).W_dec.detach())


@pytest.mark.parametrize("stated", [None, float(K)])
def test_a_relu_where_topk_is_meant(rows: Rows, stated: float | None) -> None:
    best, *_ = likely_causes(SparseAutoencoder(ReLUConfig(D, F), seed=3), rows, stated_l0=stated)
    assert best.cause.startswith("it keeps the largest latents of a row")
    assert (f"topk with k {K}, not relu" in best.cause) == (stated is not None)
    assert best.l0 == K and best.fvu < 0.5


def test_thresholds_that_cut_little_are_not_taken_for_topk(rows: Rows) -> None:
    """Without a stated L0 more latents would always fit better than those above a threshold."""
    sae = SparseAutoencoder(JumpReLUConfig(D, F, fixed_thresholds=True), seed=3)
    causes = likely_causes(sae, rows)
    assert not [one for one in causes if "topk" in one.cause]
