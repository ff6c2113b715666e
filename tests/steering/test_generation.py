"""Generation: in batches and with a cache as one by one and without, steered or not."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparsteer.sae.autoencoder import SparseAutoencoder
from sparsteer.sae.common.errors import InputError
from sparsteer.sae.config import TopKConfig
from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.steering.config import Sampling
from sparsteer.steering.generation import Continuation, Generation, generate
from sparsteer.steering.interventions.added_vector import added_vector
from sparsteer.steering.interventions.intervention import Intervention
from sparsteer.steering.interventions.spec import SteeredFeature
from sparsteer.steering.texts import continuation_text, prompt_tokens

SITE = "blocks.1.hook_resid_post"
TIERS: list[str] = ["constant", "per_input", "per_token"]
N_TOKENS = 12
PROMPTS = ["Hi", "The quick brown fox", "x", "a b " * 30, "Where is it? " * 3, "?"]


@pytest.fixture(scope="module")
def model(tiny_model_folder: Path) -> LanguageModel:
    """The tiny model in double precision, so that no greedy choice hangs on rounding."""
    return LanguageModel.load(str(tiny_model_folder), dtype="float64")


@pytest.fixture(scope="module")
def sae() -> SparseAutoencoder:
    return make_sae(32, 96, torch.float64)


def make_sae(d_model: int, n_latents: int, dtype: torch.dtype) -> SparseAutoencoder:
    """A random autoencoder whose latents fire at some positions of some texts."""
    sae = SparseAutoencoder(TopKConfig(d_model, n_latents, 4), seed=5).to(dtype)
    draw = torch.Generator().manual_seed(6)
    with torch.no_grad():
        sae.input_scale.fill_(0.21)
        sae.b_enc.data += 0.2 * torch.randn(n_latents, generator=draw)
    return sae


def spec_for(
    latents: Sequence[int], tier: str, strength: float = 2.0, site: str = SITE
) -> Intervention:
    features = tuple(
        SteeredFeature(index=latent, strength=strength, sign=sign, max_activation=3.0)
        for latent, sign in zip(latents, (1, -1), strict=False)
    )
    return Intervention.of_features(site=site, features=features, tier=tier, threshold=0.05)


def content_activations(
    model: LanguageModel, sae: SparseAutoencoder, site: str, ids: Sequence[int]
) -> Float[Tensor, "L F"]:
    """A text's dense codes, 0 at attention sinks."""
    tokens = torch.tensor([list(ids)])
    with torch.no_grad():
        codes = sae.encode(model.site(site).read(tokens))
    acts_LF = codes.dense(sae.config.n_latents)[0]
    return acts_LF.masked_fill(model.excluded_tokens(tokens)[0][:, None], 0)


def firing(
    model: LanguageModel, sae: SparseAutoencoder, spec: Intervention, ids: Sequence[int]
) -> Bool[Tensor, "L"]:
    """Where a text fires, from dense codes and the definition."""
    acts_LF = content_activations(model, sae, spec.site, ids)
    fires = torch.zeros(len(ids), dtype=torch.bool)
    for feature in spec.features:
        fires |= acts_LF[:, feature.index] > spec.threshold * feature.max_activation
    return fires


def steered_positions(
    model: LanguageModel,
    sae: SparseAutoencoder,
    spec: Intervention,
    ids: Sequence[int],
    n_prompt: int,
) -> Bool[Tensor, "L"]:
    """Where a text is steered, by the definition of the tiers."""
    fires = firing(model, sae, spec, ids)
    match spec.tier:
        case "constant":
            return torch.ones(len(ids), dtype=torch.bool)
        case "per_token":
            return fires
        case "per_input":
            if fires[:n_prompt].any():
                return torch.ones(len(ids), dtype=torch.bool)
            return torch.tensor([bool(fires[n_prompt : t + 1].any()) for t in range(len(ids))])
        case other:
            raise ValueError(f"{other} is none of the tiers")


def logits_by_definition(
    model: LanguageModel,
    sae: SparseAutoencoder,
    spec: Intervention | None,
    ids: Sequence[int],
    n_prompt: int,
) -> Float[Tensor, "L V"]:
    tokens = torch.tensor([list(ids)])
    if spec is None:
        return model.logits(tokens)[0]
    positions = steered_positions(model, sae, spec, ids, n_prompt)
    delta = added_vector(spec, sae)

    def edit(h_BLD: Tensor) -> Tensor:
        return torch.where(positions[None, :, None], h_BLD + delta.to(h_BLD), h_BLD)

    with model.site(spec.site).write(edit):
        return model.logits(tokens)[0]


