"""Damaged and foreign files of other libraries: one sentence each, and nothing in them is run."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file  # pyright: ignore[reportUnknownVariableType] - its path type is an open generic
from torch import Tensor

from sparsteer.sae import InputError, SparseAutoencoder
from sparsteer.sae.interop.layouts import LAYOUTS

FIXTURES = Path(__file__).parent / "fixtures"
Damage = Callable[[Path], None]


class Harmful:
    """Unpickled, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def cut(name: str) -> Damage:
    """Leave half of a file."""

    def damage(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return damage


def setting(name: str, **values: Any) -> Damage:
    """Change keys of a JSON file, or of its part `trainer`; None removes one."""

    def damage(folder: Path) -> None:
        given = json.loads((folder / name).read_text(encoding="utf-8"))
        part = given.get("trainer", given)
        part |= values
        for key in [key for key, value in values.items() if value is None]:
            del part[key]
        (folder / name).write_text(json.dumps(given), encoding="utf-8")

    return damage


def tensors(name: str, change: Callable[[dict[str, Any]], None]) -> Damage:
    """Change what a file of tensors holds."""

    def damage(folder: Path) -> None:
        file = folder / name
        held: dict[str, Any] = (
            torch.load(file, weights_only=True) if file.suffix == ".pt" else load_file(file)
        )
        change(held)
        if file.suffix == ".pt":
            torch.save(held, file)
        else:
            save_file(held, file)

    return damage


def without(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda held: held.pop(name)


def having(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda held: held.update({name: value})


def spoiled(name: str) -> Callable[[dict[str, Any]], None]:
    def change(held: dict[str, Any]) -> None:
        tensor: Tensor = held[name]
        tensor.view(-1)[0] = torch.nan

    return change


SPARSIFY: list[tuple[str, Damage, str]] = [
    ("sae", cut("sae.safetensors"), "cannot be read"),
    ("sae", cut("cfg.json"), "is not valid JSON"),
    ("sae", setting("cfg.json", d_in=9), "encoder.weight has shape .* but .* is needed"),
    ("sae", setting("cfg.json", d_in="eight"), "a size of 'eight'"),
    ("sae", setting("cfg.json", num_latents=17), "encoder.weight has shape"),
    ("sae-num-latents-zero", setting("cfg.json", expansion_factor=3), "encoder.weight has shape"),
    ("sae", setting("cfg.json", k=17), "k is 17, but there are only 16 latents"),
    ("sae", setting("cfg.json", k=None), "k is None"),
    ("sae", setting("cfg.json", activation="jumprelu"), "activation is 'jumprelu'"),
    ("sae-groupmax", setting("cfg.json", k=5), "k is 5, which does not divide the 16 latents"),
    ("sae", setting("cfg.json", skip_connection=True), "tensor W_skip is missing"),
    ("sae", setting("cfg.json", transcode="no"), "transcode is 'no', where true or false is"),
    ("sae-skip", setting("cfg.json", skip_connection=False), "there is no place for W_skip"),
    ("sae", tensors("sae.safetensors", without("encoder.bias")), "encoder.bias is missing"),
    ("sae", tensors("sae.safetensors", spoiled("W_dec")), "W_dec holds NaN or infinity"),
    (
        "sae",
        tensors("sae.safetensors", having("b_dec", torch.zeros(8, dtype=torch.int32))),
        "b_dec holds torch.int32",
    ),
]
DICTIONARY_LEARNING: list[tuple[str, Damage, str]] = [
    ("topk", cut("ae.pt"), "cannot be read as a torch file"),
    ("topk", setting("config.json", dict_class="Sparse"), "dict_class is 'Sparse'"),
    ("topk", setting("config.json", dict_class="AutoEncoder"), "tensor bias is missing"),
    ("jumprelu", setting("config.json", dict_class="BatchTopKSAE"), "encoder.weight is missing"),
    ("topk", setting("config.json", activation_dim=9), "encoder.weight has shape"),
    ("topk", setting("config.json", k=5), "k is 4, but config.json beside it has 5"),
    ("topk", tensors("ae.pt", having("k", torch.tensor(4.5))), "where whole numbers are needed"),
    ("topk", tensors("ae.pt", having("k", torch.tensor(99))), "k is 99"),
    ("topk", tensors("ae.pt", without("decoder.weight")), "decoder.weight is missing"),
    ("topk", tensors("ae.pt", having("scale", torch.ones(()))), "there is no place for scale"),
    ("gated", tensors("ae.pt", without("r_mag")), "r_mag is missing"),
    ("batch-topk", tensors("ae.pt", without("threshold")), "threshold is missing"),
    ("matryoshka", tensors("ae.pt", without("group_sizes")), "group_sizes is missing"),
    ("matryoshka", tensors("ae.pt", having("group_sizes", torch.tensor([4, -4, 16]))), "prefixes"),
    ("auto-encoder", tensors("ae.pt", spoiled("encoder.weight")), "holds NaN or infinity"),
]
OPENAI: list[tuple[str, Damage, str]] = [
    ("topk", tensors("3.pt", having("activation", "Identity")), "activation is 'Identity'"),
    ("topk", tensors("3.pt", having("activation_state_dict", {"k": 0})), "k is 0"),
    ("topk", tensors("3.pt", without("activation_state_dict")), "k is None"),
    (
        "topk",
        tensors("3.pt", having("activation_state_dict", {"k": 4, "postact_fn": "Identity"})),
        "TopK is followed by 'Identity'",
    ),
    ("relu", tensors("3.pt", without("encoder.weight")), "encoder.weight is missing"),
    ("relu", tensors("3.pt", having("pre_bias", torch.zeros(9))), "pre_bias has shape"),
    ("relu", tensors("3.pt", having("gain", torch.zeros(9))), "there is no place for gain"),
]
CASES = [
    pytest.param(layout, *case, id=f"{layout}-{number}")
    for layout, cases in (
        ("sparsify", SPARSIFY),
        ("dictionary_learning", DICTIONARY_LEARNING),
        ("openai", OPENAI),
    )
    for number, case in enumerate(cases)
]


def copied(layout: str, case: str, to: Path) -> Path:
    """A copy of a fixture: its folder, and what to load of it."""
    shutil.copytree(FIXTURES / layout / case / "checkpoint", to)
    says = json.loads((FIXTURES / layout / case / "case.json").read_text(encoding="utf-8"))
    return to / says["load"]


@pytest.mark.parametrize(("layout", "case", "damage", "message"), CASES)
def test_damage_is_told_in_one_sentence(
    layout: str, case: str, damage: Damage, message: str, tmp_path: Path
) -> None:
    source = copied(layout, case, tmp_path / "copy")
    SparseAutoencoder.load(source)
    damage(tmp_path / "copy")
    with pytest.raises(InputError, match=message) as caught:
        SparseAutoencoder.load(source)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("layout", "case", "file", "name"),
    [
        ("dictionary_learning", "topk", "ae.pt", "encoder.bias"),
        ("openai", "topk", "3.pt", "latent_bias"),
    ],
)
def test_code_in_a_pickle_is_not_run(
    layout: str, case: str, file: str, name: str, tmp_path: Path
) -> None:
    source = copied(layout, case, tmp_path / "copy")
    marker = tmp_path / "marker"
    held = torch.load(tmp_path / "copy" / file, weights_only=True)
    torch.save({**held, name: Harmful(marker)}, tmp_path / "copy" / file)
    with pytest.raises(InputError, match="which only unpickling could read"):
        SparseAutoencoder.load(source)
    assert not marker.exists()
    torch.load(tmp_path / "copy" / file, weights_only=False)
    assert marker.exists()  # so the file would have run it


def test_a_torch_file_of_something_else_is_not_recognized(tmp_path: Path) -> None:
    file = tmp_path / "3.pt"
    openai = LAYOUTS.get("openai")
    assert not openai.recognizes(file)
    torch.save([torch.zeros(3)], file)
    assert not openai.recognizes(file)
    file.write_bytes(b"no archive, but the name latent_bias is in it")
    assert openai.recognizes(file)
    with pytest.raises(InputError, match=r"3\.pt"):
        SparseAutoencoder.load(file)
    file.write_bytes(b"")
    assert not openai.recognizes(file)


def test_an_openai_file_that_is_cut_short(tmp_path: Path) -> None:
    """Its directory is at its end, so only its layout's name helps."""
    source = copied("openai", "topk", tmp_path / "copy")
    cut(source.name)(source.parent)
    with pytest.raises(InputError, match=r"3\.pt"):
        SparseAutoencoder.load(source, layout="openai")
    with pytest.raises(InputError):
        SparseAutoencoder.load(source)
