"""Files of every layout, damaged in every way: one sentence, status 2, nothing written or run."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sparsteer.sae.common.tensor_files import load_tensors, save_tensors
from sparsteer.sae.common.text import LONGEST_SENTENCE

from ..sae.interop.test_recognition import INSTANCES
from .conftest import Sparsteer

WEIGHTS = (".safetensors", ".npz", ".pt", ".pth")


class Marker:
    """What unpickling would run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.path),))


def weights_of(path: Path) -> Path:
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    return next(file for file in files if file.suffix in WEIGHTS)


def cut_short(file: Path, marker: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def emptied(file: Path, marker: Path) -> None:
    file.write_bytes(b"")


def a_pickle_with_code(file: Path, marker: Path) -> None:
    """As torch.save writes one, and as pickle does."""
    if file.suffix in (".pt", ".pth"):
        torch.save({"encoder.weight": torch.randn(3, 4), "code": Marker(marker)}, file)
    else:
        file.write_bytes(pickle.dumps(Marker(marker)))


Edit = Callable[[dict[str, Any]], object]


def edited(file: Path, edit: Edit) -> None:
    """Change the tensors of a file."""
    if file.suffix == ".safetensors":
        tensors: dict[str, Any] = dict(load_tensors(file, ""))
        edit(tensors)
        save_tensors(file, tensors)
    elif file.suffix == ".npz":
        with np.load(file) as arrays:
            tensors = {name: torch.as_tensor(arrays[name]) for name in arrays.files}
        edit(tensors)
        np.savez(file, **{name: tensor.numpy() for name, tensor in tensors.items()})
    else:
        tensors = torch.load(file, weights_only=True)
        edit(tensors)
        torch.save(tensors, file)


def largest(tensors: dict[str, Any]) -> str:
    """A matrix of the encoder or the decoder."""
    sizes = {name: value.numel() for name, value in tensors.items() if isinstance(value, Tensor)}
    return max(sizes, key=lambda name: sizes[name])


def a_tensor_missing(file: Path, marker: Path) -> None:
    edited(file, lambda tensors: tensors.pop(largest(tensors)))


def another_width(file: Path, marker: Path) -> None:
    def widen(tensors: dict[str, Any]) -> None:
        name = largest(tensors)
        tensors[name] = torch.cat([tensors[name], tensors[name][:, :1]], dim=1)

    edited(file, widen)


def not_finite(file: Path, marker: Path) -> None:
    def spoil(tensors: dict[str, Any]) -> None:
        tensors[largest(tensors)][0, 0] = torch.nan

    edited(file, spoil)


QUICK = ("0-saelens", "2-gemma_scope", "7-llama_scope", "10-qwen_scope")
"""Kinds of files that the quick tests damage; `make test-slow` damages all."""

DAMAGES = [cut_short, emptied, a_pickle_with_code, a_tensor_missing, another_width, not_finite]


@pytest.mark.slow_except(*(f"{kind}-{damage.__name__}" for kind in QUICK for damage in DAMAGES))
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize(
    ("layout", "write"), INSTANCES, ids=[f"{i}-{layout}" for i, (layout, _) in enumerate(INSTANCES)]
)
def test_damage_is_one_sentence(
    sparsteer: Sparsteer,
    tmp_path: Path,
    layout: str,
    write: Callable[[Path], Path],
    damage: Callable[[Path, Path], None],
) -> None:
    (tmp_path / "foreign").mkdir()
    path, marker = write(tmp_path / "foreign"), tmp_path / "marker"
    damage(weights_of(path), marker)
    for words in ((), ("--layout", layout)):
        done = sparsteer("import", path, "--out", tmp_path / "in", "--no-check", *words)
        assert done.status == 2, done
        sentence = done.error
        assert len(sentence) <= LONGEST_SENTENCE and "\n" not in sentence
        assert not marker.exists() and not (tmp_path / "in").exists()


def test_a_file_of_no_layout(sparsteer: Sparsteer, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    done = sparsteer("import", tmp_path / "notes.txt", "--out", tmp_path / "in")
    assert "no layout that can be read (circuit-tracer, " in done.error
    done = sparsteer("import", tmp_path / "missing", "--out", tmp_path / "in")
    assert "missing does not exist; give the folder of a trained autoencoder" in done.error
    done = sparsteer("import", "gemma-scope-2b-pt-rez/layer_1", "--out", tmp_path / "in")
    assert "did you mean gemma-scope-2b-pt-res/...?" in done.error
    done = sparsteer("import", "gemma-scope-2b-pt-res", "--out", tmp_path / "in")
    assert "name one as gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82" in done.error
    (tmp_path / "params.npz").write_bytes(b"PK")
    done = sparsteer("import", tmp_path / "params.npz", "--out", tmp_path / "in")
    assert "it is cut short, or holds more than numbers" in done.error
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "cfg.json").write_text("{}")
    done = sparsteer("import", tmp_path / "part", "--out", tmp_path / "in")
    assert "of another library with all files of its layout (circuit-tracer, " in done.error