def greedy_by_definition(
    model: LanguageModel,
    sae: SparseAutoencoder,
    spec: Intervention | None,
    prompt: Sequence[int],
    n_tokens: int,
) -> list[int]:
    """One text alone, the whole of it anew for each token."""
    ids = list(prompt)
    for _ in range(n_tokens):
        token = int(logits_by_definition(model, sae, spec, ids, len(prompt))[-1].argmax())
        if token == model.eos_id:
            break
        ids.append(token)
    return ids[len(prompt) :]


def latents_of_some_texts(
    model: LanguageModel,
    sae: SparseAutoencoder,
    prompts: Sequence[str],
    n_tokens: int,
    site: str = SITE,
) -> list[int]:
    """Two latents of which one or both fire in some prompts, in some texts only later, in others
    not at all."""
    early_NF: list[Tensor] = []
    ever_NF: list[Tensor] = []
    for prompt in prompts:
        row = prompt_tokens(model, prompt)
        text = row + greedy_by_definition(model, sae, None, row, n_tokens)
        fires_LF = content_activations(model, sae, site, text) > 0.05 * 3.0
        early_NF.append(fires_LF[: len(row)].any(0))
        ever_NF.append(fires_LF.any(0))
    for latent in range(sae.config.n_latents - 1):
        pair = [latent, latent + 1]
        early, ever = (sum(bool(r[pair].any()) for r in rows) for rows in (early_NF, ever_NF))
        if 0 < early < ever < len(prompts):
            return pair
    raise AssertionError("no latents show every case; choose another autoencoder")


def assert_steered_where_it_says(
    model: LanguageModel,
    sae: SparseAutoencoder,
    spec: Intervention | None,
    prompt: Sequence[int],
    found: Continuation,
) -> None:
    """At the length limit the last token is chosen and not read; an end token is neither's."""
    ids = [*prompt, *found.tokens][: None if found.stopped == "eos" else -1]
    steered = torch.zeros(len(ids), dtype=torch.bool)
    if spec is not None:
        steered = steered_positions(model, sae, spec, ids, len(prompt))
    places = [int(place) for place in steered.nonzero()[:, 0]]
    assert found.steered_tokens == len(places)
    assert found.steered_from == (places[0] if places else None)


@pytest.fixture(scope="module")
def latents(model: LanguageModel, sae: SparseAutoencoder) -> list[int]:
    return latents_of_some_texts(model, sae, PROMPTS, N_TOKENS)


@pytest.mark.slow
@pytest.mark.parametrize("tier", [None, *TIERS])
def test_batched_and_cached_is_one_by_one_and_uncached(
    model: LanguageModel, sae: SparseAutoencoder, latents: list[int], tier: str | None
) -> None:
    n_tokens = N_TOKENS
    spec = None if tier is None else spec_for(latents, tier)
    rows = [prompt_tokens(model, prompt) for prompt in PROMPTS]
    expected = [greedy_by_definition(model, sae, spec, row, n_tokens) for row in rows]
    base = [greedy_by_definition(model, sae, None, row, n_tokens) for row in rows]
    if tier is not None:
        assert expected != base
        assert tier == "constant" or any(e == b for e, b in zip(expected, base, strict=True))
    for batch_size in (1, 3, 6):
        sampling = Sampling(max_new_tokens=n_tokens, batch_size=batch_size)
        found = generate(model, PROMPTS, sampling, intervention=spec, sae=sae if spec else None)
        assert [list(each.tokens) for each in found] == expected
        for row, each in zip(rows, found, strict=True):
            assert_steered_where_it_says(model, sae, spec, row, each)
    sampling = Sampling(max_new_tokens=n_tokens)
    uncached = Generation(
        model, rows, sampling, intervention=spec, sae=sae if spec else None, use_cache=False
    )
    while not uncached.done:
        uncached.step()
    assert uncached.generated == expected
    assert uncached.results() == found


@pytest.mark.slow
@pytest.mark.parametrize("tier", TIERS)
def test_other_models_too(other_model: LanguageModel, tier: str) -> None:
    other = LanguageModel.load(other_model.name, dtype="float64")
    sae = make_sae(32, 96, torch.float64)
    prompts = ["Hi", "The quick brown fox jumps", "x", "?"]
    latents = latents_of_some_texts(other, sae, prompts, 8)
    spec = spec_for(latents, tier)
    found = generate(other, prompts, Sampling(max_new_tokens=8), intervention=spec, sae=sae)
    rows = [prompt_tokens(other, prompt) for prompt in prompts]
    expected = [greedy_by_definition(other, sae, spec, row, 8) for row in rows]
    assert [list(each.tokens) for each in found] == expected


