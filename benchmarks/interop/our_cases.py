"""Autoencoders and transcoders of sparsteer that are exported to other libraries."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from sparsteer.sae import (
    BatchTopKConfig,
    JumpReLUConfig,
    Origin,
    SparseAutoencoder,
    TopAFAConfig,
    TopKConfig,
)
from sparsteer.sae.activations.jumprelu import set_thresholds
from sparsteer.sae.config import GatedConfig, GroupMaxConfig, ReLUConfig, SAEConfig
from sparsteer.sae.interop.layouts import ExportDtype

from .exchange import Sizes, Weights

_ORIGIN = Origin(model="openai-community/gpt2", site="blocks.3.hook_resid_post")
_PREDICTS = Origin(
    model="openai-community/gpt2",
    site="blocks.3.hook_resid_mid",
    target_site="blocks.3.hook_mlp_out",
)


@dataclass(frozen=True)
class Ours:
    """One autoencoder of sparsteer."""

    name: str
    about: str
    config: type[SAEConfig]
    layouts: tuple[str, ...]
    """That hold it; the others refuse it."""
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    dtype: ExportDtype = "float32"
    """That it is exported in."""
    bias: float = 0.0
    """Added to every pre-activation."""
    trained_here: bool = True
    """Whether rows are scaled and centered, and decoder rows have norm 1."""

    def build(self, sizes: Sizes) -> SparseAutoencoder:
        """The autoencoder with random weights."""
        settings = dict(self.settings)
        if self.config in (TopKConfig, BatchTopKConfig, GroupMaxConfig):
            settings["k"] = sizes.k
        if settings.pop("nested", False):
            settings["prefixes"] = (sizes.latents // 4, sizes.latents // 2)
        config = self.config(d_model=sizes.width, n_latents=sizes.latents, **settings)
        weights = Weights(sizes, self.name, self.bias)
        sae = SparseAutoencoder(config, origin=_PREDICTS if config.transcoder else _ORIGIN)
        own = weights.take("b_enc", "b_dec", "W_dec", *(["W_skip"] if config.skip else []))
        own["W_enc"] = weights["W_enc"].T
        if self.trained_here:
            own["W_dec"] = torch.nn.functional.normalize(weights["W_dec"], dim=-1)
            own["input_scale"] = torch.tensor(0.37)
            own["input_center"] = 0.7 * weights["b_dec"].flip(0)
            if config.transcoder:
                own["output_scale"] = torch.tensor(2.3)
                own["output_center"] = 0.4 * weights["b_dec"].roll(1)
        if isinstance(config, GatedConfig):
            own["magnitude_bias"], own["magnitude_exponent"] = weights["b_mag"], weights["r_mag"]
        sae.load_state_dict(sae.state_dict() | own)
        if isinstance(config, BatchTopKConfig):
            sae.get_buffer("threshold").fill_(0.83)
        if isinstance(config, JumpReLUConfig):
            set_thresholds(sae, weights["threshold"])
        return sae


_TWO = ("saelens", "dictionary_learning")
_THREE = (*_TWO, "sparsify")
OURS = [
    Ours("topk", "scale and center folded", TopKConfig, _THREE),
    Ours(
        "topk-few-positive",
        "rows with fewer than k positive pre-activations",
        TopKConfig,
        _THREE,
        bias=-2.5,
    ),
    Ours(
        "topk-bfloat16",
        "exported with --dtype bfloat16",
        TopKConfig,
        _THREE,
        dtype="bfloat16",
    ),
    Ours("topk-nested", "Matryoshka", TopKConfig, _THREE, {"nested": True}),
    Ours("group-max", "the largest latent of each of k groups", GroupMaxConfig, ("sparsify",)),
    Ours("batch-topk", "one threshold", BatchTopKConfig, _TWO),
    Ours("batch-topk-nested", "Matryoshka", BatchTopKConfig, _TWO, {"nested": True}),
    Ours("jumprelu", "thresholds divided by the scale", JumpReLUConfig, _TWO),
    Ours("jumprelu-float16", "--dtype float16", JumpReLUConfig, _TWO, dtype="float16"),
    Ours("gated", "both biases divided by the scale", GatedConfig, _TWO),
    Ours(
        "relu-raw-input-scaled",
        "b_dec not subtracted, scale and center folded",
        ReLUConfig,
        _TWO,
        {"apply_b_dec_to_input": False},
    ),
    Ours("top-afa", "nobody else has it", TopAFAConfig, ()),
    Ours(
        "relu-raw-input",
        "b_dec not subtracted, norms not one",
        ReLUConfig,
        _TWO,
        {"apply_b_dec_to_input": False},
        trained_here=False,
    ),
    Ours(
        "topk-raw-input",
        "b_dec not subtracted: b_enc makes up for it where a library always subtracts",
        TopKConfig,
        _THREE,
        {"apply_b_dec_to_input": False},
        trained_here=False,
    ),
    Ours(
        "gated-raw-input",
        "the same for both biases",
        GatedConfig,
        _TWO,
        {"apply_b_dec_to_input": False},
        trained_here=False,
    ),
    Ours(
        "topk-layer-norm",
        "layer-normed rows",
        TopKConfig,
        ("saelens",),
        {"normalize_activations": "layer_norm"},
        trained_here=False,
    ),
    Ours(
        "topk-transcoder",
        "scales and centers of both sides folded",
        TopKConfig,
        ("sparsify", "dictionary_learning"),
        {"transcoder": True},
    ),
    Ours(
        "batch-topk-transcoder",
        "one threshold",
        BatchTopKConfig,
        (*_TWO, "circuit-tracer"),
        {"transcoder": True},
    ),
    Ours(
        "jumprelu-transcoder",
        "thresholds divided by the output's scale",
        JumpReLUConfig,
        (*_TWO, "circuit-tracer"),
        {"transcoder": True},
    ),
    Ours(
        "relu-transcoder",
        "ReLU",
        ReLUConfig,
        (*_TWO, "circuit-tracer"),
        {"transcoder": True},
    ),
    Ours(
        "jumprelu-skip-transcoder",
        "W_skip for raw activations",
        JumpReLUConfig,
        ("saelens", "circuit-tracer"),
        {"transcoder": True, "skip": True},
    ),
    Ours(
        "topk-skip-transcoder",
        "W_skip for raw activations",
        TopKConfig,
        ("sparsify",),
        {"transcoder": True, "skip": True},
    ),
]
