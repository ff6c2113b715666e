"""Measures over batches equal a plain dense computation in float64."""

import torch
from torch import Tensor

from sparsteer.sae import SparseAutoencoder, TopAFAConfig, TopKConfig
from sparsteer.sae.config import SAEConfig
from sparsteer.sae.metrics import ReconstructionMetrics


def measured(config: SAEConfig) -> tuple[SparseAutoencoder, Tensor, dict[str, float | int]]:
    sae = SparseAutoencoder(config)
    with torch.no_grad():
        sae.b_dec.add_(torch.randn_like(sae.b_dec))
        sae.input_scale.fill_(0.4)
    x = 3 * torch.randn(103, 13) + torch.randn(13)
    measures = ReconstructionMetrics(sae)
    for rows in torch.split(x, 17):
        measures.update(rows)
    return sae, x, measures.result()


@torch.no_grad()
def test_equal_the_dense_definitions() -> None:
    for config in (TopKConfig(13, 57, 5), TopAFAConfig(13, 57)):
        sae, x, result = measured(config)
        codes = sae.encode(x).dense(57).double()
        wide = x.double()
        residual = (wide - sae(x).double()).square().sum()
        total = (wide - wide.mean(0)).square().sum()
        active = codes > 0
        assert result["rows"] == 103
        assert abs(result["fvu"] - float(residual / total)) < 1e-7
        assert abs(result["explained_variance"] - (1 - float(residual / total))) < 1e-7
        assert result["l0"] == float(active.sum(-1).double().mean())
        assert result["dead_share"] == float((~active.any(0)).double().mean())
        assert result["dense_share"] == float((active.double().mean(0) > 0.1).double().mean())


@torch.no_grad()
def test_epsilon_lbo_is_the_published_formula_with_both_constants() -> None:
    sae, x, result = measured(TopKConfig(13, 57, 5))
    codes = sae.encode(x).dense(57).double() * sae.decoder_norms().double()
    with_bias = codes.square().sum(-1) + sae.b_dec.double().square().sum()
    gap = ((0.4 * x.double()).square().sum(-1) - with_bias).abs() / with_bias
    l0 = (codes > 0).sum(-1)
    assert abs(result["epsilon_lbo"] - float((gap / 56).median())) < 1e-7
    assert abs(result["epsilon_lbo_active"] - float((gap / l0).median())) < 1e-6


def test_epsilon_lbo_bounds_the_largest_decoder_cosine() -> None:
    """What the bound promises: some two of the vectors overlap by at least epsilon, when the codes
    reconstruct the row exactly."""
    sae = SparseAutoencoder(TopKConfig(13, 57, 5)).double()
    codes = sae.encode(torch.randn(200, 13, dtype=torch.float64))
    x = sae.decode(codes).detach()
    overlap = sae.W_dec @ sae.W_dec.T - torch.eye(57, dtype=torch.float64)
    f_square = codes.values.square().sum(-1)
    gap = (x.square().sum(-1) - f_square).abs() / f_square
    assert (gap / 4).max() <= overlap.abs().max() + 1e-9
