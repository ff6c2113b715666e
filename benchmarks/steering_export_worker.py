"""What another tool makes of an export of steering; it runs in that tool's environment.

    python steering_export_worker.py READER FORMAT FOLDER

FOLDER has the model, the exports and reference.npz: tokens, and the log-probabilities that the
model gives them with and without steering. Prints one JSON object: what was compared, the largest
difference, and the change that steering makes.
"""

import ctypes
import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def compared_logits(folder: Path, found: Any) -> dict[str, Any]:
    """How far logits are from the reference, as log-probabilities."""
    reference = np.load(folder / "reference.npz")
    wide = np.asarray(found, dtype=np.float64)
    shifted = wide - wide.max(-1, keepdims=True)
    found = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    n_texts, n_tokens = reference["tokens"].shape
    return {
        "compared": f"all log-probabilities of {n_texts} texts of {n_tokens} tokens",
        "difference": float(np.abs(found - reference["steered"]).max()),
        "effect": float(np.abs(found - reference["base"]).max()),
    }


def compared_vector(folder: Path, layer: int, vector: Any) -> dict[str, Any]:
    """How far a vector is from the one of lm-eval's file, which another row runs."""
    torch = importlib.import_module("torch")
    ((name, entry),) = torch.load(folder / "lm-eval" / "steering.pt", weights_only=True).items()
    if name != f"layers.{layer}":
        raise SystemExit(f"the file is read for block {layer}, not for {name}")
    difference = np.abs(np.asarray(vector) - entry["steering_vector"].numpy()).max()
    return {"compared": f"the vector and its block ({layer})", "difference": float(difference)}


def repeng(folder: Path, file: Path) -> dict[str, Any]:
    """repeng's own reader, and a model that it steers."""
    torch, repeng = map(importlib.import_module, ("torch", "repeng"))
    vector = repeng.ControlVector.import_gguf(file)
    models = importlib.import_module("transformers").AutoModelForCausalLM
    plain = models.from_pretrained(folder / "model", dtype=torch.float32).eval()
    model = repeng.ControlModel(plain, list(vector.directions))
    model.set_control(vector)
    tokens_BL = torch.tensor(np.load(folder / "reference.npz")["tokens"])
    with torch.no_grad():  # its mask of padding takes the positions of one text alone
        logits = torch.cat([model(row[None]).logits for row in tokens_BL])
    return compared_logits(folder, logits)


def hotwire(folder: Path, file: Path) -> dict[str, Any]:
    """hotwire's store of vectors, and the row that a request gets."""
    torch = importlib.import_module("torch")
    config = json.loads((folder / "model" / "config.json").read_text())
    state = importlib.import_module("hotwire._state").SteerState(
        config["num_hidden_layers"],
        config["hidden_size"],
        max_tokens=8,
        device=torch.device("cpu"),
        dtype=torch.float32,
        n_slots=2,
    )
    state.load_store(str(file.parent))
    record = json.loads((file.parent / "steering.json").read_text())
    slot = state.slot_for("steering", record["after_block"], 1.0)
    return compared_vector(folder, record["after_block"], state.bank.bank[slot])


