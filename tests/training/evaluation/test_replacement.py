"""Loss and KL with a site replaced, against their definitions on whole logits."""

import copy
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from sparsteer.sae.common.errors import InputError
from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.training.evaluation import replacement
from sparsteer.training.evaluation.replacement import Edit, Replacement, replacement_sums

NAME = "blocks.1.hook_resid_post"


class Means(NamedTuple):
    loss: float
    kl: float


def replacement_means(*given: Any) -> tuple[list[Means], int]:
    """Means over all tokens."""
    sums, tokens_C = replacement_sums(*given)
    n_tokens = int(tokens_C.sum())
    return [Means(*(float(x_C.sum()) / n_tokens for x_C in each)) for each in sums], n_tokens


def contexts(n: int = 7, length: int = 19) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(3, 259, (n, length), generator=generator)
    tokens[:, 0] = 1
    mask = torch.arange(length) < torch.randint(4, length + 1, (n, 1), generator=generator)
    return tokens, mask


def by_definition(
    model: LanguageModel, edit: Any, tokens: Tensor, mask: Tensor
) -> tuple[float, float]:
    kept = model.excluded_tokens(tokens, mask)[..., None]
    clean = model.logits(tokens, mask).double().log_softmax(-1)[:, :-1]
    with model.site(NAME).write(lambda h: torch.where(kept, h, edit(h))):
        edited = model.logits(tokens, mask).double().log_softmax(-1)[:, :-1]
    counted = mask[:, 1:]
    losses = -edited.gather(-1, tokens[:, 1:, None])[..., 0][counted]
    kl = (clean.exp() * (clean - edited)).sum(-1)[counted]
    return float(losses.mean()), float(kl.mean())


