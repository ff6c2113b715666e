"""The format `hotwire`: a vector that the vLLM plugin hotwire-vllm loads.

Read from `hotwire/_state.py` and `hotwire/_patch.py` of hotwire-vllm 0.1.2: a `.pt` file, read with
`weights_only=True`, with a tensor [layers, D] of which a request names the row. The row is added to
the output of the decoder layer of that number, counted from 0. All other rows are zero, so that a
request that names another layer steers nothing.
"""

import json
from pathlib import Path

import torch

from .formats import ConstantSteering

FILE = "steering.pt"


def write(steering: ConstantSteering, folder: Path, out: Path) -> list[str]:
    """Write `steering.pt`; its name without the ending is what a request calls it."""
    vectors_LD = torch.zeros(steering.model.n_layers, steering.model.d_model)
    vectors_LD[steering.layer] = steering.vector_D
    torch.save(vectors_LD, folder / FILE)
    request = json.dumps({"id": Path(FILE).stem, "layer": steering.layer, "scale": 1.0})
    return [
        f"serve it with HOTWIRE_VECTORS={out} vllm serve MODEL",
        f'steer a request with the field "vllm_xargs": {json.dumps({"hotwire": request})}',
    ]
