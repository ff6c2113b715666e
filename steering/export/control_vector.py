"""The formats `gguf` and `easysteer`: a control vector in a GGUF file.

The file is that of repeng 0.4.0 (`repeng/extract.py`) and llama.cpp (`common_control_vector_load`):
architecture `controlvector`, the fields `controlvector.model_hint` and `controlvector.layer_count`,
and a float32 tensor `direction.N` for each steered block. Each of the readers adds it to the output
of block N, counted from 0: llama.cpp keeps direction.N at N - 1 of its buffer and takes it from
there for block N; repeng wraps `layers[N]`; EasySteer hooks the block of that number. llama.cpp
refuses `direction.0`, so that the first block cannot be steered there. EasySteer's own export has
one field more, `controlvector.method` (`easysteer/steer/utils.py`, August 2026).
"""

import json
from pathlib import Path

import gguf

from ...sae.common.errors import InputError
from .formats import ConstantSteering

FILE = "steering.gguf"
ARCHITECTURE = "controlvector"


class LlamaCpp:
    """The control vector of llama.cpp and repeng."""

    def write(self, steering: ConstantSteering, folder: Path, out: Path) -> list[str]:
        """Write `steering.gguf`."""
        if steering.layer == 0:
            raise InputError(
                f"site is {steering.intervention.site}, the output of the first block, where "
                "llama.cpp has no control vector; choose a later block or another --format",
                field="site",
            )
        write_control_vector(steering, folder / FILE)
        return [
            f"run it with llama-cli -m MODEL.gguf --control-vector {out / FILE}, or in repeng with "
            f"ControlVector.import_gguf({str(out / FILE)!r})"
        ]


class EasySteer:
    """The vector file of EasySteer, for its algorithm `direct`."""

    def write(self, steering: ConstantSteering, folder: Path, out: Path) -> list[str]:
        """Write `steering.gguf`, with the method by which the vector was found."""
        write_control_vector(steering, folder / FILE, method="sae")
        vector = {
            "source": str((out / FILE).resolve()),
            "scale": 1.0,
            "layers": [steering.layer],
            "apply": {"prompt": "all", "generation": "all"},
        }
        return [
            "steer a request to vllm serve MODEL --enable-steer-vector with the field "
            f'"steering": {json.dumps({"vectors": [vector]})}'
        ]


def write_control_vector(steering: ConstantSteering, path: Path, method: str = "") -> None:
    """Write the GGUF file; `method` is EasySteer's name of how the vector was found."""
    writer = gguf.GGUFWriter(path, ARCHITECTURE)
    writer.add_string(f"{ARCHITECTURE}.model_hint", steering.config.model_type)
    if method:
        writer.add_string(f"{ARCHITECTURE}.method", method)
    writer.add_uint32(f"{ARCHITECTURE}.layer_count", 1)
    writer.add_tensor(f"direction.{steering.layer}", steering.vector_D.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


llama_cpp, easysteer = LlamaCpp(), EasySteer()