@pytest.mark.slow
def test_generations_may_take_turns(
    model: LanguageModel, sae: SparseAutoencoder, latents: list[int]
) -> None:
    sampling = Sampling(max_new_tokens=9)
    rows = [prompt_tokens(model, prompt) for prompt in PROMPTS]
    specs = [None, *(spec_for(latents, tier) for tier in TIERS)]
    running = [
        Generation(model, rows, sampling, intervention=spec, sae=sae if spec else None)
        for spec in specs
    ]
    for _ in range(9):
        for each in running:
            each.step()
    for each, spec in zip(running, specs, strict=True):
        alone = generate(model, PROMPTS, sampling, intervention=spec, sae=sae if spec else None)
        assert each.done and each.results() == alone


def test_a_text_stops_at_its_end_token_and_the_others_go_on(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling = Sampling(max_new_tokens=8)
    whole = generate(model, PROMPTS, sampling)
    end = whole[0].tokens[3]
    monkeypatch.setattr(model, "eos_id", end)
    cut = generate(model, PROMPTS, sampling)
    for before, after in zip(whole, cut, strict=True):
        stops = end in before.tokens
        kept = before.tokens[: before.tokens.index(end)] if stops else before.tokens
        assert after.tokens == kept
        assert after.stopped == ("eos" if stops else "length")
    assert {each.stopped for each in cut} == {"eos", "length"}
    only = Generation(model, [prompt_tokens(model, PROMPTS[0])], sampling)
    steps = 0
    while not only.done:
        only.step()
        steps += 1
    assert steps == whole[0].tokens.index(end) + 1


def test_the_models_own_settings_may_name_more_end_tokens(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling = Sampling(max_new_tokens=8)
    (whole,) = generate(model, PROMPTS[:1], sampling)
    bridge: Any = model.bridge
    settings = bridge.original_model.generation_config
    monkeypatch.setattr(settings, "eos_token_id", [2, whole.tokens[2]])
    (cut,) = generate(model, PROMPTS[:1], sampling)
    assert cut.stopped == "eos"
    assert len(cut.tokens) <= 2


# Sampling


@pytest.mark.slow
def test_a_rows_sample_does_not_depend_on_the_rest_of_the_batch(
    model: LanguageModel, sae: SparseAutoencoder, latents: list[int]
) -> None:
    spec = spec_for(latents, "per_input")
    sampling = Sampling(max_new_tokens=10, temperature=1.3, seed=11)
    together = generate(model, PROMPTS, sampling, intervention=spec, sae=sae)
    alone = [
        generate(model, [prompt], sampling, intervention=spec, sae=sae)[0] for prompt in PROMPTS
    ]
    assert together == alone
    assert generate(model, PROMPTS[::-1], sampling, intervention=spec, sae=sae) == alone[::-1]
    other_seed = Sampling(max_new_tokens=10, temperature=1.3, seed=12)
    changed = generate(model, PROMPTS, other_seed, intervention=spec, sae=sae)
    assert all(one.tokens != other.tokens for one, other in zip(changed, alone, strict=True))


def test_steering_of_no_strength_samples_the_base_text(
    model: LanguageModel, sae: SparseAutoencoder
) -> None:
    sampling = Sampling(max_new_tokens=12, temperature=0.8, seed=3)
    base = generate(model, PROMPTS, sampling)
    for tier in TIERS:
        still = spec_for([4, 5], tier, strength=0.0)
        assert generate(model, PROMPTS, sampling, intervention=still, sae=sae) == base


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.7, 2.5])
def test_draws_follow_the_softmax(model: LanguageModel, temperature: float) -> None:
    prompt = prompt_tokens(model, "The quick")
    probabilities = (model.logits(torch.tensor([prompt]))[0, -1] / temperature).softmax(0)
    n_draws = 300
    counts = torch.zeros_like(probabilities)
    for seed in range(n_draws):
        sampling = Sampling(max_new_tokens=1, temperature=temperature, seed=seed)
        generation = Generation(model, [prompt], sampling)
        generation.step()
        token = generation.generated[0][0] if generation.generated[0] else model.eos_id
        counts[token] += 1
    for start in (0, 1, 3):
        # The likeliest tokens one by one, then in groups, against the binomial's spread.
        group = probabilities.argsort(descending=True)[start : 2 * start + 1]
        p = float(probabilities[group].sum())
        spread = (n_draws * p * (1 - p)) ** 0.5
        assert abs(float(counts[group].sum()) - n_draws * p) < 4 * spread + 1
    assert (counts > 0).sum() > 1


