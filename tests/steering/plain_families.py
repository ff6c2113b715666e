"""Tiny random models of six families: each in the bridge, and as transformers has it."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from sparsteer.sae.autoencoder import SparseAutoencoder
from sparsteer.sae.config import TopKConfig
from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.steering.interventions.intervention import Intervention
from sparsteer.steering.interventions.spec import SteeredFeature
from sparsteer.steering.texts import prompt_tokens

from .model_families import PROMPTS, auto_model, save_model

SIX = ("gpt2", "gpt_neox", "llama", "qwen3", "gemma2", "gemma3_text")
QUICK = ("gpt_neox", "gemma3_text")
"""Those of the six that every test run takes."""


@dataclass(frozen=True)
class Twins:
    """One model twice."""

    bridge: LanguageModel
    hf: Any
    """As `AutoModelForCausalLM.from_pretrained` gives it."""
    plain: LanguageModel
    """`hf` wrapped."""


@cache
def twins(family: str, dtype: torch.dtype = torch.float32) -> Twins:
    with TemporaryDirectory() as name:
        folder = Path(name) / family
        save_model(family, folder)
        bridge = LanguageModel.load(
            str(folder), dtype=str(dtype).removeprefix("torch."), progress=lambda sentence: None
        )
        assert bridge.weights_hash  # while the folder is there
        hf = auto_model.from_pretrained(folder, dtype=dtype).eval()
        return Twins(bridge, hf, LanguageModel.from_transformers(hf, bridge.tokenizer))


def hooks(model: nn.Module) -> int:
    """How many hooks there are on the modules of a model."""
    modules: Any = model.modules()
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)


def firing_spec(both: Twins, tier: str, site: str) -> tuple[SparseAutoencoder, Intervention]:
    """An autoencoder of the site, and two features that fire at some tokens and not at others."""
    tokens = torch.tensor([prompt_tokens(both.bridge, "".join(PROMPTS))])
    acts_BLD: Any = both.bridge.site(site).read(tokens)[:, 2:]
    sae = SparseAutoencoder(TopKConfig(both.bridge.d_model, 96, 4), seed=5).to(acts_BLD.dtype)
    sae.input_scale.fill_(both.bridge.d_model**0.5 / float(acts_BLD.norm(dim=-1).mean()))
    with torch.no_grad():
        dense_NF = sae.encode(acts_BLD.flatten(0, 1)).dense(96)
    often = (dense_NF > 0).double().mean(dim=0)
    nearest: Any = (often - 0.2).abs().argsort()[:2]
    latents: list[int] = nearest.tolist()
    features = tuple(
        SteeredFeature(index=latent, strength=8.0, max_activation=2.0) for latent in latents
    )
    return sae, Intervention.of_features(site=site, features=features, tier=tier)
