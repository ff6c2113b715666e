"""A cache of the tiny model over given texts, and an autoencoder of random weights for it."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sparsteer.sae import LanguageModel, Origin, SparseAutoencoder
from sparsteer.sae.config import SAEConfig, TopKConfig
from sparsteer.training.data.cache.config import CacheConfig
from sparsteer.training.data.cache.writer import cache_activations

SITE = "blocks.1.hook_resid_post"


def cache_of_texts(
    folder: Path, model: LanguageModel, texts: Iterable[str], **settings: Any
) -> Path:
    """Write the texts and a cache of them into the folder, and give the cache's.

    `settings` are those of `CacheConfig` that are not as here: one site, on the CPU.
    """
    corpus = folder / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    config = CacheConfig(
        model=model.name,
        dataset=str(corpus),
        out=str(folder / "cache"),
        site=(SITE,),
        device="cpu",
        **settings,
    )
    cache_activations(config, model=model)
    return folder / "cache"


def random_topk(
    model: LanguageModel, n_latents: int, *, k: int = 4, seed: int = 1
) -> SparseAutoencoder:
    """A top-k autoencoder of the site with random weights."""
    return random_sae(model, TopKConfig(model.d_model, n_latents, k), seed=seed)


def random_sae(model: LanguageModel, config: SAEConfig, *, seed: int) -> SparseAutoencoder:
    """An autoencoder of the site with random weights, which says where it is from."""
    origin = Origin(model=model.name, site=SITE, weights_hash=model.weights_hash)
    return SparseAutoencoder(config, seed=seed, origin=origin)
