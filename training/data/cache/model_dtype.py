"""In which dtype the language model runs, and how its rows are stored, where nothing says it."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from ....kernels.processor import bfloat16_is_faster
from ....sae.common.devices import resolve_device
from ....sae.config import ModelDtype
from ....sae.language_model.model import LanguageModel
from ...distributed.collectives import Distributed
from ..corpus_config import CacheDtype
from ..stream.config import StreamConfig
from .config import CacheConfig
from .manifest import FILE, CacheManifest, read_manifest

_Config = TypeVar("_Config", CacheConfig, StreamConfig)

_DTYPE: CacheDtype = "float16"
"""How rows were stored by default before that depended on the device, and still are on a CPU."""


def with_dtypes(
    config: CacheConfig,
    model: LanguageModel | None,
    dist: Distributed,
    say: Callable[[str], None],
) -> CacheConfig:
    """The configuration with a dtype of the model: the given one, else that of the cache which its
    folder holds; else that of the model that is loaded already, or the fastest that is good enough,
    which is said. All processes follow the first.

    So it is with the dtype of the rows where it is given or the folder holds a cache; else it stays
    open until the model is loaded, see `with_stored_dtype`.

    Raises InputError where the folder's manifest is broken, or the device is unknown.
    """

    def choose() -> tuple[Any, Any]:
        folder = Path(config.out)
        if (folder / FILE).exists():
            found = read_manifest(folder)
            return (
                config.model_dtype or found.config.get("model_dtype", CacheManifest.model_dtype),
                config.dtype or found.dtype,
            )
        if config.model_dtype is not None:
            return config.model_dtype, config.dtype
        if model is not None:
            return model.dtype_name, config.dtype
        return _fastest(config.model, resolve_device(dist.device(config.device)), say), config.dtype

    if config.model_dtype is not None and config.dtype is not None:
        return config
    model_dtype, dtype = dist.run_on_main(choose)
    return dataclasses.replace(config, model_dtype=model_dtype, dtype=dtype)


def with_stream_dtypes(
    config: StreamConfig, begun: Mapping[str, Any], device: torch.device
) -> StreamConfig:
    """The configuration of a stream with a dtype of the model: the given one, else that of the run
    that has begun; else bfloat16 on a GPU that multiplies it natively and float32 elsewhere.

    So it is with the dtype of the rows where it is given or a run has begun; else it stays open
    until the model is loaded, see `with_stored_dtype`.

    Args:
        begun: the stream's settings in the run that has begun; empty if there is none.
    """
    fast = not begun and device.type == "cuda" and multiplies_bfloat16(device)
    model_dtype: ModelDtype = "bfloat16" if fast else "float32"
    model_dtype = config.model_dtype or begun.get("model_dtype", model_dtype)
    # What an older version began, without saying so, is stored in its default.
    dtype = config.dtype or begun.get("dtype", _DTYPE if begun else None)
    return dataclasses.replace(config, model_dtype=model_dtype, dtype=dtype)


def with_stored_dtype(config: _Config, model: LanguageModel) -> _Config:
    """The configuration with a dtype of the rows: the given one, else `stored_dtype` of the model,
    in the dtype that it has, whatever was asked for, and where it is."""
    dtype = config.dtype or stored_dtype(model.dtype_name, model.device)
    return dataclasses.replace(config, dtype=dtype)


def stored_dtype(model_dtype: str, device: torch.device) -> CacheDtype:
    """bfloat16 where the model runs in it on a GPU: rows lose nothing and cannot overflow, and a
    step in bfloat16 takes them as they are. Else float16.

    Args:
        model_dtype: of the loaded model; never `auto`.
    """
    return "bfloat16" if model_dtype == "bfloat16" and device.type == "cuda" else _DTYPE


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether products in bfloat16 are the device's own, and so faster than in float32."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and bfloat16_is_faster()


def _fastest(model: str, device: torch.device, say: Callable[[str], None]) -> ModelDtype:
    native = multiplies_bfloat16(device)
    what = "GPU" if device.type == "cuda" else "processor"
    does = "multiplies natively" if native else "does not multiply natively"
    dtype, why = ("bfloat16", "which") if native else ("float32", "for bfloat16 is what")
    say(f"{model} runs in {dtype}, {why} this {what} {does}; --model-dtype chooses")
    return dtype
