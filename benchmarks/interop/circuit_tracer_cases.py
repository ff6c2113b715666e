"""Transcoders of circuit-tracer, saved and loaded by it; runs in its environment.

A folder is a set, one file a layer; the case is one of its files.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from exchange import Case, Coder, Sizes, Weights, run

_layer: Any = importlib.import_module("circuit_tracer.transcoder.single_layer_transcoder")
_activations: Any = importlib.import_module("circuit_tracer.transcoder.activation_functions")
_CPU = torch.device("cpu")
_CONFIG = """\
model_name: "google/gemma-2-2b"
model_kind: "transcoder_set"
feature_input_hook: "ln2.hook_normalized"
feature_output_hook: "hook_mlp_out"
scan: "some/set"
"""


def _loaded(path: Path) -> Coder:
    transcoder = _layer.load_relu_transcoder(
        str(path), 1, device=_CPU, lazy_encoder=False, lazy_decoder=False
    )
    return Coder(transcoder.encode, transcoder)


def _saved(
    *, jump: bool = False, skip: bool = False, dtype: torch.dtype = torch.float32
) -> Callable[[Sizes, Path], Coder]:
    """Two layers, each saved by `to_safetensors`, and the set's configuration."""

    def write(sizes: Sizes, path: Path) -> Coder:
        for layer in range(2):
            weights = Weights(sizes, f"circuit-tracer {jump} {skip} {layer}")
            function = torch.nn.functional.relu
            transcoder = _layer.SingleLayerTranscoder(
                *(sizes.width, sizes.latents),
                _activations.JumpReLU(torch.zeros(sizes.latents)) if jump else function,
                layer,
                skip_connection=skip,
                device=_CPU,
                dtype=torch.float32,
            )
            state = weights.take("W_dec", "b_enc", "b_dec", *(["W_skip"] if skip else []))
            state["W_enc"] = weights["W_enc"].T.contiguous()
            if jump:
                state["activation_function.threshold"] = weights["threshold"]
            transcoder.load_state_dict(state)
            transcoder.to(dtype).to_safetensors(str(path / f"layer_{layer}.safetensors"))
        (path / "config.yaml").write_text(_CONFIG, encoding="utf-8")
        return _loaded(path / "layer_1.safetensors")

    return write


CASES = [
    Case("relu", "ReLU, norms not one", _saved(), "layer_1.safetensors"),
    Case("skip", "W_skip", _saved(skip=True), "layer_1.safetensors"),
    Case("jumprelu", "thresholds", _saved(jump=True), "layer_1.safetensors"),
    Case(
        "jumprelu-skip",
        "thresholds and W_skip",
        _saved(jump=True, skip=True),
        "layer_1.safetensors",
    ),
    Case(
        "relu-bfloat16",
        "weights in bfloat16",
        _saved(dtype=torch.bfloat16),
        "layer_1.safetensors",
    ),
]

if __name__ == "__main__":
    run({"circuit-tracer": CASES}, _loaded)
