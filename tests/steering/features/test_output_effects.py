"""Output score and change of confidence: against their definitions, and on planted latents."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsteer.kernels.numerics import row_norms
from sparsteer.sae import InputError, LanguageModel, SparseAutoencoder
from sparsteer.sae.config import TopKConfig
from sparsteer.steering.features.output_effects import measure_outputs, output_score
from sparsteer.steering.features.vocabulary import Vocabulary, token_bytes
from sparsteer.steering.loading import LoadedRun

N_LATENTS, N_TOKENS = 24, 5
PROMPT = "From here,"


def run_of(model: LanguageModel, layer: int) -> LoadedRun:
    sae = SparseAutoencoder(TopKConfig(model.d_model, N_LATENTS, 6), seed=3)
    sae.input_scale.fill_(0.4)
    return LoadedRun(model, model.site(f"blocks.{layer}.hook_resid_post"), sae)


def plant(run: LoadedRun, latent: int) -> int:
    """Let a latent write the direction that raises one token's logit most of all; the token."""
    network: Any = run.model.network.model
    unembedding_VD: Tensor = network.get_output_embeddings().weight.detach()
    token = int(row_norms(unembedding_VD).argmax())
    with torch.no_grad():
        run.sae.W_dec[latent] = torch.nn.functional.normalize(unembedding_VD[token], dim=-1)
    return token


@torch.no_grad()
def by_definition(run: LoadedRun, latent: int, factor: float) -> tuple[float, float]:
    """Score and confidence C of one latent, amplified by so much, with nothing batched."""
    model, site, sae = run
    ids = [] if model.bos_id is None else [model.bos_id]
    tokens = torch.tensor([[*ids, *model.tokenize(PROMPT)]])
    last = model.site(f"blocks.{model.n_layers - 1}.hook_resid_post")
    with last.write(lambda h: sae.W_dec[latent].expand_as(h) * model.d_model**0.5):
        own = model.logits(tokens)[0, 0].topk(N_TOKENS).indices

    def amplify(h: Tensor) -> Tensor:
        codes = sae.encode(h)
        dense = codes.dense(N_LATENTS)
        error = h - sae.decode(codes)
        dense[:, -1, latent] += factor * dense[:, -1].max()
        decoded = dense @ sae.W_dec + sae.b_dec
        return decoded / sae.decoder_scale + sae.decoder_center + error

    with site.write(amplify):
        p = model.logits(tokens)[0, -1].double().softmax(-1)
    order = p.argsort(descending=True).numpy().tolist()
    rank = min(order.index(int(token)) for token in own)
    return float(p[own].max()) * (1 - rank / len(p)), -math.log(float(p.max()))


@pytest.mark.parametrize(("layer", "plain"), [(0, False), (2, True)])
def test_both_are_what_their_definitions_say(
    tiny_model: LanguageModel, layer: int, plain: bool
) -> None:
    run = run_of(tiny_model.without_bridge() if plain else tiny_model, layer)
    features = [5, 0, 23]
    found = measure_outputs(run, features, prompt=PROMPT, n_tokens=N_TOKENS, batch_size=2)
    _, base = by_definition(run, 0, 0.0)
    for feature, effect in zip(features, found, strict=True):
        score, unsure = by_definition(run, feature, 10.0)
        assert effect.score == pytest.approx(score, rel=1e-3)
        assert effect.confidence_change == pytest.approx(unsure - base, abs=1e-3)
    unamplified, _ = by_definition(run, features[0], 0.0)
    assert found[0].unamplified_score == pytest.approx(unamplified, rel=1e-3)


def test_models_that_cap_their_logits_or_add_positions(other_model: LanguageModel) -> None:
    run = run_of(other_model, 1)
    (effect,) = measure_outputs(run, [4], prompt=PROMPT, n_tokens=N_TOKENS)
    score, unsure = by_definition(run, 4, 10.0)
    _, base = by_definition(run, 4, 0.0)
    assert effect.score == pytest.approx(score, rel=1e-3)
    assert effect.confidence_change == pytest.approx(unsure - base, abs=1e-3)


def test_a_latent_that_alone_says_a_token_has_nearly_the_largest_score(
    tiny_model: LanguageModel,
) -> None:
    run = run_of(tiny_model, 2)
    token = plant(run, 9)
    found = measure_outputs(run, range(N_LATENTS), prompt=PROMPT, amplification=1000.0)
    best = max(range(N_LATENTS), key=lambda feature: found[feature].score)
    assert best == 9 and found[9].score > 0.9 > 2 * found[9].unamplified_score
    (said,) = Vocabulary(token_bytes(tiny_model.tokenizer)).texts([token])
    assert found[9].own_tokens[0] == found[9].next_token == said


def test_without_amplification_nothing_changes(tiny_model: LanguageModel) -> None:
    run = run_of(tiny_model, 1)
    for effect in measure_outputs(run, [1, 2], prompt=PROMPT, amplification=0.0):
        assert effect.score == pytest.approx(effect.unamplified_score)
        assert effect.confidence_change == pytest.approx(0, abs=1e-6)


def test_the_score_by_hand() -> None:
    log_p = torch.tensor([0.5, 0.2, 0.2, 0.1], dtype=torch.float64).log()
    assert output_score(log_p, torch.tensor([0, 3])) == pytest.approx(0.5)
    assert output_score(log_p, torch.tensor([3])) == pytest.approx(0.1 * (1 - 3 / 4))
    assert output_score(log_p, torch.tensor([2, 3])) == pytest.approx(0.2 * (1 - 1 / 4))


def test_the_cost_is_said_before_and_odd_prompts_are_read(tiny_model: LanguageModel) -> None:
    run = run_of(tiny_model, 1)
    said: list[str] = []
    measure_outputs(run, range(5), prompt="a\0b 🎉", batch_size=2, say=said.append)
    assert said == [
        "measuring what 5 features do to the next token: 8 forward passes of at most 2 rows of 9 "
        "tokens"
    ]


def test_a_prompt_on_which_nothing_fires(tiny_model: LanguageModel) -> None:
    run = run_of(tiny_model, 1)
    run.sae.b_enc.data.fill_(-1e9)
    with pytest.raises(InputError, match="no latent fires at the end of 'From here,'"):
        measure_outputs(run, [1], prompt=PROMPT)
