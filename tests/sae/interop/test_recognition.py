"""Every layout's files are recognized by that layout alone."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sparsteer.sae import SparseAutoencoder, TopKConfig
from sparsteer.sae.interop.export import export
from sparsteer.sae.interop.layouts import LAYOUTS, ReadableLayout, find

from ..random_sae import random_sae
from .foreign_files import (
    D,
    F,
    circuit_tracer,
    gemma_scope,
    gemma_scope_2,
    goodfire,
    llama_scope,
    llamascopium,
    qresearch,
    qwen_scope,
    weights,
)

W = weights("b_enc")
JUMPS = weights("b_enc", "threshold")
JUMPS["threshold"] = JUMPS["threshold"].abs()
SKIP = JUMPS | weights("W_skip")


def saelens(path: Path) -> Path:
    export(random_sae(TopKConfig(D, F, 5)), path / "out", "saelens")
    return path / "out"


def own(path: Path) -> Path:
    random_sae(TopKConfig(D, F, 5)).save(path / "out")
    return path / "out"


INSTANCES: list[tuple[str, Callable[[Path], Path]]] = [
    ("saelens", saelens),
    ("sparsteer", own),
    ("gemma_scope", lambda path: gemma_scope(path, JUMPS)),
    ("gemma_scope", lambda path: gemma_scope(path, JUMPS) / "params.npz"),
    ("gemma_scope", lambda path: gemma_scope_2(path, JUMPS)),
    ("gemma_scope", lambda path: gemma_scope_2(path, JUMPS, type="sae")),
    ("gemma_scope", lambda path: gemma_scope_2(path, SKIP, "transcoder") / "params.safetensors"),
    ("llama_scope", lambda path: llama_scope(path, W)),
    ("llama_scope", lambda path: llamascopium(path, JUMPS)),
    ("llama_scope", lambda path: llamascopium(path, JUMPS, old_names=True)),
    ("qwen_scope", lambda path: qwen_scope(path, W)),
    ("qwen_scope", lambda path: qwen_scope(path, W).parent),
    ("goodfire", lambda path: goodfire(path, W)),
    ("goodfire", lambda path: goodfire(path, W).parent),
    ("goodfire", lambda path: qresearch(path, W)),
    ("circuit-tracer", lambda path: circuit_tracer(path, W)),
    ("circuit-tracer", lambda path: circuit_tracer(path, SKIP)),
    ("circuit-tracer", lambda path: circuit_tracer(path, JUMPS).parent),
]


@pytest.mark.parametrize(("name", "write"), INSTANCES, ids=lambda part: str(part)[:20])
def test_one_layout_recognizes_it(tmp_path: Path, name: str, write: Callable[[Path], Path]) -> None:
    path = write(tmp_path)
    layouts = [(other, LAYOUTS.get(other)) for other in LAYOUTS.names()]
    recognizing = [other for other, layout in layouts if layout.recognizes(path)]
    assert recognizing == [name]
    assert isinstance(LAYOUTS.get(name), ReadableLayout) and find(path).layout == name
    assert SparseAutoencoder.load(path).config.n_latents == F


def test_none_recognizes_what_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "cfg.json").write_text("broken")
    (tmp_path / "model.pt").write_bytes(b"nothing")
    for path in (tmp_path, *tmp_path.iterdir(), tmp_path / "missing"):
        assert not [name for name in LAYOUTS.names() if LAYOUTS.get(name).recognizes(path)]