def easysteer(folder: Path, file: Path) -> dict[str, Any]:
    """EasySteer's own reader, from a copy of its repository, whose package would need vLLM."""
    path = Path(os.environ["EASYSTEER"]) / "easysteer" / "steer" / "utils.py"
    spec = importlib.util.spec_from_file_location("easysteer_utils", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    vector = module.StatisticalControlVector.import_gguf(file)
    ((layer, direction),) = vector.directions.items()
    return compared_vector(folder, layer, direction)


def transformers(folder: Path, file: Path) -> dict[str, Any]:
    """The model folder as anybody loads it."""
    torch, library = map(importlib.import_module, ("torch", "transformers"))
    model = library.AutoModelForCausalLM.from_pretrained(file).eval()
    with torch.no_grad():
        logits = model(torch.tensor(np.load(folder / "reference.npz")["tokens"])).logits
    return compared_logits(folder, logits)


def llama_cpp(folder: Path, file: Path) -> dict[str, Any]:
    """llama.cpp with the model in a GGUF file, and the control vector as it reads and sets it.

    xllamacpp has the library, with llama.cpp's own reader of control vectors in it, and
    llama-cpp-py-sync the declarations of a build before; its own library needs a newer libc.
    """
    write_llama(folder / "model", folder / "model.gguf")
    ffi = importlib.import_module("llama_cpp_py_sync._cffi_bindings").get_ffi()
    package = Path(str(importlib.import_module("xllamacpp").__file__)).parent
    path = str(next(package.glob("*.so")))
    lib = ffi.dlopen(path)
    lib.llama_backend_init()
    model = lib.llama_model_load_from_file(
        str(folder / "model.gguf").encode(), lib.llama_model_default_params()
    )
    settings = lib.llama_context_default_params()
    settings.n_ctx, settings.n_batch, settings.n_threads = 256, 256, 1
    settings.type_k = settings.type_v = settings.flash_attn_type = 0  # float32, none
    context = lib.llama_init_from_model(model, settings)
    width = lib.llama_model_n_embd(model)
    n_vocab = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
    buffer = read_control_vector(path, file)
    if len(buffer) % width or lib.llama_set_adapter_cvec(
        context,
        ffi.cast("float *", ffi.from_buffer(buffer)),
        len(buffer),
        width,
        1,
        lib.llama_model_n_layer(model),
    ):
        raise SystemExit("llama.cpp refused the control vector")
    found: list[Any] = []
    for row in np.load(folder / "reference.npz")["tokens"]:
        lib.llama_memory_clear(lib.llama_get_memory(context), True)
        batch = lib.llama_batch_init(len(row), 0, 1)
        batch.n_tokens = len(row)
        for at, token in enumerate(row):
            batch.token[at], batch.pos[at], batch.logits[at] = int(token), at, 1
            batch.n_seq_id[at] = 1
            batch.seq_id[at][0] = 0
        if lib.llama_decode(context, batch):
            raise SystemExit("llama.cpp failed to run the model")
        logits = ffi.buffer(lib.llama_get_logits(context), 4 * len(row) * n_vocab)
        found.append(np.frombuffer(logits, np.float32).reshape(len(row), n_vocab).copy())
    return compared_logits(folder, np.stack(found))


def read_control_vector(library: str, file: Path) -> Any:
    """What `common_control_vector_load` of llama.cpp, a function of C++, makes of a file: the
    vectors of blocks 1, 2, ... behind each other."""

    class Source(ctypes.Structure):  # in this wheel a std::string is a pointer to its characters
        _fields_ = (("strength", ctypes.c_float), ("file", ctypes.c_char_p))

    class Vector(ctypes.Structure):  # std::vector of libstdc++
        _fields_ = tuple((name, ctypes.c_void_p) for name in ("begin", "end", "room"))

    class Loaded(ctypes.Structure):
        _fields_ = (("width", ctypes.c_int), ("values", Vector))

    source = Source(1.0, str(file).encode())
    start = ctypes.addressof(source)
    sources = Vector(start, start + ctypes.sizeof(source), start + ctypes.sizeof(source))
    symbol = "_Z26common_control_vector_loadRKSt6vectorI31common_control_vector_load_infoSaIS0_EE"
    loaded = Loaded()
    load = ctypes.CDLL(library)[symbol]
    load.restype = None
    load(ctypes.byref(loaded), ctypes.byref(sources))
    if loaded.width < 1:
        raise SystemExit("llama.cpp did not read the control vector")
    size = (loaded.values.end - loaded.values.begin) // 4
    return np.ctypeslib.as_array((ctypes.c_float * size).from_address(loaded.values.begin)).copy()


def write_llama(model: Path, out: Path) -> None:
    """A Llama of transformers as a float32 GGUF file without a tokenizer.

    Rows of queries and keys are in the order of llama.cpp's rotary embedding, pairs beside each
    other, as its own converter orders them.
    """
    gguf, arrays = map(importlib.import_module, ("gguf", "safetensors.numpy"))
    config = json.loads((model / "config.json").read_text())
    heads = {"q": config["num_attention_heads"], "k": config["num_key_value_heads"]}
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads["q"])
    writer.add_head_count_kv(heads["k"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["hidden_size"] // heads["q"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    parts = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        **{f"self_attn.{each}_proj": f"attn_{each}" for each in "qkv"},
        "self_attn.o_proj": "attn_output",
        **{f"mlp.{each}_proj": f"ffn_{each}" for each in ("gate", "up", "down")},
    }
    for layer in range(config["num_hidden_layers"]):
        for theirs, ours in parts.items():
            names[f"model.layers.{layer}.{theirs}"] = f"blk.{layer}.{ours}"
    for name, weight in arrays.load_file(model / "model.safetensors").items():
        module = name.removesuffix(".weight")
        for each, n_heads in heads.items():
            if module.endswith(f"self_attn.{each}_proj"):
                rows = weight.reshape(n_heads, 2, -1, weight.shape[1])
                weight = np.ascontiguousarray(rows.swapaxes(1, 2).reshape(weight.shape))
        writer.add_tensor(f"{names[module]}.weight", weight.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


READERS: dict[str, tuple[Callable[[Path, Path], dict[str, Any]], str]] = {
    "repeng": (repeng, "steering.gguf"),
    "llama_cpp": (llama_cpp, "steering.gguf"),
    "easysteer": (easysteer, "steering.gguf"),
    "hotwire": (hotwire, "steering.pt"),
    "transformers": (transformers, "."),
}


def main() -> None:
    name, format, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    read, file = READERS[name]
    print(json.dumps(read(folder, folder / format / file)))


if __name__ == "__main__":
    main()
