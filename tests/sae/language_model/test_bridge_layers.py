"""The bridge's attention: the same with a key-value cache, and double precision in float64."""

from typing import Any

import torch
from torch import Tensor

from sparsteer.sae.language_model.kv_cache import cached_positions, new_cache
from sparsteer.sae.language_model.model import LanguageModel


def left_padded() -> tuple[Tensor, Tensor]:
    tokens = torch.randint(3, 259, (3, 23))
    mask = torch.ones(3, 23, dtype=torch.bool)
    mask[0, :17] = mask[2, :4] = False
    return tokens.where(mask, 0), mask


def check_cached_pass(model: LanguageModel, tolerance: float) -> None:
    """A prompt, one token and a few more, each pass going on from the cache of the last."""
    tokens, mask = left_padded()
    bridge: Any = model.bridge
    name, cache = new_cache(model.network.model)
    assert cached_positions(cache, 19) == cached_positions(None, 19) == 0
    parts: list[Tensor] = []
    with torch.no_grad():
        for start, end in ((0, 19), (19, 20), (20, 23)):
            own_mask = mask[:, :end].long()
            own_tokens = tokens[:, start:end]
            given = {name: cache}
            parts.append(bridge(own_tokens, attention_mask=own_mask, use_cache=True, **given))
            assert cached_positions(cache, end) == end
    expected = model.logits(tokens, mask)[mask]
    assert torch.allclose(torch.cat(parts, 1)[mask], expected, atol=tolerance)


def test_a_cached_pass_is_the_uncached_one(tiny_model: LanguageModel) -> None:
    check_cached_pass(tiny_model, 1e-4)


def test_a_cached_pass_is_the_uncached_one_in_other_models(other_model: LanguageModel) -> None:
    check_cached_pass(other_model, 1e-4)


def check_left_padding(model: LanguageModel) -> None:
    tokens, mask = left_padded()
    together = model.logits(tokens, mask)
    assert together.isfinite().all()
    for row in range(3):
        alone = model.logits(tokens[row : row + 1, mask[row]])
        assert torch.allclose(together[row][mask[row]], alone[0], atol=1e-11)


def test_left_padding_changes_only_the_last_bits_of_float64(tiny_model: LanguageModel) -> None:
    model = LanguageModel.load(tiny_model.name, dtype="float64")
    check_left_padding(model)
    check_cached_pass(model, 1e-11)


def test_left_padding_changes_only_the_last_bits_of_other_models_in_float64(
    other_model: LanguageModel,
) -> None:
    model = LanguageModel.load(other_model.name, dtype="float64")
    check_left_padding(model)
    check_cached_pass(model, 1e-11)
