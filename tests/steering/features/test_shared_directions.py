"""Shared directions: counted exactly, and what one latent's count is held against."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sparsteer.kernels.numerics import row_norms
from sparsteer.sae import InputError, Origin, SparseAutoencoder
from sparsteer.sae.config import TopKConfig
from sparsteer.steering.features import SharedConfig, mean_direction, shared_direction
from sparsteer.steering.features.shared_directions import mean_sharing, shared_directions

D = 16


def split_in_three() -> tuple[torch.Tensor, torch.Tensor]:
    """A direction, and a dictionary in which rows 2, 5 and 9 are parts of it at known cosines."""
    turned = np.linalg.qr(np.random.default_rng(0).normal(size=(D, D))).Q
    basis = torch.tensor(turned, dtype=torch.float32)
    rows = basis[4:].clone()
    for row, (cosine, other) in {2: (0.9, 1), 5: (0.7, 2), 9: (0.6, 3)}.items():
        rows[row] = cosine * basis[0] + (1 - cosine**2) ** 0.5 * basis[other]
    rows[7] = -basis[0]  # the opposite shares nothing
    rows[10] = 0
    return 3 * basis[0], rows


def test_the_parts_of_a_direction() -> None:
    direction, rows = split_in_three()
    found = shared_direction(direction, rows, least_cosine=0.5)
    assert [latent.feature for latent in found.latents] == [2, 5, 9]
    cosines = [latent.cosine for latent in found.latents]
    assert cosines == pytest.approx([0.9, 0.7, 0.6], abs=1e-5)
    assert found.count == 3 and found.n_latents == 12
    assert found.nearest == found.latents[0]
    # What leads away from the direction differs from part to part, and is less of their mean.
    norm = (sum(cosines) ** 2 + sum(1 - c**2 for c in cosines)) ** 0.5
    assert found.mean_direction_cosine == pytest.approx(sum(cosines) / norm, abs=1e-5)
    mean = mean_direction(rows, [2, 5, 9])
    assert float(row_norms(mean)) == pytest.approx(1)
    few = shared_direction(direction, rows, least_cosine=0.95)
    assert few.count == 0 and few.mean_direction_cosine is None
    assert few.nearest is not None and few.nearest.feature == 2


def test_numbers_of_latents_and_lengths_do_not_matter() -> None:
    direction, rows = split_in_three()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    found = shared_direction(direction / 7, 2 * rows[order], least_cosine=0.5)
    assert [int(order[latent.feature]) for latent in found.latents] == [2, 5, 9]


def test_a_latent_does_not_share_with_itself() -> None:
    _, rows = split_in_three()
    found = shared_direction(rows[2], rows, least_cosine=0.5, besides=2)
    assert [latent.feature for latent in found.latents] == [5, 9]
    alone = shared_direction(rows[2], rows[2:3], besides=0)
    assert alone.count == 0 and alone.nearest is None
    counts = [
        shared_direction(row, rows, least_cosine=0.5, besides=n).count if row.any() else 0
        for n, row in enumerate(rows)
    ]
    mean = mean_sharing(rows, rows, least_cosine=0.5, same=True)
    assert mean == pytest.approx(sum(counts) / 12)


@pytest.mark.usefixtures("without_type_checks")
def test_another_width() -> None:
    direction, rows = split_in_three()
    with pytest.raises(InputError, match="width 3 and decoder rows of width 16"):
        shared_direction(direction[:3], rows)


def test_what_has_no_direction() -> None:
    _, rows = split_in_three()
    with pytest.raises(InputError, match="the direction is 0"):
        shared_direction(torch.zeros(D), rows)
    with pytest.raises(InputError, match="no latent is given"):
        mean_direction(rows, [])
    with pytest.raises(InputError, match="cancel"):
        mean_direction(torch.stack([rows[0], -rows[0]]), [0, 1])


def test_runs(tmp_path: Path) -> None:
    for name, n, site in (("small", 8, "a"), ("wide", 20, "a"), ("other", 8, "b")):
        origin = Origin(model="m", site=f"blocks.1.hook_{site}", weights_hash=None)
        sae = SparseAutoencoder(TopKConfig(D, n, 2), seed=n, origin=origin)
        if name == "wide":
            small = SparseAutoencoder.load(tmp_path / "small")
            sae.W_dec.data[[4, 11]] = small.W_dec[3]
        sae.save(tmp_path / name / "sae")
    small, wide, other = (str(tmp_path / name) for name in ("small", "wide", "other"))
    values = shared_directions(SharedConfig(run=small, feature=3, among=(wide,), least_cosine=0.9))
    own, split = values["dictionaries"]
    assert (own["run"], own["count"], own["n_latents"]) == (small, 0, 8)
    assert (split["run"], split["count"], split["n_latents"]) == (wide, 2, 20)
    assert {latent["feature"] for latent in split["latents"]} == {4, 11}
    assert split["mean_count"] == pytest.approx(2 / 8)
    with pytest.raises(InputError, match=r"is of blocks\.1\.hook_a and .* of blocks\.1\.hook_b"):
        shared_directions(SharedConfig(run=small, feature=3, among=(other,)))
    with pytest.raises(InputError, match="there is no feature 8"):
        shared_directions(SharedConfig(run=small, feature=8))
