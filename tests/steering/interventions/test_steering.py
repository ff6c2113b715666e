"""Interventions: the specification, the three tiers, and that the model is left as it was."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from sparsteer.kernels.codes import Codes
from sparsteer.kernels.numerics import row_norms
from sparsteer.sae.autoencoder import SparseAutoencoder
from sparsteer.sae.common.errors import InputError
from sparsteer.sae.config import (
    GatedConfig,
    NormalizeActivations,
    SAEConfig,
    TopAFAConfig,
    TopKConfig,
)
from sparsteer.sae.language_model.kv_cache import new_cache
from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.steering.interventions.added_vector import added_vector
from sparsteer.steering.interventions.controls import random_features
from sparsteer.steering.interventions.edits.push import push_of
from sparsteer.steering.interventions.firing import FiringLatents
from sparsteer.steering.interventions.gates.base import gate_rule
from sparsteer.steering.interventions.intervention import TIERS, Intervention
from sparsteer.steering.interventions.rules import Context
from sparsteer.steering.interventions.spec import Gate, SteeredFeature
from sparsteer.steering.interventions.steering import steer
from sparsteer.steering.interventions.token_watch import SeenTokens
from sparsteer.steering.registries import DIRECTIONS

from ..specs import changed

SITE = "blocks.1.hook_resid_post"
LENGTHS = (3, 11, 29, 17)


@pytest.fixture(scope="module")
def model(tiny_model_folder: Path) -> LanguageModel:
    """The tiny model in double precision, so that only rounding is out of the comparison."""
    return LanguageModel.load(str(tiny_model_folder), dtype="float64")


@pytest.fixture(scope="module")
def sae() -> SparseAutoencoder:
    return make_sae(TopKConfig(d_model=32, n_latents=70, k=9), torch.float64)


def make_sae(config: SAEConfig, dtype: torch.dtype) -> SparseAutoencoder:
    """A random autoencoder with an input scale and biases that matter, and unequal weights."""
    sae = SparseAutoencoder(config, seed=3).to(dtype)
    draw = torch.Generator().manual_seed(4)
    with torch.no_grad():
        sae.input_scale.fill_(0.37)
        sae.input_center.copy_(0.4 * torch.randn(32, generator=draw))
        for weights, size in ((sae.b_enc, 0.3), (sae.b_dec, 0.5), (sae.W_enc, 0.2)):
            weights += size * torch.randn(weights.shape, generator=draw)
    return sae


def batch(seed: int = 0, side: str = "right") -> tuple[Int[Tensor, "B L"], Bool[Tensor, "B L"]]:
    """BOS and random bytes, rows of very different lengths, padded on one side."""
    draw = torch.Generator().manual_seed(seed)
    tokens = torch.zeros(len(LENGTHS), max(LENGTHS), dtype=torch.int64)
    mask = torch.zeros_like(tokens, dtype=torch.bool)
    for row, length in enumerate(LENGTHS):
        own = torch.randint(3, 259, (length,), generator=draw)
        own[0] = 1
        place = slice(0, length) if side == "right" else slice(-length, None)
        tokens[row, place] = own
        mask[row, place] = True
    return tokens, mask


def dense_activations(
    model: LanguageModel, sae: SparseAutoencoder, tokens: Tensor, mask: Tensor
) -> Float[Tensor, "B L F"]:
    with torch.no_grad():
        codes = sae.encode(model.site(SITE).read(tokens, mask))
    return codes.dense(sae.config.n_latents)


def intervention(*features: int, tier: str = "constant", threshold: float = 0.0) -> Intervention:
    steered = tuple(
        SteeredFeature(index=index, strength=1.5, sign=sign, max_activation=2.0 + number)
        for number, (index, sign) in enumerate(zip(features, (1, -1, 1, -1), strict=False))
    )
    return Intervention.of_features(site=SITE, features=steered, tier=tier, threshold=threshold)


def read_steered(
    spec: Intervention, model: LanguageModel, sae: SparseAutoencoder, tokens: Tensor, mask: Tensor
) -> Float[Tensor, "B L D"]:
    with steer(model, sae, spec):
        return model.site(SITE).read(tokens, mask)


def a_selective_latent(acts_BLF: Tensor, content_BL: Tensor) -> int:
    """A latent that fires in the prompts of some rows only, and at few of their positions."""
    fires_BLF = (acts_BLF > 0) & content_BL[:, :, None]
    rows_F = fires_BLF.any(1).sum(0)
    candidates = ((rows_F > 0) & (rows_F < len(LENGTHS))).nonzero()[:, 0]
    return int(max(candidates, key=lambda latent: int(fires_BLF[:, :, latent].sum())))


# The specification


features = st.fixed_dictionaries(
    {
        "index": st.integers(0, 10**6),
        "strength": st.floats(allow_nan=False, allow_infinity=False),
        "sign": st.sampled_from([1, -1]),
        "max_activation": st.floats(1e-300, 1e300),
    }
)
specifications = st.fixed_dictionaries(
    {
        "site": st.text(min_size=1).filter(str.strip),
        "features": st.lists(features, min_size=1, unique_by=lambda feature: feature["index"]),
        "tier": st.sampled_from(["constant", "per_input", "per_token"]),
        "threshold": st.floats(allow_nan=False, max_value=1e300),
    }
)


@given(specifications)
def test_json_gives_back_the_same_specification(values: dict[str, Any]):
    spec = Intervention.from_dict(values)
    assert Intervention.from_json(spec.to_json()) == spec
    assert json.loads(spec.to_json()) == spec.to_dict()


def test_features_may_be_plain_values():
    values: dict[str, Any] = {"site": SITE, "features": [{"index": 4, "max_activation": 2.5}]}
    expected = SteeredFeature(index=4, strength=1.0, sign=1, max_activation=2.5)
    assert Intervention.from_dict(values).features == (expected,)


def test_the_usual_edit_direction_and_seed_are_not_written():
    usual = intervention(4)
    assert list(usual.to_dict()) == ["site", "features", "tier", "threshold"]
    other = changed(usual, direction="random", seed=3)
    assert Intervention.from_json(other.to_json()) == other
    assert list(other.to_dict()) == ["site", "features", "tier", "threshold", "direction", "seed"]
    assert other.pushes == usual.pushes + " (direction random)"


FEATURE: dict[str, Any] = {"index": 4, "strength": 2.0, "sign": -1, "max_activation": 3.0}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tiers": "constant"}, r"no key 'tiers'; did you mean tier\?"),
        ({"tier": "per_inputs"}, r"tier is 'per_inputs'; did you mean per_input\?"),
        ({"tier": "xyz"}, r"tier is 'xyz'; the tiers are constant, per_input, per_token"),
        ({"edit": "added"}, r"edit is 'added'; did you mean add\?"),
        ({"direction": ["decoder"]}, r"direction is \['decoder'\]"),
        ({"seed": -1}, "seed is -1"),
        ({"features": []}, "features is empty"),
        ({"features": {}}, "give a list"),
        ({"features": [4]}, r"features\[0\]: 4 is not a feature"),
        ({"features": [FEATURE, FEATURE]}, "feature 4 is given twice"),
        ({"features": [{**FEATURE, "stregth": 1}]}, r"'stregth'; did you mean strength\?"),
        ({"features": [{"index": 4}]}, "max_activation' is missing"),
        ({"features": [{**FEATURE, "index": -1}]}, "feature is -1"),
        ({"features": [{**FEATURE, "index": True}]}, "feature is True"),
        ({"features": [{**FEATURE, "strength": math.inf}]}, "strength is inf"),
        ({"features": [{**FEATURE, "strength": math.nan}]}, "strength is nan"),
        ({"features": [{**FEATURE, "strength": "2"}]}, "strength is '2'"),
        ({"features": [{**FEATURE, "strength": 10**400}]}, "strength is a number of hundreds of"),
        ({"features": [{**FEATURE, "strength": -(10**5000)}]}, "strength is a number of hundreds"),
        ({"features": [{**FEATURE, "strength": True}]}, "strength is True"),
        ({"threshold": -(10**400)}, "threshold is a number of hundreds of digits, but must be a "),
        ({"threshold": True}, "threshold is True"),
        ({"features": [{**FEATURE, "sign": 0}]}, "feature 4: sign is 0; give 1 or -1"),
        ({"features": [{**FEATURE, "max_activation": 0.0}]}, "it never fired"),
        ({"features": [{**FEATURE, "max_activation": math.nan}]}, "max_activation is nan"),
        ({"threshold": math.nan}, "threshold is nan"),
        ({"threshold": math.inf}, "threshold is inf"),
        ({"site": " "}, "site is ' '"),
    ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_wrong_specifications_are_input_errors(values: dict[str, Any], message: str):
    whole = {"site": SITE, "features": [FEATURE], "tier": "constant", "threshold": 0.0}
    with pytest.raises(InputError, match=message):
        Intervention.from_dict({**whole, **values})


@pytest.mark.parametrize(
    "features", [5, "5", {4: 1.0}, SteeredFeature(index=4, max_activation=1.0)]
)
@pytest.mark.usefixtures("without_type_checks")
def test_features_that_are_no_list_are_an_input_error(features: Any):
    with pytest.raises(InputError, match=r"features is .*; give a tuple of features"):
        Intervention.of_features(site=SITE, features=features)


def test_features_and_pushes_are_put_in_words():
    one, both = intervention(5), intervention(5, 8)
    assert one.pushes == "feature 5 at +1.5 times its largest activation"
    assert both.pushes == (
        "feature 5 at +1.5 and feature 8 at -1.5, each times its own largest activation"
    )


@pytest.mark.parametrize("text", ["[]", "{", "3"])
def test_text_that_is_no_json_object_is_an_input_error(text: str):
    with pytest.raises(InputError, match=r"picked\.json is not"):
        Intervention.from_json(text, "picked.json")


def test_a_specification_does_not_fit_every_model_and_autoencoder(
    model: LanguageModel, sae: SparseAutoencoder
):
    with pytest.raises(InputError, match="no feature 70; the autoencoder's are 0 to 69"):
        steer(model, sae, intervention(3, 70))
    narrow = SparseAutoencoder(TopKConfig(d_model=16, n_latents=70, k=9))
    with pytest.raises(InputError, match="width 16"):
        steer(model, narrow, intervention(3))
    transcoder = SparseAutoencoder(TopKConfig(d_model=32, n_latents=70, k=9, transcoder=True))
    with pytest.raises(InputError, match="a transcoder reads one site and writes another"):
        steer(model, transcoder, intervention(3))
    elsewhere = changed(intervention(3), site="blocks.1.hook_residpost")
    with pytest.raises(InputError, match=r"no site.*blocks\.1\.hook_resid_post"):
        steer(model, sae, elsewhere)


def test_the_change_is_in_raw_units(sae: SparseAutoencoder):
    spec = intervention(5, 8)
    codes = torch.zeros(70, dtype=torch.float64)
    codes[5], codes[8] = 1.5 * 2.0, -1.5 * 3.0
    expected = (codes @ sae.W_dec.detach()) / 0.37
    assert torch.allclose(added_vector(spec, sae), expected, rtol=1e-12, atol=0)
    # Adding it moves the reconstruction as far as activations of those sizes would.
    x_D = torch.randn(32, dtype=torch.float64)
    assert torch.allclose((x_D + expected) - x_D, added_vector(spec, sae), atol=1e-12)


@pytest.mark.parametrize("how", ["layer_norm", "constant_norm_rescale"])
def test_where_rows_are_normalized_the_change_is_in_units_of_each_row(
    model: LanguageModel, how: NormalizeActivations
):
    """As far as activations of those sizes would move the reconstruction of that row."""
    config = TopKConfig(d_model=32, n_latents=70, k=9, normalize_activations=how)
    sae = make_sae(config, torch.float64)
    tokens, mask = batch()
    h_BLD = model.site(SITE).read(tokens, mask)
    with torch.no_grad():
        codes = sae.encode(h_BLD)
        pushed = Codes(
            torch.tensor([5, 8]).expand(*h_BLD.shape[:2], 2),
            torch.tensor([3.0, -4.5], dtype=torch.float64).expand(*h_BLD.shape[:2], 2),
            row_scale=codes.row_scale,
            row_shift=codes.row_shift,
        )
        nothing = pushed._replace(values=torch.zeros_like(pushed.values))
        expected_BLD = h_BLD + sae.decode(pushed) - sae.decode(nothing)
        with steer(model, sae, intervention(5, 8)):
            steered_BLD = model.site(SITE).read(tokens, mask)
    assert torch.allclose(steered_BLD[mask], expected_BLD[mask], rtol=1e-10, atol=1e-12)


def test_the_gate_of_a_gated_autoencoder_is_what_encode_says():
    """Whose values are not its pre-activations."""
    sae = make_sae(GatedConfig(d_model=32, n_latents=70), torch.float64)
    sae.get_buffer("magnitude_bias").normal_()
    sae.get_buffer("magnitude_exponent").normal_()
    rows = 3 * torch.randn(200, 32, dtype=torch.float64)
    with torch.no_grad():
        acts_BF = sae.encode(rows).dense(70)
    for latent in range(0, 70, 7):
        threshold = float(acts_BF[:, latent].median())
        fires = FiringLatents(sae, [latent], [threshold]).fires(rows)
        assert torch.equal(fires, acts_BF[:, latent] > threshold)


def test_random_directions_are_those_of_other_latents_and_as_long(sae: SparseAutoencoder):
    spec = changed(intervention(5, 8), direction="random", seed=2)
    vectors = push_of(spec.edits[0], sae).vectors_PD
    W_dec = sae.W_dec.detach()
    assert torch.allclose(row_norms(vectors), row_norms(W_dec[[5, 8]]))
    cosines = normalize(vectors, dim=1) @ normalize(W_dec, dim=1).T
    assert torch.allclose(cosines.abs().amax(dim=1), torch.ones(2, dtype=torch.float64))
    drawn = {int(latent) for latent in cosines.abs().argmax(dim=1)}
    assert len({5, 8} | drawn) == 4
    # The one of a single feature is the control of that seed.
    alone = changed(spec, features=spec.features[:1])
    (control,) = random_features(alone, sae, n=1, seed=2)
    assert torch.allclose(added_vector(alone, sae).abs(), added_vector(control, sae).abs())
    again, other = (changed(spec, seed=seed) for seed in (2, 3))
    assert torch.equal(push_of(again.edits[0], sae).vectors_PD, vectors)
    assert not torch.equal(push_of(other.edits[0], sae).vectors_PD, vectors)


def test_a_direction_of_another_width_is_refused(
    sae: SparseAutoencoder, monkeypatch: pytest.MonkeyPatch
):
    def narrow(sae: SparseAutoencoder, features: object, seed: int) -> Tensor:
        return torch.zeros(1, 3)

    monkeypatch.setattr(DIRECTIONS, "get", {"decoder": narrow}.__getitem__)
    with pytest.raises(ValueError, match=r"decoder gave \[1, 3\]; it must give \[1, 32\]"):
        push_of(intervention(5).edits[0], sae)


# The tiers

seeds = st.integers(0, 2**32 - 1)
any_tier = st.sampled_from(TIERS)
a_push = st.builds(
    SteeredFeature,
    index=st.integers(0, 69),
    strength=st.floats(0.3, 4),
    sign=st.sampled_from([1, -1]),
    max_activation=st.floats(0.5, 4),
)
pushes = st.lists(a_push, min_size=1, max_size=3, unique_by=lambda push: push.index).map(tuple)


@pytest.fixture(scope="module")
def a_model_to_change(tiny_model_folder: Path) -> LanguageModel:
    return LanguageModel.load(str(tiny_model_folder), dtype="float64")


def test_a_gate_that_is_not_asked_is_open_everywhere(sae: SparseAutoencoder):
    tokens = torch.tensor([[0, 1, 70], [1, 60, 80]])
    seen = SeenTokens(tokens, tokens - tokens, tokens > 1, n_prompt=3, continues=False)
    features = intervention(3).features
    context = Context(32, sae=sae)
    gates = {tier: gate_rule(Gate(kind=tier, features=features), context) for tier in TIERS}
    (tier,) = (tier for tier, gate in gates.items() if gate.always_open)
    assert tier == "constant"
    assert gates[tier].open(torch.zeros(2, 3, 32, dtype=torch.float64), seen).all()


@settings(max_examples=12)
@given(seed=seeds, pushed=pushes)
def test_constant_equals_adding_to_the_bias_of_the_site(
    a_model_to_change: LanguageModel,
    sae: SparseAutoencoder,
    seed: int,
    pushed: tuple[SteeredFeature, ...],
):
    own = a_model_to_change
    spec = Intervention.of_features(site=SITE, features=pushed)
    tokens, mask = batch(seed)
    base = own.logits(tokens, mask)[mask]
    with steer(own, sae, spec):
        steered = own.logits(tokens, mask)[mask]
    bridge: Any = own.bridge
    linear = bridge.blocks[1].mlp.out.original_component
    linear.bias = torch.nn.Parameter(added_vector(spec, sae))
    try:
        assert torch.allclose(steered, own.logits(tokens, mask)[mask], atol=1e-10)
    finally:
        linear.bias = None
    assert not torch.allclose(steered, base, atol=1e-3)


@settings(max_examples=12)
@given(seed=seeds, pushed=pushes)
def test_per_token_below_every_threshold_is_constant_off_the_sinks(
    model: LanguageModel, sae: SparseAutoencoder, seed: int, pushed: tuple[SteeredFeature, ...]
):
    always = Intervention.of_features(
        site=SITE, features=pushed, tier="per_token", threshold=-math.inf
    )
    tokens, mask = batch(seed)
    base = model.site(SITE).read(tokens, mask)
    moved = read_steered(always, model, sae, tokens, mask) - base
    ordinary = ~model.excluded_tokens(tokens, mask)
    assert torch.equal(moved[ordinary], (base + added_vector(always, sae) - base)[ordinary])
    assert not moved[~ordinary].any()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("quantile", [None, 0.3, 0.6])
def test_per_token_steers_the_positions_that_fire(
    model: LanguageModel, sae: SparseAutoencoder, side: str, quantile: float | None
):
    tokens, mask = batch(side=side)
    acts = dense_activations(model, sae, tokens, mask)
    ordinary = ~model.excluded_tokens(tokens, mask)
    one = a_selective_latent(acts, ordinary)
    other = next(int(o) for o in acts[ordinary].sum(0).argsort(descending=True) if o != one)
    own_N = acts[ordinary][:, one]
    # In multiples of max_activation, which `intervention` sets to 2 for `one` and 3 for `other`.
    threshold = 0.0 if quantile is None else float(own_N[own_N > 0].quantile(quantile)) / 2.0
    spec = intervention(one, other, tier="per_token", threshold=threshold)

    def fires_above(own: float, others: float) -> Bool[Tensor, "B L"]:
        return ((acts[..., one] > own) | (acts[..., other] > others)) & ordinary

    expected = fires_above(threshold * 2.0, threshold * 3.0)
    assert 0 < expected.sum() < ordinary.sum()
    if quantile is not None:
        assert not torch.equal(expected, fires_above(threshold, threshold))
        assert not torch.equal(expected, fires_above(threshold * 2.0, threshold * 2.0))
        assert expected.sum() < fires_above(0, 0).sum()
    moved = read_steered(spec, model, sae, tokens, mask) != model.site(SITE).read(tokens, mask)
    assert torch.equal(moved.any(-1)[mask], expected[mask])
    assert torch.equal(moved.all(-1)[mask], expected[mask])


def test_per_input_steers_whole_texts_with_the_feature_and_no_others(
    model: LanguageModel, sae: SparseAutoencoder
):
    seen: set[bool] = set()

    @settings(max_examples=20)
    @given(seed=seeds, pushed=pushes, threshold=st.floats(0, 0.4))
    def holds(seed: int, pushed: tuple[SteeredFeature, ...], threshold: float):
        tokens, mask = batch(seed, side="left")
        acts = dense_activations(model, sae, tokens, mask)
        ordinary = ~model.excluded_tokens(tokens, mask)
        spec = Intervention.of_features(
            site=SITE, features=pushed, tier="per_input", threshold=threshold
        )
        fires = torch.zeros(len(LENGTHS), dtype=torch.bool)
        for feature in pushed:
            above = acts[..., feature.index] > threshold * feature.max_activation
            fires |= (above & ordinary).any(1)
        base = model.logits(tokens, mask)
        with steer(model, sae, spec):
            steered = model.logits(tokens, mask)
        with steer(model, sae, spec.with_tier("constant")):
            constant = model.logits(tokens, mask)
        for row in range(len(LENGTHS)):
            expected = constant if fires[row] else base
            assert torch.equal(steered[row][mask[row]], expected[row][mask[row]])
            seen.add(bool(fires[row]))

    holds()
    assert seen == {True, False}


def test_an_activation_at_a_sink_switches_nothing_on(model: LanguageModel, sae: SparseAutoencoder):
    tokens, mask = batch()
    tokens, mask = tokens[:, :2], mask[:, :2]  # BOS and each text's first token, sinks both
    acts = dense_activations(model, sae, tokens, mask)
    latents = [int(latent) for latent in acts[mask].sum(0).topk(2).indices]
    assert acts[..., latents].max() > 0
    for tier in ("per_input", "per_token"):
        spec = intervention(*latents, tier=tier)
        steered = read_steered(spec, model, sae, tokens, mask)
        assert torch.equal(steered, model.site(SITE).read(tokens, mask))


@pytest.mark.parametrize("tier", ["per_input", "per_token"])
def test_a_text_is_steered_alike_in_one_pass_and_token_by_token(
    model: LanguageModel, sae: SparseAutoencoder, tier: str
):
    tokens, mask = batch(side="left")
    n_prompt = 20
    acts = dense_activations(model, sae, tokens, mask)
    ordinary = ~model.excluded_tokens(tokens, mask)
    in_prompt = ((acts > 0) & ordinary[..., None])[:, :n_prompt].any(1)
    later = ((acts > 0) & ordinary[..., None])[:, n_prompt + 2 :].any(1)
    # Some text begins to be steered in its prompt, and some only later.
    both = (in_prompt.any(0) & (later & ~in_prompt).any(0)).nonzero()[:, 0]
    spec = intervention(int(both[0]), tier=tier)
    with steer(model, sae, spec, prompt_columns=n_prompt):
        whole = model.logits(tokens, mask)
    bridge: Any = model.bridge
    parts: list[Tensor] = []
    name, cache = new_cache(model.network.model)
    run = steer(model, sae, spec)
    for start, end in ((0, n_prompt), *((t, t + 1) for t in range(n_prompt, tokens.shape[1]))):
        unsteered = bridge(tokens[:, start:end], attention_mask=mask.long()[:, :end])
        assert unsteered.shape[1] == end - start  # what happens outside of the block is not seen
        with run, torch.no_grad():
            part = bridge(
                tokens[:, start:end],
                attention_mask=mask.long()[:, :end],
                use_cache=True,
                **{name: cache},
            )
        parts.append(part)
    assert torch.allclose(torch.cat(parts, 1)[mask], whole[mask], atol=1e-10)
    assert not torch.allclose(whole[mask], model.logits(tokens, mask)[mask], atol=1e-3)


def test_new_texts_start_switched_off(model: LanguageModel, sae: SparseAutoencoder):
    tokens, mask = batch(side="left")
    acts = dense_activations(model, sae, tokens, mask)
    ordinary = ~model.excluded_tokens(tokens, mask)
    latent = a_selective_latent(acts, ordinary)
    fires = ((acts[..., latent] > 0) & ordinary).any(1)
    order = fires.int().argsort(descending=True)
    base = model.logits(tokens, mask)
    with steer(model, sae, intervention(latent, tier="per_input")):
        model.logits(tokens[order], mask[order])
        again = model.logits(tokens, mask)
    assert torch.equal(again[~fires][mask[~fires]], base[~fires][mask[~fires]])


def test_a_cache_from_outside_is_refused(model: LanguageModel, sae: SparseAutoencoder):
    tokens, _ = batch()
    bridge: Any = model.bridge
    name, cache = new_cache(model.network.model)
    with torch.no_grad():
        bridge(tokens, use_cache=True, **{name: cache})
    with (
        steer(model, sae, intervention(3, tier="per_token")),
        pytest.raises(ValueError, match="29 positions that this steering run has not seen"),
    ):
        bridge(tokens[:, :1], **{name: cache})


# Nesting


def test_nested_interventions_equal_their_sum(model: LanguageModel, sae: SparseAutoencoder):
    """Of any two tiers: each steers where it would alone, and the changes add up."""
    steering: set[str] = set()

    @settings(max_examples=20)
    @given(seed=seeds, pushed=st.tuples(pushes, pushes), tiers=st.tuples(any_tier, any_tier))
    def holds(
        seed: int,
        pushed: tuple[tuple[SteeredFeature, ...], tuple[SteeredFeature, ...]],
        tiers: tuple[str, str],
    ):
        tokens, mask = batch(seed)
        site = model.site(SITE)
        base = site.read(tokens, mask)
        one, two = (
            Intervention.of_features(site=SITE, features=features, tier=tier)
            for features, tier in zip(pushed, tiers, strict=True)
        )
        moved = [read_steered(each, model, sae, tokens, mask) - base for each in (one, two)]
        steering.update(tier for tier, own in zip(tiers, moved, strict=True) if own[mask].any())
        with site.write(lambda h_BLD: h_BLD + moved[0] + moved[1]):
            expected = model.logits(tokens, mask)
        for outer, inner in ((one, two), (two, one)):
            with steer(model, sae, outer), steer(model, sae, inner):
                nested = model.logits(tokens, mask)
            assert torch.allclose(nested[mask], expected[mask], atol=1e-9)

    holds()
    assert steering == set(TIERS)


def test_every_gate_of_nested_interventions_reads_the_residual_before_any(
    model: LanguageModel, sae: SparseAutoencoder
):
    tokens, mask = batch()
    acts = dense_activations(model, sae, tokens, mask)
    latent = a_selective_latent(acts, ~model.excluded_tokens(tokens, mask))
    base = model.site(SITE).read(tokens, mask)
    gated = intervention(latent, tier="per_token")
    own = read_steered(gated, model, sae, tokens, mask) - base
    # A push against the feature, strong enough that the gate behind it would see nothing.
    against = SteeredFeature(index=latent, strength=50.0, sign=-1, max_activation=2.0)
    push = changed(gated, features=(against,), tier="constant")
    for outer, inner in ((push, gated), (gated, push)):
        with steer(model, sae, outer), steer(model, sae, inner):
            both = model.site(SITE).read(tokens, mask)
        assert torch.allclose(both - base, own + added_vector(push, sae), atol=1e-9)
    assert own.any()


def test_interventions_may_end_in_any_order(model: LanguageModel, sae: SparseAutoencoder):
    tokens, mask = batch()
    base = model.logits(tokens, mask)
    one, two = steer(model, sae, intervention(5)), steer(model, sae, intervention(8))
    one.__enter__()
    two.__enter__()
    one.__exit__(None, None, None)
    with steer(model, sae, intervention(8)):
        pass
    rest = model.logits(tokens, mask)
    two.__exit__(None, None, None)
    with steer(model, sae, intervention(8)):
        assert torch.equal(rest, model.logits(tokens, mask))
    assert torch.equal(base, model.logits(tokens, mask))


# Nothing is left behind


def hooks_on(model: LanguageModel) -> int:
    """Every hook of every kind anywhere in the model."""
    bridge: Any = model.bridge
    modules: list[Any] = [*bridge.modules(), *bridge.original_model.modules()]
    attributes: list[tuple[str, Any]] = [item for each in modules for item in each.__dict__.items()]
    return sum(
        len(hooks) for name, hooks in attributes if "hooks" in name and hasattr(hooks, "__len__")
    )


@pytest.mark.parametrize("tier", ["constant", "per_input", "per_token"])
def test_strength_0_is_the_unsteered_model_bit_for_bit(
    tiny_model: LanguageModel, sae: SparseAutoencoder, tier: str
):
    tokens, mask = batch()
    base = tiny_model.logits(tokens, mask)
    still = SteeredFeature(index=5, strength=0.0, max_activation=2.0)
    spec = Intervention.of_features(site=SITE, features=(still,), tier=tier, threshold=-math.inf)
    with steer(tiny_model, sae, spec):
        steered = tiny_model.logits(tokens, mask)
    assert torch.equal(steered.view(torch.int32), base.view(torch.int32))


@pytest.mark.parametrize("tier", ["constant", "per_input", "per_token"])
def test_leaving_restores_the_model_bit_for_bit_also_after_an_exception(
    tiny_model: LanguageModel, tier: str
):
    sae = make_sae(TopKConfig(d_model=32, n_latents=70, k=9), torch.float32)
    tokens, mask = batch()
    base, hooks = tiny_model.logits(tokens, mask), hooks_on(tiny_model)
    spec = intervention(5, 8, tier=tier, threshold=-math.inf)
    with steer(tiny_model, sae, spec):
        assert not torch.equal(tiny_model.logits(tokens, mask), base)
        assert hooks_on(tiny_model) > hooks
    with pytest.raises(InputError, match="takes; shorten"), steer(tiny_model, sae, spec):
        tiny_model.logits(tokens.repeat(1, 20))
    with pytest.raises(KeyboardInterrupt), steer(tiny_model, sae, spec):
        with tiny_model.site("blocks.2.hook_resid_pre").write(interrupt):
            tiny_model.logits(tokens, mask)
    again = steer(tiny_model, sae, spec)
    with again, pytest.raises(RuntimeError, match="active already"), again:
        pass
    assert hooks_on(tiny_model) == hooks
    assert torch.equal(tiny_model.logits(tokens, mask).view(torch.int32), base.view(torch.int32))


def interrupt(h_BLD: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
    raise KeyboardInterrupt


# The gate


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "config", [TopKConfig(d_model=32, n_latents=70, k=9), TopAFAConfig(d_model=32, n_latents=70)]
)
@settings(max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    n_rows=st.integers(0, 40),
    latents=st.lists(st.integers(0, 69), min_size=1, max_size=5, unique=True),
    threshold=st.sampled_from([-math.inf, -1.0, 0.0, 0.5, 2.0]),
)
def test_the_gate_is_what_encode_says(
    config: SAEConfig,
    dtype: torch.dtype,
    seed: int,
    n_rows: int,
    latents: list[int],
    threshold: float,
):
    sae = make_sae(config, dtype)
    draw = torch.Generator().manual_seed(seed)
    rows = 3 * torch.randn(n_rows, 32, generator=draw, dtype=torch.float32)
    with torch.no_grad():
        acts = sae.encode(rows).dense(70)[:, latents]
    thresholds = [threshold * (1 + number) for number in range(len(latents))]
    expected = (acts > torch.tensor(thresholds, dtype=dtype)).any(1)
    assert torch.equal(FiringLatents(sae, latents, thresholds).fires(rows), expected)


def test_a_latent_that_selection_drops_does_not_fire():
    sae = make_sae(TopKConfig(d_model=32, n_latents=70, k=1), torch.float64)
    rows = torch.randn(200, 32, dtype=torch.float64)
    with torch.no_grad():
        pre = (sae.scaled(rows) - sae.b_dec) @ sae.W_enc.T + sae.b_enc
    latent = int((pre > 0).sum(0).argmax())
    fires = FiringLatents(sae, [latent], [0.0]).fires(rows)
    assert torch.equal(fires, pre.argmax(1) == latent)
    assert fires.sum() < (pre[:, latent] > 0).sum()


# The control


@pytest.mark.slow
@given(seed=st.integers(0, 10**6))
def test_a_random_feature_changes_as_much_and_is_another(seed: int):
    sae = make_sae(TopKConfig(d_model=32, n_latents=9, k=2), torch.float64)
    with torch.no_grad():
        sae.W_dec.data *= torch.linspace(0.5, 2, 9, dtype=torch.float64)[:, None]
    spec = intervention(2, 5, tier="per_token", threshold=0.3)
    controls = random_features(spec, sae, n=7, seed=seed)
    for control in controls:
        sizes = [float(added_vector(each, sae).square().sum().sqrt()) for each in (spec, control)]
        assert sizes[0] == pytest.approx(sizes[1], rel=1e-9)
        assert control.tier == "constant"
    assert {c.features[0].index for c in controls} == {0, 1, 3, 4, 6, 7, 8}
    assert random_features(spec, sae, n=7, seed=seed) == controls


def test_random_features_are_candidates_and_not_always_the_same(
    sae: SparseAutoencoder,
):
    spec = intervention(5)
    candidates = [5, 7, 9, 7]
    drawn = [
        random_features(spec, sae, n=1, seed=seed, candidates=candidates)[0] for seed in range(40)
    ]
    assert {control.features[0].index for control in drawn} == {7, 9}
    assert {control.features[0].sign for control in drawn} == {1, -1}
    with pytest.raises(InputError, match=r"3 random controls need .* there are 2;"):
        random_features(spec, sae, n=3, seed=0, candidates=candidates)
