"""In which dtype the language model runs for a cache whose configuration does not say it."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch

from ....kernels.processor import bfloat16_is_faster
from ....sae.common.devices import resolve_device
from ....sae.language_model.model import LanguageModel
from ...distributed.collectives import Distributed
from .config import CacheConfig
from .manifest import FILE, CacheManifest, read_manifest


def with_model_dtype(
    config: CacheConfig,
    model: LanguageModel | None,
    dist: Distributed,
    say: Callable[[str], None],
) -> CacheConfig:
    """The configuration with a dtype of the model: the given one, else that of the cache which its
    folder holds, or of the model that is loaded already, or the fastest that is good enough, which
    is said. All processes follow the first.

    Raises InputError where the folder's manifest is broken, or the device is unknown.
    """

    def choose() -> str:
        folder = Path(config.out)
        if (folder / FILE).exists():
            return read_manifest(folder).config.get("model_dtype", CacheManifest.model_dtype)
        if model is not None:
            return model.dtype_name
        device = resolve_device(dist.device(config.device))
        native = multiplies_bfloat16(device)
        what = "GPU" if device.type == "cuda" else "processor"
        does = "multiplies natively" if native else "does not multiply natively"
        dtype, why = ("bfloat16", "which") if native else ("float32", "for bfloat16 is what")
        say(f"{config.model} runs in {dtype}, {why} this {what} {does}; --model-dtype chooses")
        return dtype

    if config.model_dtype is not None:
        return config
    return dataclasses.replace(config, model_dtype=dist.run_on_main(choose))


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether products in bfloat16 are the device's own, and so faster than in float32."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and bfloat16_is_faster()
