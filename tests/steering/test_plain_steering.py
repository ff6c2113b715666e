"""Steering a plain transformers model: its own `generate`, as the bridge and one by one."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsteer.sae.autoencoder import SparseAutoencoder
from sparsteer.steering.config import Sampling
from sparsteer.steering.generation import generate
from sparsteer.steering.interventions.intervention import TIERS, Intervention
from sparsteer.steering.interventions.steering import steer
from sparsteer.steering.texts import prompt_tokens

from .model_families import N_TOKENS, PROMPTS
from .plain_families import SIX, Twins, firing_spec, hooks, twins

GREEDY = {"max_new_tokens": N_TOKENS, "do_sample": False, "pad_token_id": 0}

families = pytest.mark.parametrize("family", SIX)
tiers = pytest.mark.parametrize("tier", TIERS)
quick = pytest.mark.slow_except(
    "constant-gpt_neox", "per_input-gpt_neox", "per_input-gemma3_text", "per_token-gemma3_text"
)


def double(family: str) -> Twins:
    """In float64, so that no greedy choice hangs on rounding; but transformers' eager attention,
    which is all that Gemma-2 has, gives NaN for padding there."""
    return twins(family, torch.float32 if family == "gemma2" else torch.float64)


def left_padded(rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    width = max(map(len, rows))
    padded = [[0] * (width - len(row)) + list(row) for row in rows]
    tokens = torch.tensor(padded)
    return {"input_ids": tokens, "attention_mask": (tokens > 0).long()}


def prompts(both: Twins) -> list[list[int]]:
    return [prompt_tokens(both.bridge, prompt) for prompt in PROMPTS]


def new_tokens(out: Tensor, n_prompt: int) -> list[list[int]]:
    """What was generated behind the prompts, as far as the end of each text."""
    behind: Any = out[:, n_prompt:]
    rows: list[list[int]] = behind.tolist()
    return [row[: row.index(2)] if 2 in row else row for row in rows]


def site_of(family: str) -> str:
    return "blocks.1.hook_mlp_out" if family == "gemma3_text" else "blocks.1.hook_resid_post"


@families
@tiers
@quick
@torch.no_grad()
def test_generate_of_transformers_gives_our_own_text(family: str, tier: str) -> None:
    both = double(family)
    sae, spec = firing_spec(both, tier, site_of(family))
    ours = generate(
        both.bridge, PROMPTS, Sampling(max_new_tokens=N_TOKENS), intervention=spec, sae=sae
    )
    batch = left_padded(prompts(both))
    n_prompt = batch["input_ids"].shape[1]
    unsteered = both.hf.generate(**batch, **GREEDY)
    with steer(both.hf, sae, spec):
        cached = both.hf.generate(**batch, **GREEDY)
    with steer(both.hf, sae, spec, prompt_columns=n_prompt):
        uncached = both.hf.generate(**batch, **GREEDY, use_cache=False)
    found = new_tokens(cached, n_prompt)
    assert found == [list(text.tokens) for text in ours]
    assert new_tokens(uncached, n_prompt) == found
    alone: list[list[int]] = []
    for row in prompts(both):
        with steer(both.plain, sae, spec):
            alone += new_tokens(both.hf.generate(torch.tensor([row]), **GREEDY), len(row))
    assert alone == found
    before = both.hf(**batch).logits
    with steer(both.hf, sae, spec):
        assert float((both.hf(**batch).logits - before)[:, -1].abs().max()) > 1e-2
    assert torch.equal(both.hf(**batch).logits, before)
    assert torch.equal(both.hf.generate(**batch, **GREEDY), unsteered)
    assert hooks(both.hf) == 0
    assert [
        list(text.tokens)
        for text in generate(
            both.plain, PROMPTS, Sampling(max_new_tokens=N_TOKENS), intervention=spec, sae=sae
        )
    ] == found


def steered_alone(
    both: Twins, sae: SparseAutoencoder, spec: Intervention, row: list[int], n_prompt: int
) -> Tensor:
    """The bridge's logits of one text, read as a whole."""
    with steer(both.bridge, sae, spec, prompt_columns=n_prompt):
        return both.bridge.logits(torch.tensor([row]))[0]


