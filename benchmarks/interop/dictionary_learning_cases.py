"""Dictionaries of dictionary_learning, saved and loaded by it; runs in its environment."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from exchange import Case, Coder, Sizes, Weights, rows_for, run
from torch import Tensor

_training: Any = importlib.import_module("dictionary_learning.training")
_utils: Any = importlib.import_module("dictionary_learning.utils")
_TRAINERS = {
    "StandardTrainer": "standard",
    "GatedSAETrainer": "gdm",
    "JumpReluTrainer": "jumprelu",
    "TopKTrainer": "top_k",
    "BatchTopKTrainer": "batch_top_k",
    "MatryoshkaBatchTopKTrainer": "matryoshka_batch_top_k",
}
_STEPS = 4


class _Rows:
    """What its `trainSAE` trains on: batches, and the settings of a buffer."""

    def __init__(self, sizes: Sizes, io: str) -> None:
        self.config = {"d_submodule": sizes.width, "io": io, "ctx_len": 128}
        self._rows = rows_for(sizes)

    def __iter__(self) -> Any:
        return iter([self._rows.clone() for _ in range(150)])  # its norm factor reads 100


def _coder(dictionary: Any) -> Coder:
    return Coder(dictionary.encode, lambda rows_ND: dictionary.decode(dictionary.encode(rows_ND)))


def _loaded(path: Path) -> Coder:
    return _coder(_utils.load_dictionary(str(path), "cpu")[0])


def _state(dictionary: Any, weights: Weights, threshold: float) -> dict[str, Tensor]:
    """The dictionary's tensors with random weights under its own names."""
    ours = {
        "encoder.weight": weights["W_enc"].T,
        "encoder.bias": weights["b_enc"],
        "decoder.weight": weights["W_dec"].T,
        "decoder.bias": weights["b_dec"],
        "bias": weights["b_dec"],
        "decoder_bias": weights["b_dec"],
        "gate_bias": weights["b_gate"],
        "mag_bias": weights["b_mag"],
        **weights,
    }
    state: dict[str, Tensor] = dictionary.state_dict()
    for name, tensor in state.items():
        if name == "threshold" and not tensor.shape:
            state[name] = torch.tensor(threshold)
        elif name not in ("k", "group_sizes"):
            state[name] = ours[name].contiguous()
    return state


def _trained(
    trainer: str,
    *,
    bias: float = 0.0,
    threshold: float = 0.83,
    io: str = "out",
    dtype: torch.dtype = torch.float32,
    as_trained: bool = False,
    normalize: bool = False,
    k: bool = False,
    new: bool = False,
    **settings: Any,
) -> Callable[[Sizes, Path], Coder]:
    """Saved by `trainSAE` after a few steps, then with random weights unless `as_trained`.

    `new` puts an AutoEncoderNew in the place of an AutoEncoder: the library has the class and loads
    it, but no trainer whose settings name it.
    """

    def write(sizes: Sizes, path: Path) -> Coder:
        module = importlib.import_module(f"dictionary_learning.trainers.{_TRAINERS[trainer]}")
        config = {
            "trainer": getattr(module, trainer),
            "activation_dim": sizes.width,
            "dict_size": sizes.latents,
            "steps": 10_000,
            "layer": 3,
            "lm_name": "EleutherAI/pythia-70m-deduped",
            "device": "cpu",
            "seed": 0,
            **({"k": sizes.k} if k else {}),
            **settings,
        }
        with torch.enable_grad():
            _training.trainSAE(
                data=_Rows(sizes, io),
                trainer_configs=[config],
                steps=_STEPS,
                save_dir=str(path),
                normalize_activations=normalize,
                device="cpu",
            )
        for file in (path / "trainer_0").iterdir():
            file.rename(path / file.name)
        (path / "trainer_0").rmdir()
        if new:
            file = path / "config.json"
            text = file.read_text(encoding="utf-8")
            file.write_text(text.replace('"AutoEncoder"', '"AutoEncoderNew"'), encoding="utf-8")
            dictionary = _utils.AutoEncoderNew(sizes.width, sizes.latents)
            torch.save(dictionary.state_dict(), path / "ae.pt")
        if not as_trained:
            dictionary, _ = _utils.load_dictionary(str(path), "cpu")
            state = _state(dictionary, Weights(sizes, f"{trainer} {settings}", bias), threshold)
            wide = {name: t.to(dtype) if t.is_floating_point() else t for name, t in state.items()}
            torch.save(wide, path / "ae.pt")
        return _loaded(path)

    return write


_GROUPS: Any = {"group_fractions": [0.25, 0.25, 0.5]}
CASES = [
    Case("auto-encoder", "norms not one, which its loader folds", _trained("StandardTrainer")),
    Case(
        "auto-encoder-new",
        "no bias subtracted, norms not one and not folded",
        _trained("StandardTrainer", new=True),
    ),
    Case("gated", "GatedAutoEncoder", _trained("GatedSAETrainer")),
    Case("jumprelu", "JumpReluAutoEncoder: b_dec not subtracted", _trained("JumpReluTrainer")),
    Case("topk", "AutoEncoderTopK, norms not one", _trained("TopKTrainer", k=True)),
    Case(
        "topk-few-positive",
        "rows with fewer than k positive pre-activations",
        _trained("TopKTrainer", k=True, bias=-2.0),
    ),
    Case(
        "topk-threshold",
        "AutoEncoderTopK with a threshold, which its encode does not use",
        _trained("TopKTrainer", k=True, threshold=2.0),
    ),
    Case("batch-topk", "BatchTopKSAE with its threshold", _trained("BatchTopKTrainer", k=True)),
    Case(
        "batch-topk-no-threshold",
        "BatchTopKSAE whose threshold of -1 was never learned: ReLU",
        _trained("BatchTopKTrainer", k=True, threshold=-1.0),
    ),
    Case(
        "matryoshka",
        "MatryoshkaBatchTopKSAE, three groups",
        _trained("MatryoshkaBatchTopKTrainer", k=True, **_GROUPS),
    ),
    Case(
        "topk-normalized",
        "trained by trainSAE on normalized rows, its factor folded",
        _trained("TopKTrainer", k=True, as_trained=True, normalize=True),
    ),
    Case(
        "topk-bfloat16",
        "weights in bfloat16",
        _trained("TopKTrainer", k=True, dtype=torch.bfloat16),
    ),
    Case(
        "transcoder",
        "AutoEncoderNew of a buffer with input and output",
        _trained("StandardTrainer", new=True, io="in_and_out"),
    ),
]

if __name__ == "__main__":
    run({"dictionary_learning": CASES}, _loaded)
