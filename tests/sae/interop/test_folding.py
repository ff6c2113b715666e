"""Scale and centers in the weights: the same reconstruction, latents in raw units."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sparsteer.sae import InputError, SparseAutoencoder
from sparsteer.sae.config import (
    GatedConfig,
    GroupMaxConfig,
    JumpReLUConfig,
    ReLUConfig,
    SAEConfig,
    TopKConfig,
)
from sparsteer.sae.interop.export import export
from sparsteer.sae.interop.folding import in_raw_units

D, F = 13, 54
X = 3 * torch.randn(29, D, generator=torch.Generator().manual_seed(1)) + 1
PLACES: dict[str, dict[str, Any]] = {
    "subtracts": {},
    "raw-input": {"apply_b_dec_to_input": False},
    "normalized": {"apply_b_dec_to_input": False, "normalize_activations": "layer_norm"},
    "transcoder": {"transcoder": True},
    "skip": {"transcoder": True, "skip": True},
}


def configs(place: str) -> list[SAEConfig]:
    given = PLACES[place]
    return [
        ReLUConfig(D, F, **given),
        TopKConfig(D, F, 5, **given),
        JumpReLUConfig(D, F, fixed_thresholds=True, **given),
        GatedConfig(D, F, **given),
        GroupMaxConfig(D, F, 6, **given),
    ]


def scaled(config: SAEConfig) -> SparseAutoencoder:
    """Every weight and buffer at random; scales are above 0, and thresholds."""
    random = torch.Generator().manual_seed(2)
    sae = SparseAutoencoder(config)
    with torch.no_grad():
        for name, tensor in sae.state_dict().items():
            positive = name.endswith("_scale") or name == "threshold"
            drawn = torch.rand if positive else torch.randn
            tensor.copy_(drawn(tensor.shape, generator=random) + 0.1 * positive)
    return sae


@pytest.mark.parametrize("place", PLACES)
@torch.no_grad()
def test_it_reconstructs_alike_with_a_scale_of_1(place: str) -> None:
    for config in configs(place):
        sae = scaled(config)
        raw = in_raw_units(sae)
        assert raw.input_scale == raw.decoder_scale == 1 and not raw.input_center.any()
        expected = sae.encode(X).dense(F) / sae.decoder_scale
        torch.testing.assert_close(raw.encode(X).dense(F), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(raw(X), sae(X), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", ["saelens", "sparsify", "dictionary_learning", "sparsteer"])
@pytest.mark.parametrize("place", PLACES)
@torch.no_grad()
def test_so_does_every_export(layout: str, place: str, tmp_path: Path) -> None:
    for number, config in enumerate(configs(place)):
        sae = scaled(config)
        try:
            export(sae, tmp_path / str(number), layout)
        except InputError:
            continue  # what a layout cannot hold: test_writers.py
        read = SparseAutoencoder.load(tmp_path / str(number))
        torch.testing.assert_close(read(X), sae(X), rtol=1e-4, atol=1e-4)
