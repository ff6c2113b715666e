"""The strength sweep: its texts are those of generation, its measures those of the definitions."""

import math
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from sparsteer.kernels.numerics import row_norms
from sparsteer.sae import InputError, LanguageModel, SparseAutoencoder
from sparsteer.sae.config import TopKConfig
from sparsteer.steering import Intervention, LoadedRun, Sampling, SteeredFeature, generate
from sparsteer.steering.reading_back import read_back
from sparsteer.steering.residual import residual_sample
from sparsteer.steering.sweep import INCOHERENT_PERPLEXITY, SweepRow, strength_sweep
from sparsteer.steering.texts import prompt_tokens

SITE = "blocks.1.hook_resid_post"
PROMPTS = ["My day at work", "x", "a b c"]
SAMPLING = Sampling(max_new_tokens=8, temperature=0.9, seed=3)


@pytest.fixture(scope="module")
def loaded(tiny_model: LanguageModel) -> LoadedRun:
    sae = SparseAutoencoder(TopKConfig(32, 96, 6), seed=5)
    with torch.no_grad():
        sae.input_scale.fill_(0.21)
    return LoadedRun(tiny_model, tiny_model.site(SITE), sae)


def spec(strength: float = 1.0, *latents: int) -> Intervention:
    features = [
        SteeredFeature(index=latent, strength=strength * (1 + place), max_activation=3.0)
        for place, latent in enumerate(latents or (7,))
    ]
    return Intervention.of_features(site=SITE, features=tuple(features))


def test_each_strength_writes_what_generation_writes(loaded: LoadedRun) -> None:
    strengths = (2.0, 0.0, -1.5)
    rows = strength_sweep(loaded, spec(0.5, 7, 11), PROMPTS, strengths, SAMPLING)
    assert [row.strength for row in rows] == list(strengths)
    for row in rows:
        steered = spec(0.5 * row.strength, 7, 11)
        texts = generate(loaded.model, PROMPTS, SAMPLING, intervention=steered, sae=loaded.sae)
        assert row.texts == tuple(text.text for text in texts)
        assert row.repetition == pytest.approx(sum(text.repetition for text in texts) / 3)
        read = [
            read_back(loaded, prompt_tokens(loaded.model, prompt), text.tokens, (7, 11))
            for prompt, text in zip(PROMPTS, texts, strict=True)
        ]
        known = [math.log(each.perplexity) for each in read if each.perplexity is not None]
        assert row.perplexity == pytest.approx(math.exp(sum(known) / len(known)))
        mean = sum(each.activations[7] for each in read) / 3 / 3.0
        assert row.activations[7] == pytest.approx(mean)
    base = generate(loaded.model, PROMPTS, SAMPLING)
    assert rows[1].texts == tuple(text.text for text in base)
    assert not rows[1].likely_incoherent


def test_reading_back_is_the_loss_and_the_mean_code(loaded: LoadedRun) -> None:
    model = loaded.model
    prompt, rest = prompt_tokens(model, "hello there"), model.tokenize(" general, you are bold")
    tokens = torch.tensor([[*prompt, *rest]])
    losses = model.next_token_loss(tokens)[0, len(prompt) - 1 :]
    with torch.no_grad():
        codes = loaded.sae.encode(loaded.site.read(tokens)[0, len(prompt) :])
    dense = codes.dense(loaded.sae.config.n_latents).mean(dim=0)
    latents = tuple(int(latent) for latent in dense.topk(5).indices)
    found = read_back(loaded, prompt, rest, latents)
    assert found.perplexity == pytest.approx(math.exp(float(losses.double().mean())))
    for latent in latents:
        assert found.activations[latent] == pytest.approx(float(dense[latent]), rel=1e-5)
    nothing = read_back(loaded, prompt, [], latents)
    assert nothing.perplexity is None and set(nothing.activations.values()) == {0.0}


def test_a_push_that_is_too_strong_is_marked(loaded: LoadedRun) -> None:
    rows = strength_sweep(loaded, spec(), ["abc"], (0.0, 1e3, 1e38), SAMPLING)
    assert [row.likely_incoherent for row in rows] == [False, True, True]
    base, broken = rows[0].perplexity, rows[1].perplexity
    assert base is not None and broken is not None
    assert rows[1].repetition > 0.5 or broken > INCOHERENT_PERPLEXITY * base
    assert "not numbers" in rows[2].problem and rows[2].texts == ()


def test_rows_are_reported_as_they_come_and_stopping_ends_it(loaded: LoadedRun) -> None:
    told: list[SweepRow] = []
    entered = 0

    @contextmanager
    def turn() -> Generator[None]:
        nonlocal entered
        entered += 1
        yield

    rows = strength_sweep(
        loaded,
        spec(),
        ["abc"],
        (0.5, 1.0, 2.0),
        SAMPLING,
        report=told.append,
        stopped=lambda: len(told) == 2,
        turn=turn,
    )
    assert rows == told and [row.strength for row in rows] == [0.5, 1.0]
    assert entered >= 3 * SAMPLING.batch_size / 16 + 3  # each text and each reading has its turns
    assert strength_sweep(loaded, spec(), ["abc"], (1.0,), SAMPLING, stopped=lambda: True) == []
    assert not loaded.model.network.is_hooked  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("prompts", "strengths"), [([], (1.0,)), (["a"], ()), (["a"], (math.nan,)), ([""], (1.0,))]
)
def test_wrong_input(loaded: LoadedRun, prompts: list[str], strengths: Any) -> None:
    if prompts == [""]:  # BOS alone is a prompt
        assert strength_sweep(loaded, spec(), prompts, strengths, SAMPLING)
        return
    with pytest.raises(InputError):
        strength_sweep(loaded, spec(), prompts, strengths, SAMPLING)


def test_the_fraction_of_the_residual_is_the_ratio_of_lengths(loaded: LoadedRun) -> None:
    texts = [loaded.model.tokenize(text) for text in ("hello there", "rain and wind", "x")]
    sample = residual_sample(loaded, texts)
    assert sample.n_texts == 2  # the first token of a text is a sink, and "x" has no other
    norms = row_norms(sample.rows_ND)
    assert sample.median_norm == pytest.approx(float(norms.median()), rel=1e-6)
    push = 3.0 / 0.21  # max_activation / input_scale: a decoder row has length 1
    assert sample.fraction(spec(1.0), loaded.sae) == pytest.approx(
        float((push / norms).median()), rel=1e-5
    )
    assert sample.fraction(spec(-2.0), loaded.sae) == pytest.approx(
        2 * sample.fraction(spec(1.0), loaded.sae)
    )
    with pytest.raises(InputError, match="no feature 500"):
        sample.fraction(spec(1.0, 500), loaded.sae)
    with pytest.raises(InputError, match="no text"):
        residual_sample(loaded, [[]])
