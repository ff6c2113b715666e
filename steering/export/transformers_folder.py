"""The format `transformers`: an ordinary model folder with the vector in a bias.

The last linear layer of a block's MLP writes to the residual stream what the block gives, so that
its bias is added at every position, as the tier `constant` adds its vector. It needs a bias there
that transformers itself loads.
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import Linear, Parameter
from transformers import PreTrainedModel

from ...sae.common.errors import InputError
from ...sae.language_model.loading import load, load_folder, save_folder
from ...sae.language_model.locating import locate
from ...sae.language_model.model import LanguageModel
from ..interventions.steering import steer
from .formats import ConstantSteering


class LastLayer(NamedTuple):
    """Where a family's blocks end."""

    name: str
    """The last linear layer of the MLP of a block, {} for its number."""
    setting: str = ""
    """Of the configuration, what gives all layers of the MLP a bias, where they need not have
    one."""


LAST_LAYERS = {
    "bloom": LastLayer("transformer.h.{}.mlp.dense_4h_to_h"),
    "gpt2": LastLayer("transformer.h.{}.mlp.c_proj"),
    "gpt_neo": LastLayer("transformer.h.{}.mlp.c_proj"),
    "gpt_neox": LastLayer("gpt_neox.layers.{}.mlp.dense_4h_to_h"),
    "gptj": LastLayer("transformer.h.{}.mlp.fc_out"),
    "llama": LastLayer("model.layers.{}.mlp.down_proj", "mlp_bias"),
    "opt": LastLayer("model.decoder.layers.{}.fc2"),
    "phi": LastLayer("model.layers.{}.mlp.fc2"),
    "starcoder2": LastLayer("model.layers.{}.mlp.c_proj"),
}
"""By the model type that config.json names."""

_TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4}
_COARSE = 0.1
"""Of bfloat16 and float16, which round the vector's sum with other parts of the residual stream."""


def write(steering: ConstantSteering, folder: Path, out: Path) -> list[str]:
    """Write the model and its tokenizer, and compare its logits with those of the steered model."""
    _last_layer(steering)  # refuses other architectures before anything is loaded
    path = locate(steering.model.source, lambda sentence: None)
    model, tokenizer = load(path, steering.model.dtype)
    add_to_bias(model, steering)
    save_folder(model, tokenizer, folder)
    del model
    difference = _difference(steering, folder)
    return [
        f"load it with AutoModelForCausalLM.from_pretrained({str(out)!r}); on random tokens its "
        f"logits differ from those of the steered model by a fraction of {difference:.1e}"
    ]


@torch.no_grad()
def add_to_bias(model: PreTrainedModel, steering: ConstantSteering) -> None:
    """Add the vector to the bias with which the steered block ends; the model has one afterwards.

    Raises:
        InputError: the architecture has no bias there and no setting that gives it one.
    """
    config: Any = model.config
    last = _last_layer(steering)
    if last.setting and not getattr(config, last.setting):
        _give_biases(model, last)
    layer: Any = model.get_submodule(last.name.format(steering.layer))
    if layer.bias is None:
        raise _no_bias(steering)
    layer.bias += steering.vector_D.to(layer.bias)


def _last_layer(steering: ConstantSteering) -> LastLayer:
    if steering.config.model_type not in LAST_LAYERS:
        raise _no_bias(steering)
    return LAST_LAYERS[steering.config.model_type]


def _no_bias(steering: ConstantSteering) -> InputError:
    return InputError(
        f"{steering.model.name} is of the architecture {steering.config.model_type}, whose blocks "
        "end without a bias that could hold the vector; choose another --format, or a model of "
        f"{', '.join(LAST_LAYERS)}"
    )


def _give_biases(model: PreTrainedModel, last: LastLayer) -> None:
    """Turn the setting on: every linear layer of every MLP gets a bias of zeros."""
    config: Any = model.config
    setattr(config, last.setting, True)
    for number in range(config.num_hidden_layers):
        mlp = model.get_submodule(last.name.format(number).rpartition(".")[0])
        for layer in mlp.modules():
            if isinstance(layer, Linear):
                layer.bias = Parameter(layer.weight.new_zeros(layer.out_features))


@torch.no_grad()
def _difference(steering: ConstantSteering, folder: Path) -> float:
    """How far the folder's logits are from the steered model's, in root mean square of the
    difference over that of the logits.

    Raises:
        InputError: it is more than rounding makes of it.
    """
    model = steering.model
    draw = torch.Generator().manual_seed(0)
    length = min(32, model.max_context)
    tokens_BL = torch.randint(model.n_embedded, (2, length), generator=draw)
    with steer(model, steering.sae, steering.intervention):
        expected_BLV = model.logits(tokens_BL).float().cpu()
    found_BLV = _logits(folder, tokens_BL, model)
    error, size = (found_BLV - expected_BLV).square().mean(), expected_BLV.square().mean()
    difference = float((error / size).sqrt())
    if not difference <= _TOLERANCE.get(model.dtype, _COARSE):
        raise InputError(
            f"{model.name} with the vector in its bias gives other logits than steered (by "
            f"a fraction of {difference:.1e}), for its blocks do not end with that bias; choose "
            "another --format"
        )
    return difference


def _logits(
    folder: Path, tokens_BL: Int[Tensor, "B L"], like: LanguageModel
) -> Float[Tensor, "B L V"]:
    """The logits of the model in the folder, on the device and in the dtype of another."""
    loaded: Any = load_folder(folder, like.dtype)[0]
    return loaded.to(like.device)(tokens_BL.to(like.device)).logits.float().cpu()