@families
@tiers
@quick
def test_sampled_rows_of_a_batch_are_steered_as_alone(family: str, tier: str) -> None:
    both = double(family)
    sae, spec = firing_spec(both, tier, site_of(family))
    rows = prompts(both)
    options: dict[str, Any] = {"return_dict_in_generate": True, "output_logits": True}
    batch = left_padded(rows)
    torch.default_generator.manual_seed(0)
    with steer(both.hf, sae, spec):
        found = both.hf.generate(
            **batch, **{**GREEDY, "do_sample": True}, top_k=0, num_return_sequences=2, **options
        )
    n_prompt = batch["input_ids"].shape[1]
    assert len({tuple(row) for row in found.sequences[:, n_prompt:].tolist()}) == 6
    logits_BLV = torch.stack(found.logits, dim=1)
    for number, tokens in enumerate(new_tokens(found.sequences, n_prompt)):
        prompt = rows[number // 2]
        whole = steered_alone(both, sae, spec, [*prompt, *tokens], len(prompt))
        expected = whole[len(prompt) - 1 : len(prompt) - 1 + max(1, len(tokens))]
        rounding = 1e-3 if family == "gemma2" else 1e-5
        torch.testing.assert_close(
            logits_BLV[number, : len(expected)].double(),
            expected.double(),
            rtol=rounding,
            atol=rounding,
        )


@tiers
def test_no_strength_changes_no_bit(tier: str) -> None:
    both = double("gemma3_text")
    sae, spec = firing_spec(both, tier, "blocks.1.hook_resid_post")
    features = [{**vars(feature), "strength": 0.0} for feature in spec.features]
    idle = Intervention.from_dict(spec.to_dict() | {"features": features})
    batch = left_padded(prompts(both))
    before = both.hf(**batch).logits
    with steer(both.hf, sae, idle):
        assert hooks(both.hf) == 0
        assert torch.equal(both.hf(**batch).logits, before)


def test_interventions_on_a_model_add_up_however_it_is_wrapped() -> None:
    """Every gate reads the residual before any of them."""
    both = double("gpt_neox")
    sae, spec = firing_spec(both, "per_token", "blocks.1.hook_resid_post")
    one, other = (
        Intervention.of_features(site=spec.site, features=(feature,), tier=tier)
        for feature, tier in zip(spec.features, ("per_token", "constant"), strict=True)
    )
    batch = left_padded(prompts(both))
    mask = batch["attention_mask"].bool()
    found: list[Tensor] = []
    for first, second in ((one, other), (other, one)):
        with steer(both.hf, sae, first), steer(both.plain, sae, second):
            found.append(both.hf(**batch).logits[mask])
    with steer(both.bridge, sae, one), steer(both.bridge, sae, other):
        found.append(both.bridge.logits(batch["input_ids"], mask)[mask])
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])
    assert hooks(both.hf) == 0


def test_beam_search_is_for_the_constant_tier() -> None:
    both = double("gpt_neox")
    batch = left_padded(prompts(both))
    for tier in TIERS:
        sae, spec = firing_spec(both, tier, "blocks.1.hook_resid_post")
        with steer(both.hf, sae, spec):
            if tier == "constant":
                assert len(both.hf.generate(**batch, **GREEDY, num_beams=2)) == len(PROMPTS)
                continue
            with pytest.raises(
                ValueError, match="generate with num_beams=1, or steer all positions with the"
            ):
                both.hf.generate(**batch, **GREEDY, num_beams=2)
        assert hooks(both.hf) == 0


def test_a_mask_that_a_gate_cannot_read_is_refused() -> None:
    both = double("llama")
    sae, spec = firing_spec(both, "per_token", "blocks.1.hook_resid_post")
    tokens = left_padded(prompts(both))["input_ids"]
    mask = torch.ones(3, 1, tokens.shape[1], tokens.shape[1], dtype=torch.bool).tril()
    with (
        steer(both.hf, sae, spec),
        pytest.raises(ValueError, match="attention_mask of two dimensions"),
    ):
        both.hf(input_ids=tokens, attention_mask=mask)
    assert hooks(both.hf) == 0
