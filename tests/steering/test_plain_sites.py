"""The sites of a transformers model without the bridge: the bridge's names and values."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, GraniteConfig, OPTConfig
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from sparsteer.sae.common.errors import InputError
from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.sae.language_model.sites import read_sites

from .model_shapes import BASE
from .plain_families import QUICK, SIX, hooks, twins

auto_model: Any = AutoModelForCausalLM  # transformers leaves its types open

families = pytest.mark.parametrize("family", SIX)
quick_families = pytest.mark.slow_except(*QUICK)


def batch() -> tuple[Tensor, Tensor]:
    """Rows of unlike lengths, padded on the left."""
    tokens = torch.arange(3, 39).reshape(3, 12) * 5
    mask = torch.arange(12) >= torch.tensor([0, 4, 9])[:, None]
    return tokens.where(mask, torch.tensor(0)), mask


@pytest.mark.slow_except("gpt2", "gemma3_text")
@families
def test_names_and_values_are_those_of_the_bridge(family: str) -> None:
    both = twins(family)
    assert both.plain.site_names == both.bridge.site_names
    assert both.hf.config._attn_implementation == ("eager" if family == "gemma2" else "sdpa")
    tokens, mask = batch()
    for name in both.bridge.site_names:
        plain, bridge = (m.site(name).read(tokens, mask) for m in (both.plain, both.bridge))
        scale = float(bridge[mask].std())
        torch.testing.assert_close(plain[mask], bridge[mask], rtol=1e-4, atol=1e-4 * scale)
    assert hooks(both.hf) == 0


@families
@quick_families
def test_several_sites_are_read_in_one_pass_that_ends_at_the_last(family: str) -> None:
    both = twins(family)
    tokens = batch()[0]
    names = both.plain.site_names[:7]
    runs: list[int] = []
    layers: Any = both.plain.network

    def counter(number: int) -> Any:
        def count(module: object, inputs: object) -> None:
            runs.append(number)

        return count

    handles = [
        layer.register_forward_pre_hook(counter(number))
        for number, layer in enumerate(layers._layers)
    ]
    acts = read_sites(both.plain, [both.plain.site(name) for name in names], tokens)
    for handle in handles:
        handle.remove()
    assert runs == [0, 1]
    for name in names:
        assert torch.equal(acts[name], both.plain.site(name).read(tokens))


@pytest.mark.slow
@families
def test_writing_does_what_it_does_in_the_bridge(family: str) -> None:
    both = twins(family)
    tokens, mask = batch()
    before = both.plain.logits(tokens, mask)
    for name in both.plain.site_names:
        with both.plain.site(name).write(lambda acts: acts):
            assert torch.equal(both.plain.logits(tokens, mask), before)
        found: list[Tensor] = []
        for model in (both.plain, both.bridge):
            with model.site(name).write(lambda acts: acts.flip(-1) + 1):
                found.append(model.logits(tokens, mask)[mask])
                acts = model.site(name).read(tokens)
            assert torch.equal(acts, model.site(name).read(tokens).flip(-1) + 1)
        assert float((found[0] - before[mask]).abs().max()) > 1e-2
        torch.testing.assert_close(*found, rtol=1e-3, atol=1e-3 * float(before.std()))
    assert torch.equal(both.plain.logits(tokens, mask), before)
    assert hooks(both.hf) == 0


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_an_edit_between_attention_and_mlp_stays_in_the_residual(family: str) -> None:
    """Behind the MLP the residual has it, and not only what the MLP reads."""
    both = twins(family)
    tokens = batch()[0]
    kinds = ("resid_mid", "mlp_out", "resid_post")
    for model in (both.plain, both.bridge):
        sites = [model.site(f"blocks.1.hook_{kind}") for kind in kinds]
        with sites[0].write(lambda acts: acts * 2):
            middle, mlp, after = read_sites(model, sites, tokens).values()
        torch.testing.assert_close(middle, 2 * sites[0].read(tokens))
        torch.testing.assert_close(middle + mlp, after)


def test_a_layer_whose_parts_run_side_by_side_has_nothing_between_them() -> None:
    both = twins("gpt_neox")
    for model in (both.plain, both.bridge):
        with pytest.raises(InputError, match=r"no site 'blocks.1.hook_resid_mid'"):
            model.site("blocks.1.hook_resid_mid")


def test_logits_losses_and_padding_are_those_of_the_bridge() -> None:
    for family in QUICK:
        both = twins(family)
        tokens, mask = batch()
        plain, bridge = (model.logits(tokens, mask)[mask] for model in (both.plain, both.bridge))
        torch.testing.assert_close(plain, bridge, rtol=1e-3, atol=1e-3 * float(bridge.std()))
        losses = [model.next_token_loss(tokens, mask) for model in (both.plain, both.bridge)]
        torch.testing.assert_close(*losses, rtol=1e-3, atol=1e-3)
        assert both.plain.wrong_padding == frozenset() and both.plain.kv_cache_works
        assert both.plain.max_context == both.bridge.max_context


@torch.no_grad()
def test_the_bridge_is_built_when_it_is_asked_for_around_the_same_weights() -> None:
    both = twins("gemma3_text")
    hf = copy.deepcopy(both.hf)
    model = LanguageModel.from_transformers(hf, both.bridge.tokenizer)
    tokens = batch()[0]
    before = hf(tokens).logits
    kinds: list[type] = [type(module) for module in hf.modules()]
    wrapped: Any = model.bridge
    torch.testing.assert_close(wrapped(tokens), before, rtol=1e-3, atol=1e-3 * float(before.std()))
    assert model.bridge is wrapped
    assert [type(module) for module in hf.modules()] == kinds and torch.equal(
        hf(tokens).logits, before
    )
    assert all(weight.requires_grad for weight in hf.parameters())
    own = {weight.data_ptr() for weight in hf.parameters()}
    assert {weight.data_ptr() for weight in wrapped.original_model.parameters()} <= own


def test_a_model_in_memory_is_known_by_its_weights() -> None:
    both = twins("llama")
    assert both.plain.weights_hash == both.bridge.weights_hash
    hf = copy.deepcopy(both.hf)
    with torch.no_grad():
        hf.lm_head.weight[0, 0] += 1
    assert LanguageModel.from_transformers(hf).weights_hash != both.plain.weights_hash


def test_without_a_tokenizer_special_tokens_are_the_configurations() -> None:
    both = twins("llama")
    bare = LanguageModel.from_transformers(both.hf, name="mine")
    assert (bare.name, bare.special_ids) == ("mine", both.bridge.special_ids)
    assert (bare.bos_id, bare.eos_id, bare.pad_id) == (1, 2, 0)
    with pytest.raises(InputError, match="mine has no tokenizer"):
        bare.tokenize("a")
    with pytest.raises(InputError, match="a text has the token with id 259, but the embedding"):
        bare.logits(torch.tensor([[1, 259]]))


def test_a_layer_may_flatten_what_it_adds() -> None:
    """As OPT's does before its MLP."""
    shape: dict[str, Any] = {**BASE, "ffn_dim": 64, "word_embed_proj_dim": 32, "init_std": 0.3}
    hf = auto_model.from_config(OPTConfig(**shape)).eval()
    model = LanguageModel.from_transformers(hf)
    sites = [model.site(name) for name in model.site_names[5:10]]
    tokens, mask = batch()
    before, attention, middle, mlp, after = read_sites(model, sites, tokens, mask).values()
    assert torch.equal(before + attention, middle) and torch.equal(middle + mlp, after)
    plain = hf(tokens).logits
    with sites[3].write(lambda acts: acts * 0), sites[1].write(lambda acts: acts * 0):
        assert torch.equal(sites[4].read(tokens), sites[0].read(tokens))
    assert torch.equal(hf(tokens).logits, plain)


