"""An intervention on the tiny model whose autoencoder has an input scale that matters."""

import pytest
import torch

from sparsteer.sae.autoencoder import SparseAutoencoder
from sparsteer.sae.config import TopKConfig
from sparsteer.steering.interventions.intervention import Intervention
from sparsteer.steering.interventions.spec import SteeredFeature

SITE = "blocks.1.hook_resid_post"
TWO = (
    SteeredFeature(index=7, strength=1.5, sign=-1, max_activation=11.0),
    SteeredFeature(index=40, strength=0.25, max_activation=3.0),
)


@pytest.fixture(scope="session")
def sae() -> SparseAutoencoder:
    sae = SparseAutoencoder(TopKConfig(d_model=32, n_latents=70, k=9), seed=3)
    with torch.no_grad():
        sae.input_scale.fill_(2.7)
    return sae


def two_features(site: str = SITE, tier: str = "constant") -> Intervention:
    return Intervention.of_features(site=site, features=TWO, tier=tier)