# Texts


def test_a_character_shows_when_its_bytes_are_complete(model: LanguageModel) -> None:
    prompt, euro = model.tokenize("price"), model.tokenize("\u20ac5")
    shown = [continuation_text(model, prompt, euro[:n]) for n in range(len(euro) + 1)]
    assert shown == ["", "", "", "\u20ac", "\u20ac5"]


def test_text_is_what_the_tokens_say(model: LanguageModel) -> None:
    for each in generate(model, PROMPTS, Sampling(max_new_tokens=6, temperature=1.0)):
        tokenizer: Any = model.tokenizer
        decoded = tokenizer.decode(list(each.tokens), skip_special_tokens=True)
        assert each.text == decoded.rstrip("\ufffd")


@pytest.mark.parametrize(
    ("tokens", "repetition", "incoherent"),
    [
        ((), 0.0, False),
        ((5, 6), 0.0, False),
        ((1, 2, 3, 4, 5), 0.0, False),
        ((7,) * 22, 0.95, True),
        ((1, 2, 3) * 2, 0.25, False),
        ((1, 2) * 10, 16 / 18, True),
    ],
)
def test_repetition_is_the_share_of_threes_seen_before(
    tokens: tuple[int, ...], repetition: float, incoherent: bool
) -> None:
    text = Continuation(text="", tokens=tokens, stopped="length")
    assert text.repetition == pytest.approx(repetition)
    assert text.likely_incoherent == incoherent


def test_prompts_begin_with_bos_or_follow_the_chat_template(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert prompt_tokens(model, "Hi") == [1, *model.tokenize("Hi")]
    with pytest.raises(InputError, match="no chat template; leave --chat out"):
        prompt_tokens(model, "Hi", chat=True)
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    template += "{% if add_generation_prompt %}:{% endif %}"
    monkeypatch.setattr(model.tokenizer, "chat_template", template)
    assert prompt_tokens(model, "Hi", chat=True) == model.tokenize("<user>Hi:")
    # Half of a surrogate pair, as a byte that is not UTF-8 becomes on a command line.
    assert prompt_tokens(model, "a\udcff", chat=True) == model.tokenize("<user>a?:")
    assert prompt_tokens(model, "a\udcff") == prompt_tokens(model, "a?")


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('\x1b[2Jno') }}",
        "{{ messages.__class__.__mro__ }}",
        "{% for %}",
        "{{ 1 / 0 }}",
        "{{ nothing.of.this }}",
    ],
)
def test_a_chat_template_that_fails_is_named(
    tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch, template: str
) -> None:
    monkeypatch.setattr(tiny_model.tokenizer, "chat_template", template)
    with pytest.raises(InputError, match=r"the chat template of .* fails .*leave --chat out"):
        prompt_tokens(tiny_model, "abc", chat=True)


def test_wrong_input_is_a_sentence(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"max_new_tokens is 3, .* of 510 tokens exceeds the 512 "):
        Generation(model, [[1], [1] + [9] * 509], Sampling(max_new_tokens=3))
    Generation(model, [[1] + [9] * 508], Sampling(max_new_tokens=3))
    with pytest.raises(InputError, match="no token"):
        Generation(model, [[1], []], Sampling())
    monkeypatch.setattr(model, "bos_id", None)
    with pytest.raises(InputError, match="prompt '' has no token"):
        prompt_tokens(model, "")


def test_a_strength_beyond_numbers_is_a_sentence(
    model: LanguageModel, sae: SparseAutoencoder
) -> None:
    spec = spec_for([4], "constant", strength=1e308)
    said = r"feature 4 at \+1e\+308 times its largest activation; lower the strength"
    with pytest.raises(InputError, match=said):
        generate(model, ["Hi"], Sampling(max_new_tokens=3), intervention=spec, sae=sae)


def test_a_model_without_numbers_is_not_blamed_on_the_strength(
    tiny_model_folder: Path, sae: SparseAutoencoder
) -> None:
    broken = LanguageModel.load(str(tiny_model_folder), dtype="float64")
    bridge: Any = broken.bridge
    bridge.blocks[2].mlp.out.original_component.weight.data[3, 1] = float("nan")
    still = spec_for([4], "constant", strength=0.0)
    for spec in (None, still):
        with pytest.raises(ArithmeticError, match="though nothing is steered; load it in float32"):
            generate(broken, ["Hi"], Sampling(), intervention=spec, sae=sae if spec else None)


