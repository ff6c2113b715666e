"""Dictionaries that nobody trained: exact, repeatable, and measured as trained ones are."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsteer.sae import SparseAutoencoder
from sparsteer.sae.common.errors import InputError
from sparsteer.sae.metrics import measure_rows
from sparsteer.training.data.cache.reader import ActivationCache
from sparsteer.training.evaluation.baselines import baseline, mean_l0
from sparsteer.training.evaluation.config import EvalSettings
from sparsteer.training.evaluation.evaluation import evaluate_all, evaluate_subjects
from sparsteer.training.evaluation.subjects import subject_of

LINALG: Any = torch.linalg  # torch leaves the types of its results open


def rows(n: int = 300, width: int = 7, *, far: float = 100.0) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    spread = torch.linspace(3, 0.2, width)
    turned: Tensor = LINALG.qr(torch.randn(width, width, generator=generator)).Q
    return (torch.randn(n, width, generator=generator) * spread) @ turned + far


def fvu(sae: SparseAutoencoder, x: Tensor) -> float:
    return float(measure_rows(sae, x).result()["fvu"])


@pytest.mark.parametrize("l0", [1, 3, 6])
def test_pca_keeps_the_largest_projections(l0: int) -> None:
    x = rows()
    centered = x.double() - x.double().mean(0)
    columns: Tensor = LINALG.eigh(centered.T @ centered)[1]
    squares = (centered @ columns).square().sort(dim=1)[0]
    expected = float(squares[:, : 7 - l0].sum() / centered.square().sum())
    sae = baseline("pca", x, l0=l0)
    assert fvu(sae, x) == pytest.approx(expected, rel=1e-4)
    assert sae.config.n_latents == 14
    components = sae.W_dec[:7].detach()
    assert torch.allclose(components @ components.T, torch.eye(7), atol=1e-6)
    assert torch.equal(sae.W_dec[7:], -sae.W_dec[:7]) and torch.equal(sae.W_dec, sae.W_enc)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(2))
    shuffled = baseline("pca", x[order], l0=l0).W_dec
    assert torch.allclose(sae.W_dec, shuffled, atol=1e-4)


def test_pca_of_a_plane_rebuilds_it() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 3, generator=generator) @ torch.randn(3, 9, generator=generator) - 40
    assert fvu(baseline("pca", x, l0=3), x) < 1e-6 < fvu(baseline("pca", x, l0=2), x)


def test_raw_is_the_activation_itself() -> None:
    x = rows()
    sae = baseline("raw", x)
    assert torch.allclose(sae(x), x, atol=1e-4)
    assert mean_l0([sae], x) == [7.0]
    assert fvu(sae, x) < 1e-9


def test_random_directions_are_those_of_the_seed_and_fit_as_well_as_they_can() -> None:
    x = rows(far=3.0)
    sae = baseline("random", x, l0=5, n_latents=40, seed=3)
    assert torch.equal(sae.W_dec, baseline("random", x, l0=5, n_latents=40, seed=3).W_dec)
    assert not torch.equal(sae.W_dec, baseline("random", x, l0=5, n_latents=40, seed=4).W_dec)
    assert torch.allclose(sae.decoder_norms(), torch.ones(40), atol=1e-6)
    best = fvu(sae, x)
    assert 0 < best < 1
    for factor in (0.97, 1.03):
        other = baseline("random", x, l0=5, n_latents=40, seed=3)
        with torch.no_grad():
            other.W_enc.mul_(factor)
        assert fvu(other, x) > best


@pytest.mark.parametrize(
    ("kind", "l0", "sentence"),
    [("pcs", 3, "kind is 'pcs'; choose pca, random or raw"), ("pca", 0, "l0 is 0")],
)
def test_wrong_ones(kind: str, l0: int, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        baseline(kind, rows(), l0=l0)


def test_they_are_measured_in_memory_as_from_a_folder(planted_cache: Path, tmp_path: Path) -> None:
    settings = EvalSettings(cache=str(planted_cache), contexts=0, rows=300, device="cpu")
    cache = ActivationCache(planted_cache)
    sae = baseline("pca", cache.sample(500), l0=4)
    path = str(tmp_path / "pca")
    subject = subject_of(sae, path, cache, settings)
    in_memory = evaluate_subjects([subject], cache, settings)
    sae.save(path)
    assert in_memory == evaluate_all([path], settings)
    assert in_memory[0]["l0"] == 4
