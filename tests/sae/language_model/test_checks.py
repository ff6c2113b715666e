"""What a few tokens show of a loaded model: whether its logits, padding and cache are right."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import CodeGenConfig, RwkvConfig
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from sparsteer.sae.common.errors import InputError
from sparsteer.sae.language_model.checks import cache_fault, wrong_padding
from sparsteer.sae.language_model.model import LanguageModel

auto_model: Any = AutoModelForCausalLM  # transformers leaves its types open

Call = tuple[tuple[Any, ...], dict[str, Any]]


@pytest.fixture
def model(tiny_model_folder: Path) -> LanguageModel:
    """The tiny model, loaded for one test, which may break it."""
    return LanguageModel.load(str(tiny_model_folder))


def change_calls(model: LanguageModel, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the arguments of each cached pass of one token."""

    def hook(module: object, inputs: tuple[Any, ...], given: dict[str, Any]) -> Call:
        if given.get("cache") is not None and inputs[0].shape[1] == 1:
            change(given)
        return inputs, given

    original: Any = model.bridge.original_model
    original.register_forward_pre_hook(hook, with_kwargs=True)


def test_nothing_is_found_in_a_model_that_is_right(
    tiny_model: LanguageModel, other_model: LanguageModel
) -> None:
    for each in (tiny_model, other_model):
        assert cache_fault(each.network) is None
        assert wrong_padding(each.network) == frozenset()


def test_a_cache_that_is_wrong_in_padded_rows_only_is_found(model: LanguageModel) -> None:
    change_calls(model, lambda given: given.pop("position_ids", None))
    fault = cache_fault(model.network)
    assert fault is not None and "in padded rows" in fault


def test_a_cache_that_is_wrong_in_a_row_alone_is_found(model: LanguageModel) -> None:
    def move(given: dict[str, Any]) -> None:
        if len(given["attention_mask"]) == 1:
            given["position_ids"] = torch.tensor([[9]])

    change_calls(model, move)
    fault = cache_fault(model.network)
    assert fault is not None and "in a row alone" in fault


def test_a_cache_that_is_left_empty_is_found(model: LanguageModel) -> None:
    change_calls(model, lambda given: given.update(cache=None))
    fault = cache_fault(model.network)
    assert fault is not None and "keeps 5 of 6 positions" in fault


def test_a_model_that_raises_with_a_cache_is_found(model: LanguageModel) -> None:
    def refuse(given: dict[str, Any]) -> None:
        raise TypeError("no steps here\nat all")

    change_calls(model, refuse)
    fault = cache_fault(model.network)
    assert fault is not None and "(no steps here)" in fault


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_what_a_dtype_rounds_is_no_fault(tiny_model_folder: Path, dtype: str) -> None:
    model = LanguageModel.load(str(tiny_model_folder), dtype=dtype)
    assert model.kv_cache_works and wrong_padding(model.network) == frozenset()
    change_calls(model, lambda given: given.pop("position_ids", None))
    assert cache_fault(model.network) is not None


def test_hooks_of_others_are_not_called_and_stay(model: LanguageModel) -> None:
    calls: list[int] = []

    def edit(acts_BLD: Tensor) -> Tensor:
        calls.append(acts_BLD.shape[1])
        return acts_BLD * len(calls)

    with model.site().write(edit):
        assert model.kv_cache_works and not calls
        model.logits(torch.tensor([[1, 40, 41]]))
        assert calls == [3]


def saved(config: Any, tiny_model_folder: Path, folder: Path) -> str:
    """A random model of the configuration with the tiny tokenizer."""
    auto_model.from_config(config).save_pretrained(folder)
    for file in tiny_model_folder.glob("tokenizer*"):
        shutil.copy(file, folder)
    return str(folder)


SPECIAL: dict[str, Any] = {
    "vocab_size": 259,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def test_a_model_that_the_bridge_cannot_run_is_refused_when_it_is_loaded(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    config = CodeGenConfig(n_embd=32, n_layer=2, n_head=4, rotary_dim=4, n_positions=64, **SPECIAL)
    folder = saved(config, tiny_model_folder, tmp_path)
    with pytest.raises(InputError, match="type codegen, which TransformerLens cannot run") as found:
        LanguageModel.load(folder)
    assert "\n" not in str(found.value) and "use another model" in str(found.value)


def test_logits_other_than_those_of_transformers_are_refused(
    tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sparsteer.sae.language_model import loading

    def spoil(bridge: Any) -> None:
        weight = bridge.blocks[1].mlp.out.original_component.weight.data
        weight[0] += 1.0

    monkeypatch.setattr(loading, "repair_layers", spoil)
    with pytest.raises(InputError, match=r"type llama, .* gives other logits than transformers"):
        LanguageModel.load(str(tiny_model_folder))


def test_rows_are_not_padded_where_a_model_takes_padding_for_text(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    config = RwkvConfig(
        hidden_size=32, num_hidden_layers=2, attention_hidden_size=32, context_length=64, **SPECIAL
    )
    model = LanguageModel.load(saved(config, tiny_model_folder, tmp_path))
    original: Any = model.bridge.original_model
    for name, weight in original.named_parameters():
        if name.endswith("weight") and weight.ndim == 2:
            weight.data.normal_(std=0.3)
    tokens = torch.tensor([[50, 51, 52, 53], [1, 60, 61, 62]])
    mask = torch.tensor([[True] * 4, [False] + [True] * 3])
    with pytest.raises(InputError, match=r"padding on the left .* give --batch-size 1"):
        model.logits(tokens, mask)
    right = model.logits(tokens.flip(1), mask.flip(1))[1, :3]
    alone = model.logits(tokens.flip(1)[1:, :3])[0]
    assert torch.allclose(right, alone, atol=1e-4)