@pytest.mark.slow
def test_a_model_whose_cache_is_wrong_generates_without_one(tiny_model_folder: Path) -> None:
    said: list[str] = []
    model = LanguageModel.load(str(tiny_model_folder), progress=said.append)
    rows = [prompt_tokens(model, prompt) for prompt in PROMPTS]
    expected = [greedy_without_cache(model, row) for row in rows]
    forget_in_last_layer(model)
    generation = Generation(model, rows, Sampling(max_new_tokens=N_TOKENS))
    while not generation.done:
        generation.step()
    assert generation.generated == expected
    found = generate(model, PROMPTS, Sampling(max_new_tokens=N_TOKENS, batch_size=1))
    assert [list(each.tokens) for each in found] == expected
    (sentence,) = said[1:]
    assert "generates without a key-value cache" in sentence


def test_a_cache_is_used_where_it_is_right_and_wanted(tiny_model: LanguageModel) -> None:
    widths: list[int] = []

    def see(module: object, inputs: tuple[Tensor, ...]) -> None:
        widths.append(inputs[0].shape[1])

    original: Any = tiny_model.bridge.original_model
    assert tiny_model.kv_cache_works
    for use_cache, expected in ((True, [5, 1, 1]), (False, [5, 6, 7])):
        with contextlib.ExitStack() as stack:
            stack.callback(original.register_forward_pre_hook(see).remove)
            generation = Generation(
                tiny_model, [[1, 40, 41, 42, 43]], Sampling(max_new_tokens=3), use_cache=use_cache
            )
            while not generation.done:
                generation.step()
        assert widths == expected
        widths.clear()


def greedy_without_cache(model: LanguageModel, prompt: Sequence[int]) -> list[int]:
    ids = list(prompt)
    for _ in range(N_TOKENS):
        token = int(model.logits(torch.tensor([ids]))[0, -1].argmax())
        if token == model.eos_id:
            break
        ids.append(token)
    return ids[len(prompt) :]


def forget_in_last_layer(model: LanguageModel) -> None:
    """The last layer fills its cache and reads nothing from it."""
    bridge: Any = model.bridge
    attention = bridge.blocks[2].attn
    update = attention._update_kv_cache

    def forgetful(k: Tensor, v: Tensor, **given: Any) -> tuple[Tensor, Tensor]:
        update(k, v, **given)
        return k, v

    attention._update_kv_cache = forgetful


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"batch_size": -1}, "batch_size"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"seed": -1}, "seed"),
    ],
)
def test_settings_out_of_range_are_input_errors(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        Sampling(**settings)
    assert caught.value.field == field


# The default model


@pytest.mark.download
@pytest.mark.parametrize("tier", TIERS)
def test_the_default_model_in_a_padded_batch_and_alone(
    default_model: LanguageModel, tier: str
) -> None:
    """64 tokens; equal up to the first position whose two best logits are within 1e-4."""
    prompts = [
        "No",
        "The old town hall stood at the corner of",
        "She opened the letter, read it twice, and then " * 6,
        "Water boils at",
        "In 1969 the first people landed on the moon. " * 3 + "What they found there was",
    ]
    sae = make_sae(default_model.d_model, 4096, torch.float32)
    with torch.no_grad():
        sae.input_scale.fill_(0.1)
    site = default_model.site().name
    latents = latents_of_some_texts(default_model, sae, prompts, 8, site)
    spec = spec_for(latents, tier, site=site)
    sampling = Sampling(max_new_tokens=64)
    together = generate(default_model, prompts, sampling, intervention=spec, sae=sae)
    base = generate(default_model, prompts, sampling)
    assert together != base
    first_closes: list[int] = []
    for prompt, batched in zip(prompts, together, strict=True):
        (alone,) = generate(default_model, [prompt], sampling, intervention=spec, sae=sae)
        ids = prompt_tokens(default_model, prompt)
        same = 0
        while same < len(alone.tokens) and batched.tokens[: same + 1] == alone.tokens[: same + 1]:
            same += 1
        text = ids + list(alone.tokens)
        logits = logits_by_definition(default_model, sae, spec, text, len(ids))
        best = logits[len(ids) - 1 :].topk(2).values
        close = ((best[:, 0] - best[:, 1]) < 1e-4).nonzero()
        first_close = int(close[0]) if len(close) else len(alone.tokens)
        assert same >= min(first_close, len(alone.tokens))
        first_closes.append(first_close)
        # And what was generated is what the definition says, the text read in one pass.
        own = [int(token) for token in logits[len(ids) - 1 : -1].argmax(1)]
        assert own[:first_close] == list(alone.tokens)[:first_close]
    # Else the comparison above would be of little.
    assert sum(first_close > 32 for first_close in first_closes) > len(prompts) / 2
