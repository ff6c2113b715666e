"""The bridge's attention: the same with a key-value cache, and double precision in float64."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsteer.sae.bridge_attention import cached_positions, new_cache
from sparsteer.sae.language_model import LanguageModel


@pytest.fixture(scope="module")
def gpt2_folder(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random GPT-2, whose attention and positions are of another kind than Llama's."""
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=259,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=64,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    folder = tmp_path_factory.mktemp("models") / "gpt2"
    model: Any = GPT2LMHeadModel(config)
    model.save_pretrained(folder)
    tokenizers: Any = AutoTokenizer
    tokenizers.from_pretrained(tiny_model_folder).save_pretrained(folder)
    return folder


def load(kind: str, request: pytest.FixtureRequest, dtype: str) -> LanguageModel:
    fixture = {"llama": "tiny_model_folder", "gpt2": "gpt2_folder"}[kind]
    return LanguageModel.load(str(request.getfixturevalue(fixture)), dtype=dtype)


def left_padded() -> tuple[Tensor, Tensor]:
    tokens = torch.randint(3, 259, (3, 23))
    mask = torch.ones(3, 23, dtype=torch.bool)
    mask[0, :17] = mask[2, :4] = False
    return tokens.where(mask, 0), mask


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_cached_pass_is_the_uncached_one(
    kind: str, dtype: str, request: pytest.FixtureRequest
) -> None:
    model = load(kind, request, dtype)
    tokens, mask = left_padded()
    bridge: Any = model.bridge
    name, cache = new_cache(model.bridge)
    assert cached_positions(cache) == cached_positions(None) == 0
    parts: list[Tensor] = []
    with torch.no_grad():
        for start, end in ((0, 19), (19, 20), (20, 23)):
            part = bridge(
                tokens[:, start:end],
                attention_mask=mask[:, :end].long(),
                use_cache=True,
                **{name: cache},
            )
            parts.append(part)
            assert cached_positions(cache) == end
    tolerance = 1e-4 if dtype == "float32" else 1e-11
    assert torch.allclose(
        torch.cat(parts, 1)[mask], model.logits(tokens, mask)[mask], atol=tolerance
    )


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_left_padding_changes_only_the_last_bits_of_float64(
    kind: str, request: pytest.FixtureRequest
) -> None:
    model = load(kind, request, "float64")
    tokens, mask = left_padded()
    together = model.logits(tokens, mask)
    assert together.isfinite().all()
    for row in range(3):
        alone = model.logits(tokens[row : row + 1, mask[row]])
        assert torch.allclose(together[row][mask[row]], alone[0], atol=1e-11)
