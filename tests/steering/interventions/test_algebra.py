"""What each edit, gate and cap does by its own definition, on random rows."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sparsteer.kernels.numerics import row_norms
from sparsteer.sae.autoencoder import SparseAutoencoder
from sparsteer.sae.common.errors import InputError
from sparsteer.sae.config import GatedConfig, SAEConfig, TopKConfig
from sparsteer.steering.interventions.cap import CapRule
from sparsteer.steering.interventions.edits.base import edit_rule
from sparsteer.steering.interventions.edits.latents import LatentEdit
from sparsteer.steering.interventions.gates.base import gate_rule
from sparsteer.steering.interventions.intervention import Intervention
from sparsteer.steering.interventions.rules import Context
from sparsteer.steering.interventions.spec import Cap, Edit, Gate
from sparsteer.steering.interventions.token_watch import SeenTokens
from sparsteer.steering.interventions.vectors import Vectors

from .cases import F, cap, edits, features, gates, random_sae

D, SITE = 12, "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def sae() -> SparseAutoencoder:
    return random_sae(D)


@pytest.fixture
def h() -> Tensor:
    draw = torch.Generator().manual_seed(7)
    return 3 * torch.randn(2, 50, D, generator=draw, dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


def rule(kind: str, sae: SparseAutoencoder | None = None, **given: Any) -> Any:
    tensors = given.pop("tensors", None)
    edit = Edit(kind=kind, site=SITE, vectors=Vectors(tensors) if tensors else None, **given)
    return edit_rule(edit, Context(D, sae=sae))


def edited(h_BLD: Tensor, kind: str, sae: SparseAutoencoder | None = None, **given: Any) -> Tensor:
    return h_BLD + rule(kind, sae, **given).change(h_BLD).detach()


def close(found: Tensor, expected: Tensor) -> bool:
    return torch.allclose(found, expected, rtol=1e-10, atol=1e-10)


# Latents

CONFIGS: list[SAEConfig] = [
    TopKConfig(d_model=D, n_latents=F, k=9),
    TopKConfig(d_model=D, n_latents=F, k=9, normalize_activations="layer_norm"),
    GatedConfig(d_model=D, n_latents=F),
]


@pytest.mark.parametrize("config", CONFIGS, ids=["topk", "layer_norm", "gated"])
@pytest.mark.parametrize("kind", ["clamp", "min_clamp", "ablate", "latents", "latents_support"])
@torch.no_grad()
def test_latent_edits_are_the_decoding_of_changed_codes_and_the_error_is_kept(
    h: Tensor, config: SAEConfig, kind: str
) -> None:
    sae = random_sae(D, config)
    if isinstance(config, GatedConfig):
        sae.get_buffer("magnitude_bias").normal_()
    steered = features(1.5, -0.5, 0.8)
    codes = sae.encode(h)
    dense = codes.dense(F)
    latents = [feature.index for feature in steered]
    targets = torch.tensor([feature.amount for feature in steered], dtype=torch.float64)
    own = dense[..., latents]
    w, b = torch.tensor([[0.5, -1.0, 2.0], [0.3, 0.0, 4.0]], dtype=torch.float64)
    low, high = own.flatten(0, -2).quantile(torch.tensor([0.3, 0.9]).double(), dim=0)
    become = {
        "clamp": targets.expand_as(own),
        "min_clamp": torch.maximum(own, targets),
        "ablate": torch.zeros_like(own),
        "latents": w * own + b,
        "latents_support": torch.where((own >= low) & (own <= high), w * own + b, own),
    }[kind]
    changed = dense.clone()
    changed[..., latents] = become
    every = torch.arange(F).expand(*dense.shape)
    whole = codes._replace(indices=every, values=dense, counts=None)
    new = whole._replace(values=changed)
    expected = h + sae.decode(new) - sae.decode(whole)
    if kind.startswith("latents"):
        tensors = {"latents": torch.tensor(latents), "w": w, "b": b}
        tensors |= {"low": low, "high": high} if kind == "latents_support" else {}
        found = edited(h, "latents", sae, tensors=tensors)
    else:
        found = edited(h, kind, sae, features=steered)
    assert torch.allclose(found, expected, rtol=1e-8, atol=1e-8)
    assert (own > 0).any()
    assert not torch.allclose(found, h)


@torch.no_grad()
def test_a_clamp_to_what_is_there_changes_nothing_and_ablation_is_clamping_to_zero(
    h: Tensor, sae: SparseAutoencoder
) -> None:
    zero = tuple(dataclasses.replace(each, strength=0.0) for each in features(1.0, 1.0))
    assert close(edited(h, "ablate", sae, features=zero), edited(h, "clamp", sae, features=zero))
    low = tuple(dataclasses.replace(each, strength=-1.0) for each in features(1.0, 1.0))
    assert torch.equal(edited(h, "min_clamp", sae, features=low), h)
    assert not Intervention.of_features(site=SITE, features=zero, edit="clamp").changes_nothing
    assert Intervention.of_features(site=SITE, features=zero).changes_nothing


# Linear maps


def test_project_out_nullifies_is_idempotent_and_leaves_the_rest(h: Tensor) -> None:
    u = 3 * normal(D)
    once = edited(h, "project_out", tensors={"u": u})
    assert float((once @ u).abs().max()) < 1e-12
    assert close(edited(once, "project_out", tensors={"u": u}), once)
    across = normal(D, seed=1)
    across -= (across @ u) / (u @ u) * u
    assert close(once @ across, h @ across)
    several = normal(3, D, seed=2)
    none = edited(h, "project_out", tensors={"u": several})
    assert float((none @ several.T).abs().max()) < 1e-12
    to = edited(h, "project_out", tensors={"u": u, "projection": torch.tensor(2.5).double()})
    assert close(to @ (u / row_norms(u)), torch.full((2, 50), 2.5).double())
    # It is the low-rank edit with R = u, W = 0 and b = 0.
    R, W, b = (u / row_norms(u))[None], torch.zeros(1, D), torch.zeros(1)
    assert close(edited(h, "lowrank", tensors={"R": R, "W": W, "b": b}), once)


@torch.no_grad()
def test_features_are_projected_out_as_their_decoder_rows(
    h: Tensor, sae: SparseAutoencoder
) -> None:
    steered = features(1.0, -2.0)
    rows = sae.W_dec.detach()[[feature.index for feature in steered]]
    expected = edited(h, "project_out", tensors={"u": rows})
    assert close(edited(h, "project_out", sae, features=steered), expected)


def test_diagonal_maps_each_coordinate_within_its_support(h: Tensor) -> None:
    w, b, low = normal(D), normal(D, seed=1), normal(D, seed=2)
    high = low + 2
    assert close(edited(h, "diagonal", tensors={"w": w, "b": b}), w * h + b)
    tensors = {"w": w, "b": b, "low": low, "high": high}
    inside = (h >= low) & (h <= high)
    assert close(edited(h, "diagonal", tensors=tensors), torch.where(inside, w * h + b, h))
    assert inside.any() and not inside.all()
    still = {"w": torch.ones(D), "b": torch.zeros(D)}
    assert torch.equal(edited(h, "diagonal", tensors=still), h)


def test_rotation_keeps_the_norm_and_composes(h: Tensor) -> None:
    b1, b2 = normal(D), normal(D, seed=1)
    plane = {"b1": b1, "b2": b2}

    def turned(h_BLD: Tensor, angle: float, **settings: Any) -> Tensor:
        return edited(h_BLD, "rotate", tensors=plane, settings={"angle": angle, **settings})

    for settings in ({}, {"absolute": True}):
        found = turned(h, 40.0, **settings)
        assert close(row_norms(found), row_norms(h))
        assert not close(found, h)
    assert close(turned(turned(h, 25.0), 30.0), turned(h, 55.0))
    assert close(turned(h, 360.0), h)
    assert torch.equal(turned(h, 0.0), h)
    there = turned(h, 40.0, absolute=True)
    assert close(turned(there, 40.0, absolute=True), there)
    # A quarter turn leads b1 to b2, and an absolute angle is that from b1.
    first = b1 / row_norms(b1)
    second = b2 - (b2 @ first) * first
    second /= row_norms(second)
    assert close(turned(first[None, None], 90.0), second[None, None])
    angles = torch.atan2(there @ second, there @ first)
    assert close(angles, torch.full_like(angles, math.radians(40.0)))
    some = turned(h, 40.0, adaptive=True)
    ahead = (h @ first > 0)[..., None]
    assert close(some, torch.where(ahead, turned(h, 40.0), h))


def test_units_say_of_what_the_strength_is_a_multiple(h: Tensor, sae: SparseAutoencoder) -> None:
    v = normal(D)
    added = edited(h, "add", unit="norm", tensors={"v": v}) - h
    assert close(added, row_norms(h)[..., None] * v / row_norms(v))
    assert close(edited(h, "add", tensors={"v": v}) - h, v.expand_as(h))
    steered = features(0.5, -2.0)
    rows = sae.W_dec.detach()[[feature.index for feature in steered]]
    units = rows / row_norms(rows)[..., None]
    strengths = torch.tensor([0.5, -2.0]).double()
    scale = sae.input_scale
    expected = {
        "max_activation": (strengths * torch.tensor([2.0, 3.0])) @ rows / scale,
        "p99": (strengths * torch.tensor([1.5, 2.5])) @ rows / scale,
        "raw": strengths @ units,
        "norm": row_norms(h)[..., None] * (strengths @ units),
    }
    for unit, change in expected.items():
        assert close(edited(h, "add", sae, features=steered, unit=unit) - h, change.expand_as(h))


SCALES_ALONG = ["add_norm", "project_out", "rotate", "rotate_absolute"]


@pytest.mark.parametrize("name", SCALES_ALONG)
def test_edits_without_a_size_of_their_own_scale_with_the_activations(h: Tensor, name: str) -> None:
    edit = edits(D, SITE, h.flatten(0, 1))[name]
    made = edit_rule(edit, Context(D))
    assert close(made.change(7 * h), 7 * made.change(h))


@pytest.mark.parametrize("name", ["diagonal_support", "lowrank"])
def test_maps_with_an_offset_scale_when_it_does(h: Tensor, name: str) -> None:
    edit = edits(D, SITE, h.flatten(0, 1))[name]
    assert edit.vectors is not None
    offsets = ("b", "low", "high")
    scaled = {n: 7 * t if n in offsets else t for n, t in edit.vectors.tensors.items()}
    larger = dataclasses.replace(edit, vectors=Vectors(scaled))
    change = edit_rule(edit, Context(D)).change(h)
    assert close(edit_rule(larger, Context(D)).change(7 * h), 7 * change)


# Gates


def seen_by(h_BLD: Tensor, n_prompt: int, continues: bool = False) -> SeenTokens:
    shape = h_BLD.shape[:2]
    content_BL = torch.ones(shape, dtype=torch.bool)
    content_BL[:, :2] = continues
    positions_BL = torch.arange(shape[1]).expand(shape)
    return SeenTokens(torch.full(shape, 9), positions_BL, content_BL, n_prompt, continues)


def gate(kind: str, tensors: Mapping[str, Tensor], threshold: float = 0.0, **settings: Any) -> Any:
    made = Gate(kind=kind, threshold=threshold, vectors=Vectors(tensors), settings=settings)
    return gate_rule(made, Context(D))


def test_the_cosine_does_not_see_the_scale_and_below_is_not_above(h: Tensor) -> None:
    c = normal(D)
    cosines = (h @ c) / row_norms(h) / row_norms(c)
    seen = seen_by(h, 50)
    found = gate("cosine", {"c": c}, 0.1).open(h, seen)
    assert torch.equal(found, (cosines > 0.1) & seen.content_BL)
    assert torch.equal(gate("cosine", {"c": 9 * c}, 0.1).open(5 * h, seen), found)
    below = gate("cosine", {"c": c}, 0.1, side="below").open(h, seen)
    assert torch.equal(below | found, seen.content_BL) and not (below & found).any()
    zero = torch.zeros_like(h)
    assert not gate("cosine", {"c": c}, 0.0).open(zero, seen).any()


@pytest.mark.parametrize("pool", ["mean", "last"])
def test_a_prompt_is_asked_once_and_each_row_by_itself(h: Tensor, pool: str) -> None:
    c = normal(D)
    prompt = h[:, :20]
    pooled = prompt[:, 2:].mean(dim=1) if pool == "mean" else prompt[:, 19]
    cosines = (pooled @ c) / row_norms(pooled) / row_norms(c)
    middle = float(cosines.mean())  # between the two rows
    once: dict[str, Any] = {"scope": "per_input", "pool": pool}
    asked = gate("cosine", {"c": c}, middle, **once)
    whole = asked.open(h, seen_by(h, 20))
    assert torch.equal(whole, (cosines > middle)[:, None].expand(2, 50))
    # What follows from the cache opens and closes nothing.
    opposite = -h[:, 20:21]
    assert torch.equal(asked.open(opposite, seen_by(opposite, 0, True)), whole[:, :1])
    # Each row alone; and without a content token it is closed.
    for row in range(2):
        alone = gate("cosine", {"c": c}, middle, **once).open(h[row, None], seen_by(h[:1], 20))
        assert torch.equal(alone, whole[row, None])
    nothing = seen_by(h, 20)._replace(content_BL=torch.zeros(2, 50, dtype=torch.bool))
    assert not gate("cosine", {"c": c}, -1.0, **once).open(h, nothing).any()


def test_logistic_and_probe_are_probabilities_or_halves_of_the_rows(h: Tensor) -> None:
    rows, seen = h.flatten(0, 1), seen_by(h, 50)
    made = gates(D, SITE, rows)
    logistic = made["logistic"]
    assert logistic.vectors is not None
    mean, basis, w, b = (logistic.vectors.tensors[n] for n in ("mean", "basis", "w", "b"))
    odds = (h - mean) @ basis.T @ w + b
    soft = gate_rule(logistic, Context(D)).open(h, seen)
    assert close(soft, torch.where(seen.content_BL, odds.sigmoid(), 0.0))
    hard = dataclasses.replace(logistic, settings={"soft": False})
    found = gate_rule(hard, Context(D)).open(h, seen)
    assert torch.equal(found, (odds.sigmoid() > 0.5) & seen.content_BL)
    # At probability 1 and 0 it is the gate that is always or never open.
    for size, expected in ((800.0, 1.0), (-800.0, 0.0)):
        sure = {"w": torch.zeros(D), "b": torch.tensor(size)}
        opened = gate("probe", sure, soft=True).open(h, seen)
        assert torch.equal(opened, torch.where(seen.content_BL, expected, 0.0).to(opened))


# The cap


def test_the_cap_is_reached_and_what_is_outside_stays(h: Tensor) -> None:
    made = CapRule(cap(h.flatten(0, 1)), Context(D))
    v = 4 * normal(D, seed=3)
    change = v.expand_as(h)
    factors = made.factor(h, change)
    before, after = made.distance(h), made.distance(h + factors[..., None] * change)
    budget = cap(h.flatten(0, 1)).budget
    outside, whole = before > budget, factors == 1
    between = ~outside & ~whole
    assert outside.any() and between.any()
    assert not factors[outside].any()
    assert close(after[between], torch.full_like(after[between], budget))
    assert bool((after[whole] <= budget + 1e-12).all())
    # A smaller strength is cut to the same place, and one within the budget is not cut.
    double = made.factor(h, 2 * change)
    assert close(2 * double[between], factors[between])
    assert bool((made.factor(h, 1e-9 * change)[before < budget - 1e-6] == 1).all())
    # Along what the components do not see, nothing holds it.
    basis = cap(h.flatten(0, 1)).vectors.tensors["basis"]
    unseen = v - (v @ basis.T) @ basis
    assert bool((made.factor(h, 1e6 * unseen.expand_as(h))[~outside] > 0.999).all())


# Nothing waits for a GPU


class NoWaiting(TorchDispatchMode):
    """Raises at operators for which the host would wait for a GPU."""

    WAIT = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "unique")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        assert not any(word in name for word in self.WAIT), name
        indices = args[1] if "aten.index." in name else ()
        assert not any(i is not None and i.dtype == torch.bool for i in indices), name
        return func(*args, **(kwargs or {}))


def test_edits_gates_and_cap_do_not_wait_for_the_device(h: Tensor, sae: SparseAutoencoder) -> None:
    rows = h.flatten(0, 1)
    context = Context(D, sae=sae)
    made = [edit_rule(edit, context) for edit in edits(D, SITE, rows).values()]
    opened = [
        gate_rule(each, context)
        for each in gates(D, SITE, rows).values()
        if each.vectors is not None
    ]
    limit, seen = CapRule(cap(rows), context), seen_by(h, 20)
    for _ in range(2):  # at first vectors are moved to where the activations are
        with NoWaiting():
            changes = [each.change(h) for each in made if not isinstance(each, LatentEdit)]
            for change in changes:
                limit.factor(h, change.expand_as(h))
            for each in opened:
                each.open(h, seen)
    with pytest.raises(AssertionError, match="nonzero"), NoWaiting():
        h.nonzero()


# Wrong input

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"kind": "project_out"}, "project_out needs the vector u"),
    ({"kind": "add", "tensors": {"V": normal(D)}}, r"no vector 'V'; its vectors are v"),
    ({"kind": "add", "tensors": {"v": normal(D + 1)}}, r"shape \[13\], but must have \[D\] with D"),
    ({"kind": "rotate", "tensors": {"b1": normal(D), "b2": 2 * normal(D)}}, "along the others"),
    ({"kind": "project_out", "tensors": {"u": torch.zeros(D)}}, "0 or along the others"),
    ({"kind": "add", "tensors": {"v": torch.full((D,), math.inf)}}, "vector v of add is infinite"),
    (
        {"kind": "rotate", "tensors": {"b1": normal(D)}, "settings": {"angel": 3.0}},
        "no setting 'angel'; did you mean angle",
    ),
    ({"kind": "clamp"}, "clamp works with features, and there is none"),
    ({"kind": "clamp", "features": features(1.0)}, "give the autoencoder"),
    ({"kind": "diagonal", "features": features(1.0)}, "diagonal needs the vector w"),
    (
        {"kind": "latents", "sae": True, "tensors": {"latents": torch.tensor([99])}},
        "needs the vector w",
    ),
    (
        {
            "kind": "latents",
            "sae": True,
            "tensors": {"latents": torch.tensor([99]), "w": torch.ones(1), "b": torch.ones(1)},
        },
        "no feature 99; the autoencoder's are 0 to 39",
    ),
    (
        {
            "kind": "latents",
            "sae": True,
            "tensors": {"latents": torch.ones(1), "w": torch.ones(1), "b": torch.ones(1)},
        },
        "latents holds no whole numbers",
    ),
    (
        {"kind": "rotate", "tensors": {"b1": normal(D), "b2": normal(D, seed=1)}, "unit": "norm"},
        "unit is norm, and strengths of rotate are in",
    ),
]


@pytest.mark.parametrize(("given", "message"), WRONG)
def test_what_an_edit_cannot_work_with_is_an_input_error(
    sae: SparseAutoencoder, given: dict[str, Any], message: str
) -> None:
    own = dict(given)
    with pytest.raises(InputError, match=message):
        rule(own.pop("kind"), sae if own.pop("sae", False) else None, **own)


def test_more_wrong_input(sae: SparseAutoencoder) -> None:
    with pytest.raises(InputError, match="holds NaN"):
        Vectors({"v": torch.tensor([1.0, torch.nan])})
    with pytest.raises(InputError, match="unit is p99, which only features have"):
        Edit(kind="add", site=SITE, unit="p99", vectors=Vectors({"v": normal(D)}))
    without = dataclasses.replace(features(1.0)[0], p99=None)
    with pytest.raises(InputError, match="feature 5 has no p99"):
        _ = rule("add", sae, features=(without,), unit="p99").push
    with pytest.raises(InputError, match="per_token works with features"):
        gate_rule(Gate(kind="per_token"), Context(D))
    with pytest.raises(InputError, match="setting scope of cosine is 'per_text'"):
        gate("cosine", {"c": normal(D)}, scope="per_text")
    with pytest.raises(InputError, match="a soft probe has no use for"):
        gate("probe", {"w": normal(D)}, 0.5, soft=True)
    flat = Vectors({"mean": normal(D), "basis": normal(2, D), "variances": torch.tensor([1.0, 0])})
    with pytest.raises(InputError, match=r"the least of the variances of cap is 0"):
        CapRule(Cap(vectors=flat, budget=1.0), Context(D))
