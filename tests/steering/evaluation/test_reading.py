"""What two models say of given tokens: exact against plain forward passes, gates as in
generation."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div

from sparsteer.sae.autoencoder import SparseAutoencoder
from sparsteer.sae.common.errors import InputError
from sparsteer.sae.config import TopKConfig
from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.steering.config import Sampling
from sparsteer.steering.evaluation.dose import dose_of, generated_dose, neutral_dose
from sparsteer.steering.evaluation.fire_rate import fire_rate
from sparsteer.steering.evaluation.fluency import (
    continuation_perplexity,
    cost_of,
    distinct_n,
    neutral_cost,
    text_fluency,
)
from sparsteer.steering.evaluation.reading import (
    continuation_logits,
    read_continuations,
    read_texts,
    text_tokens,
)
from sparsteer.steering.generation import generate
from sparsteer.steering.interventions.intervention import TIERS, Intervention, SteeredFeature
from sparsteer.steering.interventions.steering import steer
from sparsteer.steering.texts import prompt_tokens

SITE = "blocks.1.hook_resid_post"
PROMPTS = ["You are", "The cat sat on", "x", "Why did the", "They said"]
TEXTS = ["A sentence of some length.", "No", "x", "", "Ordinary words, and more of them."]

Context = Callable[[], AbstractContextManager[object]]


@pytest.fixture(scope="module")
def model(tiny_model_folder: object) -> LanguageModel:
    return LanguageModel.load(str(tiny_model_folder), dtype="float64")


@pytest.fixture(scope="module")
def sae() -> SparseAutoencoder:
    return SparseAutoencoder(TopKConfig(32, 64, 3), seed=1).double()


def steering(
    model: LanguageModel, sae: SparseAutoencoder, tier: str, strength: float = 2.0
) -> Context:
    feature = SteeredFeature(index=7, strength=strength, sign=-1, max_activation=4.0)
    intervention = Intervention.of_features(
        site=SITE, features=(feature,), tier=tier, threshold=0.05
    )
    return lambda: steer(model, sae, intervention)


def pushed(model: LanguageModel, size: float) -> Context:
    direction = torch.linspace(-1, 1, 32, dtype=torch.float64)
    return lambda: model.site(SITE).write(lambda h_BLD: h_BLD + size * direction)


def written(
    model: LanguageModel, context: Context, length: int = 9
) -> tuple[list[list[int]], list[tuple[int, ...]]]:
    prompts = [prompt_tokens(model, prompt) for prompt in PROMPTS]
    with context():
        texts = generate(model, PROMPTS, Sampling(max_new_tokens=length, temperature=1.0, seed=3))
    return prompts, [text.tokens for text in texts]


def alone(model: LanguageModel, tokens: Sequence[int], context: Context) -> Tensor:
    with context():
        return model.logits(torch.tensor([tokens]))[0].log_softmax(-1)


@pytest.mark.slow_except("3")
@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_continuations_as_single_whole_passes_say(model: LanguageModel, batch_size: int):
    context = pushed(model, 0.5)
    prompts, continuations = written(model, context)
    continuations[1] = continuations[1][:1]
    continuations[3] = ()
    found = read_continuations(model, prompts, continuations, context, batch_size=batch_size)
    assert list(map(int, found.texts_N)) == [
        number for number, tokens in enumerate(continuations) for _ in tokens
    ]
    assert list(map(int, found.tokens_P)) == [len(tokens) for tokens in continuations]
    base: list[Tensor] = []
    kl: list[Tensor] = []
    for prompt, continuation in zip(prompts, continuations, strict=True):
        part = slice(len(prompt) - 1, len(prompt) + len(continuation) - 1)
        logs = [
            alone(model, [*prompt, *continuation], each)[part] for each in (nullcontext, context)
        ]
        targets = torch.tensor(continuation, dtype=torch.int64)
        base.append(cross_entropy(logs[0], targets, reduction="none"))
        kl.append(kl_div(logs[0], logs[1], log_target=True, reduction="none").sum(-1))
    assert torch.allclose(found.base_loss_N, torch.cat(base), atol=1e-10)
    assert torch.allclose(found.kl_N, torch.cat(kl), atol=1e-10)


@pytest.mark.slow_except("per_token")
@pytest.mark.parametrize("tier", TIERS)
def test_what_wrote_a_text_greedily_finds_its_tokens_likeliest_again(
    model: LanguageModel, sae: SparseAutoencoder, tier: str
):
    """Only if every gate is open just where it was open in generation."""
    context = steering(model, sae, tier, strength=6.0)
    prompts = [prompt_tokens(model, prompt) for prompt in PROMPTS]
    with context():
        texts = generate(model, PROMPTS, Sampling(max_new_tokens=12))
    continuations = [text.tokens for text in texts]
    logits_BCV = continuation_logits(model, prompts, continuations, context)
    for row, tokens in enumerate(continuations):
        assert list(map(int, logits_BCV[row, : len(tokens)].argmax(-1))) == list(tokens)
    assert (read_continuations(model, prompts, continuations, context).kl_N > 0).any()


@pytest.mark.slow
def test_the_gate_of_a_whole_input_reads_the_prompt_alone(
    model: LanguageModel, sae: SparseAutoencoder
):
    """Where only the continuation fires, what stands before the firing token stays unsteered."""
    context = steering(model, sae, "per_input")
    prompts, continuations = written(model, nullcontext, length=30)
    found = read_continuations(model, prompts, continuations, context)
    kinds = set[str]()
    for number in range(len(prompts)):
        moved = found.kl_N[found.texts_N == number] > 1e-12
        kinds.add("all" if moved.all() else "none" if not moved.any() else "some")
        if not moved.all() and moved.any():
            first = int(moved.nonzero()[0])
            assert moved[first:].all()
    assert "some" in kinds


@pytest.mark.slow
def test_nothing_moves_where_nothing_is_steered(model: LanguageModel, sae: SparseAutoencoder):
    prompts, continuations = written(model, nullcontext)
    for context in (nullcontext, steering(model, sae, "constant", strength=0.0), pushed(model, 0)):
        found = read_continuations(model, prompts, continuations, context)
        assert not found.kl_N.any()
        assert torch.equal(found.base_loss_N, found.steered_loss_N)
        assert generated_dose(model, prompts, continuations, context).p95 == 0
        cost = neutral_cost(model, TEXTS, context)
        assert (cost.ratio.low, cost.ratio.mean, cost.ratio.high) == (1, 1, 1)
        assert neutral_dose(model, TEXTS, context).mean.mean == 0
        assert fire_rate(model, TEXTS, context, SITE).tokens.mean == 0


@pytest.mark.slow_except("4")
@pytest.mark.parametrize("batch_size", [1, 4])
def test_texts_as_single_passes_say(model: LanguageModel, batch_size: int):
    context = pushed(model, 0.5)
    texts = text_tokens(model, TEXTS, max_length=20)
    assert [len(text) for text in texts] == [20, 3, 2, 1, 20]
    found = read_texts(model, texts, context, batch_size=batch_size)
    assert list(map(int, found.tokens_P)) == [19, 2, 1, 0, 19]
    for number, text in enumerate(texts):
        logs = [alone(model, text, each)[:-1] for each in (nullcontext, context)]
        targets = torch.tensor(text[1:], dtype=torch.int64)
        here = found.texts_N == number
        for values, log in zip((found.base_loss_N, found.steered_loss_N), logs, strict=True):
            expected = cross_entropy(log, targets, reduction="none")
            assert torch.allclose(values[here], expected, atol=1e-10)
        kl = kl_div(logs[0], logs[1], log_target=True, reduction="none").sum(-1)
        assert torch.allclose(found.kl_N[here], kl, atol=1e-10)


def test_the_dose_of_a_small_push_grows_with_its_square(model: LanguageModel):
    small, twice = (neutral_dose(model, TEXTS, pushed(model, size)) for size in (1e-3, 2e-3))
    assert twice.mean.mean / small.mean.mean == pytest.approx(4, rel=0.02)
    assert twice.p95 / small.p95 == pytest.approx(4, rel=0.05)


@pytest.mark.slow
def test_the_order_of_texts_changes_nothing(model: LanguageModel):
    context = pushed(model, 0.5)
    prompts, continuations = written(model, context)
    turned = (prompts[::-1], continuations[::-1])
    one, two = (
        dose_of(read_continuations(model, *each, context))
        for each in ((prompts, continuations), turned)
    )
    assert one.p95 == pytest.approx(two.p95)
    assert one.mean.mean == pytest.approx(two.mean.mean)
    assert continuation_perplexity(model, prompts, continuations).mean == pytest.approx(
        continuation_perplexity(model, *turned).mean
    )


@pytest.mark.slow
def test_perplexity_is_that_of_all_tokens_together(model: LanguageModel):
    prompts, continuations = written(model, nullcontext)
    continuations[2] = ()
    figures = read_continuations(model, prompts, continuations)
    expected = figures.base_loss_N.mean().exp()
    assert continuation_perplexity(model, prompts, continuations).mean == pytest.approx(expected)
    texts = read_texts(model, text_tokens(model, TEXTS), pushed(model, 2.0))
    cost = cost_of(texts)
    assert cost.perplexity == pytest.approx(texts.steered_loss_N.mean().exp())
    assert cost.ratio.mean == pytest.approx(cost.perplexity / cost.base_perplexity)
    assert cost.ratio.mean > 1


@pytest.mark.slow_except("per_token")
@pytest.mark.parametrize("tier", ["constant", "per_token"])
def test_the_fire_rate_is_that_of_the_gate(model: LanguageModel, sae: SparseAutoencoder, tier: str):
    found = fire_rate(model, TEXTS, steering(model, sae, tier), SITE, batch_size=2)
    open_at, content = 0, 0
    for tokens in text_tokens(model, TEXTS):
        batch = torch.tensor([tokens])
        h_BLD = model.site(SITE).read(batch)
        codes = sae.encode(h_BLD[0])
        acts = torch.where(codes.indices == 7, codes.values, 0).sum(-1)
        is_content = ~model.excluded_tokens(batch)[0]
        fires = acts / sae.input_scale > 0.05 * 4.0
        open_at += int((is_content & (fires if tier == "per_token" else True)).sum())
        content += int(is_content.sum())
    assert found.tokens.mean == pytest.approx(open_at / content)
    assert 0 < found.texts.mean <= 1


def test_variety_and_repetition_by_hand():
    assert distinct_n([[1, 2, 1], [1, 2]], 1) == 2 / 5
    assert distinct_n([[1, 2, 1], [1, 2]], 2) == 2 / 3
    assert distinct_n([[1]], 2) == 0
    found = text_fluency([[1, 2, 3, 1, 2, 3], [4, 5, 6]])
    assert found.repetition == pytest.approx((1 / 4) / 2)
    assert found.distinct_3 == 4 / 5


def test_what_cannot_be_read_is_said(model: LanguageModel):
    with pytest.raises(InputError, match="1 prompts do not fit 2"):
        read_continuations(model, [[1]], [[5], [6]])
    with pytest.raises(InputError, match="more than the 512"):
        read_continuations(model, [[1]], [[5] * 512])
    with pytest.raises(InputError, match="lower the strength"):
        read_continuations(model, [[1]], [[5, 6]], pushed(model, float("inf")))
    with pytest.raises(InputError, match="lower the strength"):
        neutral_cost(model, TEXTS, pushed(model, float("nan")))
    with pytest.raises(InputError, match="no text has two tokens"):
        neutral_cost(model, [""])
    with pytest.raises(InputError, match="no continuations"):
        text_fluency([])
