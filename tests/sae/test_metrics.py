"""Measures over batches equal a plain dense computation in float64."""

import pytest
import torch
from torch import Tensor

from sparsteer.sae import InputError, SparseAutoencoder, TopAFAConfig, TopKConfig
from sparsteer.sae.config import SAEConfig
from sparsteer.sae.metrics import ReconstructionMetrics


def measured(config: SAEConfig) -> tuple[SparseAutoencoder, Tensor, dict[str, float | int]]:
    sae = SparseAutoencoder(config)
    with torch.no_grad():
        sae.b_dec.add_(torch.randn_like(sae.b_dec))
        sae.input_scale.fill_(0.4)
        sae.input_center.normal_()
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
        assert result["dead_fraction"] == float((~active.any(0)).double().mean())
        assert result["dense_fraction"] == float((active.double().mean(0) > 0.1).double().mean())


@torch.no_grad()
def test_epsilon_lbo_is_the_published_formula_with_both_constants() -> None:
    sae, x, result = measured(TopKConfig(13, 57, 5))
    codes = sae.encode(x).dense(57).double() * sae.decoder_norms().double()
    with_bias = codes.square().sum(-1) + sae.b_dec.double().square().sum()
    scaled = 0.4 * x.double() - sae.input_center
    gap = (scaled.square().sum(-1) - with_bias).abs() / with_bias
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


@torch.no_grad()
def measures_of(sae: SparseAutoencoder, *batches: Tensor) -> dict[str, float | int]:
    measures = ReconstructionMetrics(sae)
    for rows in batches:
        measures.update(rows)
    return measures.result()


@pytest.mark.parametrize(
    "rows", [torch.randn(1, 13), torch.zeros(9, 13), torch.randn(13).expand(9, 13)]
)
def test_rows_without_variance_have_no_fvu(rows: Tensor) -> None:
    sae = SparseAutoencoder(TopKConfig(13, 57, 5))
    with pytest.raises(InputError, match=rf"measured, {len(rows)}, are all the same"):
        measures_of(sae, *torch.split(rows, 4))


def test_the_median_of_an_even_number_is_the_mean_of_the_middle_two() -> None:
    sae = SparseAutoencoder(TopKConfig(13, 57, 5))
    x = torch.randn(2, 13)
    both = measures_of(sae, x)
    rows = [measures_of(sae, row, torch.zeros(1, 13)) for row in x[:, None]]  # zeros have no code
    assert sum(row["epsilon_lbo"] for row in rows) / 2 == pytest.approx(both["epsilon_lbo"])


def test_rows_without_a_code_tell_of_no_overlap() -> None:
    sae = SparseAutoencoder(TopKConfig(13, 57, 5))
    sae.b_enc.data.fill_(-1e3)
    result = measures_of(sae, torch.randn(30, 13), torch.zeros(3, 13))
    assert result["l0"] == result["epsilon_lbo"] == result["epsilon_lbo_active"] == 0
    assert result["dead_fraction"] == 1


@torch.no_grad()
def test_norms_are_those_of_scaled_rows_and_of_codes_with_the_bias() -> None:
    sae = SparseAutoencoder(TopKConfig(13, 57, 5))
    sae.b_dec.add_(torch.randn(13))
    sae.W_dec.mul_(torch.rand(57, 1) + 0.5)
    sae.input_scale.fill_(0.4)
    sae.input_center.normal_()
    x = torch.randn(23, 13)
    measures = ReconstructionMetrics(sae)
    for rows in torch.split(x, 9):
        measures.update(rows)
    W_dec = sae.W_dec.double()
    codes = sae.encode(x).dense(57).double() * W_dec.square().sum(-1).sqrt()
    with_bias = codes.square().sum(-1) + sae.b_dec.double().square().sum()
    scaled = 0.4 * x.double() - sae.input_center
    row_norms, code_norms = scaled.square().sum(-1).sqrt(), with_bias.sqrt()
    expected = torch.stack([row_norms, code_norms], dim=-1)
    torch.testing.assert_close(measures.norms(100), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(measures.norms(4), expected[[0, 5, 11, 17]], rtol=1e-6, atol=0)
