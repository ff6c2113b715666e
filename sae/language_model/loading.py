"""Load the transformers model and tokenizer of a folder or a GGUF file; quiet, never a pickle."""

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformer_lens.model_bridge.sources import transformers as bridge_sources
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..common.errors import InputError
from ..common.text import first_line
from ..device_map import DeviceMap
from .bridge_layers import repair_layers
from .bridge_network import BridgeNetwork
from .checks import plain_logits, require_sound
from .model_sizes import require_sizes

# These entry points leave the types of their arguments open.
_models: Any = AutoModelForCausalLM
_tokenizers: Any = AutoTokenizer
_bridges: Any = bridge_sources

Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]
"""A model in evaluation mode on the CPU, and its tokenizer."""


def load_plain(path: Path, device: torch.device, dtype: torch.dtype | None) -> Loaded:
    """The model at a path from `locate` on a device, its weights frozen, and its tokenizer.

    Without a dtype the weights keep the one that they are stored in. Attention is the kind that
    transformers takes of itself, which is the fastest that the model has.

    Raises InputError as `load` does.
    """
    model, tokenizer = load(path, dtype)
    moved: Any = model.requires_grad_(False)
    moved.to(device)
    with _explained(path), _quiet():
        moved.set_attn_implementation(moved.get_correct_attn_implementation(None))
    return model, tokenizer


def bridged(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, path: str
) -> BridgeNetwork:
    """The model in the bridge, with the same weights and eager attention.

    The bridge puts its own layers into the model, and makes its tokenizer prepend BOS, so it is
    given copies. The model's copy has the very tensors of the model, and none of its hooks.

    Args:
        model: on its device, its weights frozen.
        tokenizer: the model's.
        path: what to call the model in an error; the bridge reads nothing from it.

    Raises:
        InputError: the bridge does not know the model or gets it wrong.
    """
    own: Any = _with_same_weights(model)
    device = own.device
    with _explained(path), _quiet():
        own.set_attn_implementation("eager")
    with _quiet():
        plain_V = plain_logits(own, path=path, device=device)
    with _explained(path), _quiet():
        bridge = _bridges.boot(
            path,
            hf_model=own,
            tokenizer=copy.deepcopy(tokenizer),
            device=device,
            dtype=own.dtype,
        )
    repair_layers(bridge)
    network = BridgeNetwork(bridge)
    with _quiet():
        require_sound(network, plain_V, path=path)
    return network


def _with_same_weights(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of the modules without their hooks, whose weights and buffers share the memory of the
    model's. Where one is replaced, by another or in another dtype, the other model keeps its own.
    """
    own: dict[int, Any] = {
        id(weight): nn.Parameter(weight.detach(), requires_grad=False)
        for weight in model.parameters()
    }
    own |= {id(buffer): buffer.detach() for buffer in model.buffers()}
    modules: Any = model.modules()
    for module in modules:
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            own[id(hooks)] = type(hooks)()
    return copy.deepcopy(model, own)


def load(path: Path, dtype: torch.dtype | None) -> Loaded:
    """The causal language model and the tokenizer at a path from `locate`, on the CPU.

    Raises InputError where the files are damaged, incomplete or of no causal language model.
    """
    return load_gguf(path, dtype) if path.is_file() else load_folder(path, dtype)


def load_folder(
    folder: Path, dtype: torch.dtype | None, *, device_map: DeviceMap | None = None
) -> Loaded:
    """Load a Hugging Face folder; every weight of the model must be in its safetensors files.

    With a device map the model is placed by it, which takes accelerate; else it is on the CPU.
    """
    tokenizer = load_tokenizer(folder)
    with _explained(folder), _quiet():
        require_sizes(folder)
        model = _load_model(folder, dtype, use_safetensors=True, device_map=device_map)
    return model, tokenizer


def load_gguf(file: Path, dtype: torch.dtype | None) -> Loaded:
    """Load a GGUF file, its weights de-quantized, as an ordinary model that can be saved."""
    tokenizer = load_tokenizer(file)
    with _explained(file), _quiet():
        model = _load_model(file.parent, dtype, gguf_file=file.name)
    # The loader marks the model as quantized, though its weights no longer are, and names no
    # architecture, by which the bridge chooses its adapter.
    vars(model.config).pop("quantization_config", None)
    for name in ("hf_quantizer", "is_quantized", "quantization_method"):
        vars(model).pop(name, None)
    model.config.architectures = [type(model).__name__]
    return model, tokenizer


def hidden_size(path: Path) -> int | None:
    """The width of the residual stream of the model at a path from `locate`, by its configuration
    alone; None where that does not say it, as of a .gguf file.

    Raises InputError where the configuration is damaged.
    """
    if path.is_file():
        return None
    with _explained(path), _quiet():
        auto: Any = transformers.AutoConfig  # untyped
        config = auto.from_pretrained(path, local_files_only=True).get_text_config()
    size: object = getattr(config, "hidden_size", None)
    return size if isinstance(size, int) else None


def load_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """The tokenizer at a path from `locate`, without the model.

    Raises InputError where its files are damaged or missing.
    """
    folder, options = path, dict[str, str]()
    if path.is_file():
        folder, options = path.parent, {"gguf_file": path.name}
    with _explained(path), _quiet():
        return _tokenizers.from_pretrained(folder, local_files_only=True, **options)


def save_folder(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write an ordinary Hugging Face folder with safetensors weights."""
    with _quiet():
        # transformers leaves the types of its keyword arguments open.
        model.save_pretrained(folder)  # pyright: ignore[reportUnknownMemberType]
        tokenizer.save_pretrained(folder)  # pyright: ignore[reportUnknownMemberType]


def _load_model(folder: Path, dtype: torch.dtype | None, **options: Any) -> PreTrainedModel:
    # The bridge's attention is eager, whatever the model's; so is then the model it is compared to.
    model, report = _models.from_pretrained(
        folder,
        dtype=dtype or "auto",
        attn_implementation="eager",
        local_files_only=True,
        output_loading_info=True,
        **options,
    )
    if missing := sorted(report["missing_keys"]):
        # transformers would go on with random values in their place.
        raise ValueError(f"the weights lack {', '.join(missing[:3])}")
    return model.eval()


@contextlib.contextmanager
def _explained(path: Path | str) -> Generator[None]:
    """Turn what the loaders raise for wrong files, which may be anything, into one sentence."""
    try:
        yield
    except (MemoryError, InputError):
        raise
    except Exception as error:
        raise InputError(
            f"{str(path)!r} could not be loaded as a causal language model "
            f"({first_line(error)}); check that it is one and that its files are whole"
        ) from error


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """No warnings, progress bars or prints of the loading libraries; errors are raised as ever."""
    log = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    handlers = logging.root.handlers[:]
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        # The GGUF loader draws its bar without asking the library's setting.
        silence = io.StringIO()
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(silence),
            contextlib.redirect_stderr(silence),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        # A library's first warning gives the root logger a handler, which would write to the
        # silence for ever.
        logging.root.handlers[:] = handlers
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()
