"""The format `lm-eval`: the steering file of lm-evaluation-harness' model type `steered`.

Read from `lm_eval/models/hf_steered.py` of lm-eval 0.4.13: a `.pt` file with a dictionary by module
names below the model's `base_model`. The vector times the coefficient is added to the module's
output at every position, in the dtype of the model.
"""

from pathlib import Path
from typing import Any

import torch
from torch.nn import ModuleList
from transformers import AutoModelForCausalLM

from ...sae.common.errors import InputError
from .formats import ConstantSteering

FILE = "steering.pt"

_models: Any = AutoModelForCausalLM  # leaves the types of its arguments open


def write(steering: ConstantSteering, folder: Path, out: Path) -> list[str]:
    """Write `steering.pt`: tensors, strings and numbers alone, so `weights_only=True` reads it."""
    entry = {
        "steering_vector": steering.vector_D,
        "steering_coefficient": 1.0,
        "action": "add",
        "bias": None,
        "head_index": None,
    }
    torch.save({block_name(steering): entry}, folder / FILE)
    arguments = f"pretrained=MODEL,steer_path={out / FILE}"
    return [f"run it there with lm_eval --model steered --model_args {arguments} --tasks TASK"]


def block_name(steering: ConstantSteering) -> str:
    """The name of the steered block below `base_model`, such as `layers.15` or `h.15`.

    Raises:
        InputError: no list of modules has one for each block.
    """
    with torch.device("meta"):  # names without weights
        model = _models.from_config(steering.config)
    for name, module in model.base_model.named_modules():
        if isinstance(module, ModuleList) and len(module) == steering.model.n_layers:
            return f"{name}.{steering.layer}"
    raise InputError(
        f"the blocks of {steering.model.name} are no list of modules, by which lm-eval would find "
        "one; choose another --format"
    )