@pytest.mark.parametrize("at_once", [1 << 23, 1000], ids=["one block", "blocks of three"])
def test_means_are_those_of_whole_logits(
    tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(replacement, "_LOGITS_AT_ONCE", at_once)
    tokens, mask = contexts()
    edits: list[Edit] = [torch.zeros_like, lambda h: 0.7 * h + 0.1, lambda h: h]
    site = tiny_model.site(NAME)
    seen: list[int] = []
    replacements = [Replacement(site, edit) for edit in edits]
    (clean, *means), n_tokens = replacement_means(
        tiny_model, replacements, tokens, mask, seen.append
    )
    assert n_tokens == int(mask[:, 1:].sum())
    assert sum(seen) == 4 * tokens.numel()
    assert clean.kl == 0
    for edit, found in zip(edits, means, strict=True):
        loss, kl = by_definition(tiny_model, edit, tokens, mask)
        assert found.loss == pytest.approx(loss, rel=1e-5)
        assert found.kl == pytest.approx(kl, rel=1e-4, abs=1e-7)
    assert clean.loss == pytest.approx(means[2].loss, rel=1e-6)


def test_every_context_has_its_own_sums(
    tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that it has alone; contexts are cut by the blocks of logits, and one has one token."""
    monkeypatch.setattr(replacement, "_LOGITS_AT_ONCE", 2000)
    tokens, mask = contexts(n=6)
    mask[2, 2:] = False
    replacements = [Replacement(tiny_model.site(NAME), torch.zeros_like)]
    sums, tokens_C = replacement_sums(tiny_model, replacements, tokens, mask)
    assert [int(number) for number in tokens_C] == [int(row.sum()) - 1 for row in mask]
    for number in range(6):
        alone, _ = replacement_sums(
            tiny_model, replacements, tokens[number : number + 1], mask[number : number + 1]
        )
        for whole, single in zip(sums, alone, strict=True):
            for of_all, own in zip(whole, single, strict=True):
                torch.testing.assert_close(of_all[number], own[0], rtol=1e-4, atol=1e-6)


def test_other_models_with_more_than_an_unembedding(other_model: LanguageModel) -> None:
    tokens, mask = contexts()
    zeroed = Replacement(other_model.site(NAME), torch.zeros_like)
    (_, zero), _ = replacement_means(other_model, [zeroed], tokens, mask)
    loss, kl = by_definition(other_model, torch.zeros_like, tokens, mask)
    assert zero.loss == pytest.approx(loss, rel=1e-5)
    assert zero.kl == pytest.approx(kl, rel=1e-4)


def test_the_untouched_model_runs_once_for_all(
    tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[int] = []
    run = LanguageModel.before_head

    def counted(model: LanguageModel, *arguments: Any) -> Any:
        runs.append(1)
        return run(model, *arguments)

    monkeypatch.setattr(LanguageModel, "before_head", counted)
    tokens, mask = contexts(n=8)
    site = tiny_model.site(NAME)
    replacement_means(tiny_model, [Replacement(site, torch.zeros_like)] * 3, tokens, mask)
    assert len(runs) == 2 * (1 + 3)


READ, WRITTEN = "blocks.1.hook_resid_mid", "blocks.1.hook_mlp_out"


def test_a_perfect_prediction_from_another_site_changes_nothing(tiny_model: LanguageModel) -> None:
    tokens, mask = contexts()
    read, written = tiny_model.site(READ), tiny_model.site(WRITTEN)
    bridge: Any = tiny_model.bridge
    layer = copy.deepcopy(bridge.original_model.model.layers[1])  # without the hooks

    def mlp(h_BLD: Tensor) -> Tensor:
        return layer.mlp(layer.post_attention_layernorm(h_BLD))

    own = Replacement(written, mlp, reads=read)
    (clean, edited), _ = replacement_means(tiny_model, [own], tokens, mask)
    assert edited.loss == pytest.approx(clean.loss, rel=1e-5)
    assert edited.kl == pytest.approx(0, abs=1e-6)


def test_the_site_is_replaced_by_what_is_made_of_the_other(tiny_model: LanguageModel) -> None:
    tokens, mask = contexts()
    read, written = tiny_model.site(READ), tiny_model.site(WRITTEN)
    seen: list[Tensor] = []

    def edit(h_BLD: Tensor) -> Tensor:
        seen.append(h_BLD)
        return 0.5 * h_BLD.flip(-1)

    replacements = [
        Replacement(written, edit, reads=read),
        Replacement(written, torch.zeros_like, reads=read),
    ]
    replacements += [Replacement(written, torch.zeros_like)]
    (_, found, zero, own_zero), _ = replacement_means(tiny_model, replacements, tokens, mask)
    for h_BLD, tokens_BL, mask_BL in zip(
        seen, torch.split(tokens, 4), torch.split(mask, 4), strict=True
    ):
        torch.testing.assert_close(h_BLD[mask_BL], read.read(tokens_BL, mask_BL)[mask_BL])
    assert zero == own_zero != found

    kept = tiny_model.excluded_tokens(tokens, mask)[..., None]
    made = 0.5 * read.read(tokens, mask).flip(-1)
    clean = tiny_model.logits(tokens, mask).double().log_softmax(-1)[:, :-1]
    with written.write(lambda h: torch.where(kept, h, made)):
        edited = tiny_model.logits(tokens, mask).double().log_softmax(-1)[:, :-1]
    kl = (clean.exp() * (clean - edited)).sum(-1)[mask[:, 1:]]
    assert found.kl == pytest.approx(float(kl.mean()), rel=1e-4)


def test_what_the_model_comes_by_later_cannot_be_read(tiny_model: LanguageModel) -> None:
    tokens, mask = contexts()
    zeroed = Replacement(tiny_model.site(READ), torch.zeros_like, reads=tiny_model.site(WRITTEN))
    sentence = f"{READ} comes before {WRITTEN} in the model, .*; give --contexts 0"
    before = tiny_model.logits(tokens, mask)
    with pytest.raises(InputError, match=sentence):
        replacement_means(tiny_model, [zeroed], tokens, mask)
    assert torch.equal(tiny_model.logits(tokens, mask), before)