def test_a_layer_that_scales_what_it_adds_has_no_such_site() -> None:
    hf = auto_model.from_config(GraniteConfig(**BASE, residual_multiplier=0.22)).eval()
    model = LanguageModel.from_transformers(hf)
    kinds = ("resid_pre", "resid_post")
    assert model.site_names == [f"blocks.{i}.hook_{kind}" for i in range(3) for kind in kinds]


class Strange(GPT2LMHeadModel):
    """Layers by name, not in a list."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        body: Any = self.transformer
        body.h = nn.ModuleDict({str(n): layer for n, layer in enumerate(body.h)})


def test_a_model_without_a_list_of_layers_is_refused() -> None:
    hf = Strange(GPT2Config(n_embd=32, n_layer=3, n_head=4, vocab_size=259))
    with pytest.raises(InputError, match="Strange has no list of 3 decoder layers"):
        LanguageModel.from_transformers(hf)


def test_sites_are_read_without_the_bridge_where_both_agree() -> None:
    both = twins("qwen3")
    fast = both.bridge.fastest(both.bridge.site_names)
    assert fast is both.bridge.without_bridge() is both.bridge.fastest([])
    config: Any = fast.network.model.config
    assert config._attn_implementation == "sdpa"
    assert fast.weights_hash == both.bridge.weights_hash
    with both.bridge.site().write(lambda acts: acts + 1):
        assert both.bridge.fastest([]) is both.bridge
    assert both.plain.fastest(["blocks.0.hook_resid_pre"]) is both.plain


def test_sites_are_read_in_the_bridge_where_it_alone_has_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    both = twins("llama")
    said: list[str] = []
    monkeypatch.setattr(both.bridge, "_say", said.append)
    plain: Any = both.bridge.without_bridge()
    original = plain.network.model

    def unchanged(hidden: Tensor) -> Tensor:
        return hidden

    with monkeypatch.context() as patch:
        # As if transformers' layer added something else than the bridge's.
        patch.setattr(original.model.layers[1].mlp, "forward", unchanged)
        assert both.bridge.fastest(["blocks.0.hook_mlp_out"]) is plain
        assert both.bridge.fastest(["blocks.0.hook_mlp_out", "blocks.1.hook_resid_post"]) is (
            both.bridge
        )
    assert said == [
        f"{both.bridge.name} is read in TransformerLens' bridge, which alone has "
        "blocks.1.hook_resid_post"
    ]
