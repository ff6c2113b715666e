"""A language model spread by a device map has the activations of the one that is whole.

Here all devices are main memory and the disk, between which accelerate moves weights in the same
way as between GPUs.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsteer.sae.common.errors import InputError
from sparsteer.sae.device_map import parsed_device_map, require_device_map
from sparsteer.sae.language_model import spread_loading
from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.sae.language_model.plain_network import PlainNetwork
from sparsteer.sae.language_model.sites import read_sites
from sparsteer.steering.config import Sampling
from sparsteer.steering.generation import generate

REST = {"model.rotary_emb": "cpu", "model.norm": "cpu"}
ON_DISK = {
    "first and last": {
        **REST,
        **{"model.embed_tokens": "disk", "lm_head": "disk"},
        **{"model.layers.0": "cpu", "model.layers.1": "disk", "model.layers.2": "cpu"},
    },
    "layers": {**REST, "model.embed_tokens": "cpu", "lm_head": "cpu", "model.layers": "disk"},
}
MAPS = {
    "auto": "auto",
    "all on the cpu": json.dumps({"": "cpu"}),
    **{name: json.dumps(places) for name, places in ON_DISK.items()},
}
KINDS = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
TOKENS = torch.arange(3, 51).reshape(3, 16)
MASK = torch.ones_like(TOKENS, dtype=torch.bool)
MASK[1, 11:] = False


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(value, id=name, marks=[] if name == "first and last" else pytest.mark.slow)
        for name, value in MAPS.items()
    ],
)
def spread(request: pytest.FixtureRequest, tiny_model_folder: Path) -> LanguageModel:
    return LanguageModel.load(str(tiny_model_folder), device_map=request.param)


def test_it_reads_and_writes_what_the_whole_model_does(
    spread: LanguageModel, tiny_model: LanguageModel
) -> None:
    whole = tiny_model.without_bridge()
    assert spread.site_names == whole.site_names
    assert (spread.device, spread.dtype) == (whole.device, whole.dtype)
    assert spread.weights_hash == whole.weights_hash
    names = [f"blocks.{layer}.hook_{kind}" for layer in range(3) for kind in KINDS]

    def found(model: LanguageModel) -> dict[str, Tensor]:
        values = read_sites(model, [model.site(name) for name in names], TOKENS)
        values |= {
            "logits": model.logits(TOKENS, MASK),
            "loss": model.next_token_loss(TOKENS, MASK),
        }
        for name in ("blocks.1.hook_resid_mid", "blocks.1.hook_resid_post"):
            with model.site(name).write(lambda acts: acts.flip(-1)):
                values[f"{name} written"] = model.next_token_loss(TOKENS)
        return values

    expected = found(whole)
    for name, value in found(spread).items():
        assert torch.equal(value, expected[name]), name
    assert not torch.equal(expected["blocks.1.hook_resid_mid written"], expected["loss"])


def test_it_continues_texts_alike(spread: LanguageModel, tiny_model: LanguageModel) -> None:
    texts = [
        generate(model, ["abc", "a longer text"], Sampling(max_new_tokens=6))
        for model in (spread, tiny_model.without_bridge())
    ]
    assert texts[0] == texts[1]


def test_the_bridge_is_refused(spread: LanguageModel) -> None:
    assert spread.without_bridge() is spread.fastest(["blocks.1.hook_resid_post"]) is spread
    with pytest.raises(InputError, match="spread over devices, which TransformerLens' bridge"):
        _ = spread.bridge


def test_weights_on_disk_are_read_in_the_dtype_asked_for(tiny_model_folder: Path) -> None:
    places = MAPS["first and last"]
    spread = LanguageModel.load(str(tiny_model_folder), dtype="bfloat16", device_map=places)
    whole = LanguageModel.load(str(tiny_model_folder), dtype="bfloat16").without_bridge()
    assert spread.dtype_name == "bfloat16"
    assert torch.equal(spread.logits(TOKENS), whole.logits(TOKENS))


def test_hooks_get_activations_at_home_and_the_layer_what_they_change(
    tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies between devices are pretended: each is a new tensor."""
    network = PlainNetwork(tiny_model.without_bridge().network.model, home=torch.device("cpu"))
    moves: list[Tensor] = []
    to = Tensor.to

    def moving(x: Tensor, *words: Any, **options: Any) -> Tensor:
        if words and isinstance(words[0], torch.device):
            moves.append(x)
            return x.clone()
        return to(x, *words, **options)

    plain = PlainNetwork(network.model)
    with plain.hooked("blocks.1.hook_resid_mid", lambda acts: acts.mul_(2)):
        expected = plain(TOKENS)
    monkeypatch.setattr(Tensor, "to", moving)
    for in_place in (True, False):
        site = "blocks.1.hook_resid_mid" if in_place else "blocks.1.hook_resid_post"
        with network.hooked(site, lambda acts: acts.mul_(2)):
            found = network(TOKENS)
        assert torch.equal(found, expected) == in_place
    assert moves


@pytest.mark.parametrize("value", ["autos", "[1]", "{}", '{"a": 1.5}', '{"a": true}', "{"])
def test_what_is_no_map_is_refused(value: str) -> None:
    with pytest.raises(InputError, match="give auto, balanced or a JSON object"):
        require_device_map(value, "auto")


def test_a_map_is_in_place_of_a_device() -> None:
    assert parsed_device_map('{"a": 1, "b": "disk"}') == {"a": 1, "b": "disk"}
    require_device_map(None, "cpu")
    with pytest.raises(InputError, match="device is cpu, but device_map says where"):
        require_device_map("auto", "cpu")


def test_what_cannot_be_spread_is_refused(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(device_map: str, source: Path = tiny_model_folder) -> str:
        with pytest.raises(InputError) as caught:
            LanguageModel.load(str(source), device_map=device_map)
        return str(caught.value)

    assert "device 'cuda:93' cannot be used here" in refused('{"": 93}')
    assert "device_map has all on disk" in refused('{"": "disk"}')
    assert "device 'gpu' cannot be used here" in refused('{"": "gpu"}')
    some = refused('{"model.embed_tokens": "cpu", "model.layers": "cpu", "lm_head": "cpu"}')
    assert "device_map has no place for model.norm.weight" in some
    wrong = refused('{"": "cpu", "model.layer.0": "cpu"}')
    assert "device_map has model.layer.0, which the model does not have; perhaps" in wrong
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    assert "model.gguf is a .gguf file, which is loaded whole" in refused("auto", file)
    monkeypatch.setattr(spread_loading, "is_accelerate_available", lambda: False)
    assert "accelerate, which is not installed here; install it" in refused("auto")
