"""What every kind of edit and gate has in common: on the bridge and on a plain transformers model,
cached and not, in a batch and alone, written and read again, and by the definition of the whole."""

import dataclasses
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsteer.kernels.numerics import row_norms
from sparsteer.sae.autoencoder import SparseAutoencoder
from sparsteer.sae.language_model.kv_cache import new_cache
from sparsteer.sae.language_model.sites import Site
from sparsteer.steering.config import Sampling
from sparsteer.steering.generation import Generation
from sparsteer.steering.interventions.edits.base import edit_rule
from sparsteer.steering.interventions.gates.base import gate_rule
from sparsteer.steering.interventions.intervention import Intervention
from sparsteer.steering.interventions.rules import Context
from sparsteer.steering.interventions.spec import Edit, Gate
from sparsteer.steering.interventions.steering import steer
from sparsteer.steering.interventions.token_watch import SeenTokens
from sparsteer.steering.registries import EDITS, GATES
from sparsteer.steering.texts import prompt_tokens

from ..model_families import PROMPTS
from ..plain_families import Twins, hooks, twins
from .cases import cap, edits, gates, random_sae

SITE, EARLIER = "blocks.1.hook_resid_post", "blocks.0.hook_resid_post"
NEW = 5


@pytest.fixture(scope="module")
def both() -> Twins:
    return twins("gpt_neox", torch.float64)


@pytest.fixture(scope="module")
def sae(both: Twins) -> SparseAutoencoder:
    return random_sae(both.bridge.d_model)


@pytest.fixture(scope="module")
def rows(both: Twins) -> Tensor:
    """Activations of content tokens at the site."""
    tokens = torch.tensor([prompt_tokens(both.bridge, "".join(PROMPTS))])
    return both.bridge.site(SITE).read(tokens)[0, 2:]


def prompts(both: Twins) -> list[list[int]]:
    return [prompt_tokens(both.bridge, prompt) for prompt in PROMPTS]


def left_padded(rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    width = max(map(len, rows))
    tokens = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows])
    return {"input_ids": tokens, "attention_mask": (tokens > 0).long()}


def of(edit: Edit, gate: Gate | None = None, **given: Any) -> Intervention:
    return Intervention(edits=(edit,), gate=gate or Gate(), **given)


KINDS = [*edits(8, SITE, torch.randn(9, 8).double()), "capped"]
GATE_KINDS = [*gates(8, EARLIER, torch.randn(9, 8).double())]


def intervention(name: str, both: Twins, rows: Tensor) -> Intervention:
    """The one of an edit, a gate, or both with ` under ` between them."""
    width = both.bridge.d_model
    known, open_at = edits(width, SITE, rows), gates(width, EARLIER, rows)
    edit, _, gate = name.partition(" under ")
    if edit in open_at:
        return of(known["add_norm"], open_at[edit])
    if edit == "capped":
        return of(known["add"], cap=cap(rows, 0.8))
    return of(known[edit], open_at[gate or "constant"])


def test_every_kind_is_among_the_cases() -> None:
    """So that what holds for all cases holds for all kinds."""
    known = edits(8, SITE, torch.randn(9, 8).double())
    assert {edit.kind for edit in known.values()} == set(EDITS.builtin)
    open_at = gates(8, EARLIER, torch.randn(9, 8).double())
    assert {gate.kind for gate in open_at.values()} == set(GATES.builtin)


NAMES = [
    *KINDS,
    *(f"{edit} under per_token" for edit in ("clamp", "diagonal", "rotate")),
    *(f"{edit} under logistic" for edit in ("ablate", "lowrank", "project_out")),
    *GATE_KINDS,
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.slow_except("clamp under per_token", "cosine_prompt", "capped")
@torch.no_grad()
def test_text_is_the_same_cached_or_not_alone_or_in_a_batch_bridged_or_plain(
    both: Twins, sae: SparseAutoencoder, rows: Tensor, name: str, tmp_path: Path
) -> None:
    spec, own = intervention(name, both, rows), prompts(both)
    sampling = Sampling(max_new_tokens=NEW)

    def text(model: Any, some: list[list[int]], use_cache: bool = True) -> list[list[int]]:
        made = Generation(model, some, sampling, intervention=spec, sae=sae, use_cache=use_cache)
        while not made.done:
            made.step()
        return made.generated

    expected = text(both.bridge, own)
    assert text(both.bridge, own, use_cache=False) == expected
    assert [text(both.plain, [prompt])[0] for prompt in own] == expected
    batch = left_padded(own)
    before = both.hf(**batch).logits
    with spec.apply(both.hf, sae):
        found = both.hf.generate(**batch, max_new_tokens=NEW, do_sample=False, pad_token_id=0)
        steered = both.hf(**batch).logits
    width = batch["input_ids"].shape[1]
    for row, tokens in zip(found[:, width:].tolist(), expected, strict=True):
        assert row[: len(tokens)] == tokens
    assert torch.equal(both.hf(**batch).logits, before)  # leaving restores
    assert hooks(both.hf) == 0
    mask = batch["attention_mask"].bool()
    assert float((steered - before)[mask].abs().max()) > 1e-3
    assert steered.isfinite().all()
    # Written and read again.
    spec.save(tmp_path / "spec")
    again = Intervention.load(tmp_path / "spec")
    assert again == spec
    with steer(both.hf, sae, again):
        assert torch.equal(both.hf(**batch).logits, steered)
    assert Intervention.from_json(spec.to_json()) == spec
    # At strength 0 not even a hook is there.
    idle = dataclasses.replace(
        spec, edits=tuple(dataclasses.replace(edit, strength=0.0) for edit in spec.edits)
    )
    with steer(both.hf, sae, idle):
        assert hooks(both.hf) == 0
        assert torch.equal(both.hf(**batch).logits, before)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.slow_except("min_clamp", "diagonal_support", "probe_soft", "capped")
@torch.no_grad()
def test_a_site_is_changed_by_gate_times_strength_times_what_the_edit_says(
    both: Twins, sae: SparseAutoencoder, rows: Tensor, name: str
) -> None:
    """h' = h + g * strength * (T(h) - h) for every token, whatever the model is run in."""
    spec, model = intervention(name, both, rows), both.plain
    batch = left_padded(prompts(both))
    tokens, mask = batch["input_ids"], batch["attention_mask"].bool()
    h_BLD = model.site(SITE).read(tokens, mask)
    context = Context(model.d_model, sae=sae)
    (edit,) = spec.edits
    seen = SeenTokens(
        tokens_BL=tokens,
        positions_BL=mask.long().cumsum(1) - 1,
        content_BL=~model.excluded_tokens(tokens, mask),
        n_prompt=tokens.shape[1],
        continues=False,
    )
    gate = gate_rule(spec.gate, context)
    read = model.site(spec.gate.site or SITE).read(tokens, mask)
    g_BL = gate.open(read, seen).double()
    if gate.always_open:
        g_BL = torch.ones_like(g_BL)
    assert 0 <= float(g_BL[mask].min()) <= float(g_BL[mask].max()) <= 1
    moved = g_BL[..., None] * edit.strength * edit_rule(edit, context).change(h_BLD)
    if spec.cap is not None:
        mean, basis, variances = (
            spec.cap.vectors.tensors[n] for n in ("mean", "basis", "variances")
        )
        rows_KD = basis / variances.sqrt()[:, None]

        def outside(factors: Tensor) -> Tensor:
            at = h_BLD + factors[..., None] * moved - mean
            return row_norms(at @ rows_KD.T) > spec.cap.budget  # pyright: ignore

        low, high = torch.zeros_like(g_BL), torch.ones_like(g_BL)
        for _ in range(60):  # by bisection
            middle = (low + high) / 2
            low = torch.where(outside(middle), low, middle)
            high = torch.where(outside(middle), middle, high)
        low = torch.where(outside(torch.ones_like(low)), low, 1.0)
        moved = moved * torch.where(outside(torch.zeros_like(low)), 0.0, low)[..., None]
    for each in (both.bridge, both.plain):
        with steer(each, sae, spec):
            found = each.site(SITE).read(tokens, mask)
        torch.testing.assert_close(found[mask], (h_BLD + moved)[mask], rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_edits_at_one_site_read_the_same_activation_however_they_are_nested(
    both: Twins, sae: SparseAutoencoder, rows: Tensor
) -> None:
    known = edits(both.bridge.d_model, SITE, rows)
    names = ("clamp", "rotate", "diagonal", "add_norm")
    batch = left_padded(prompts(both))
    mask = batch["attention_mask"].bool()
    with steer(both.hf, sae, Intervention(edits=tuple(known[name] for name in names))):
        together = both.hf(**batch).logits[mask]
    for order in (names, names[::-1]):
        runs = [steer(both.hf, sae, of(known[name])) for name in order]
        for run in runs:
            run.__enter__()
        nested = both.hf(**batch).logits[mask]
        for run in runs:
            run.__exit__(None, None, None)
        torch.testing.assert_close(nested, together, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_several_sites_are_those_of_one_each_in_a_row(
    both: Twins, sae: SparseAutoencoder, rows: Tensor
) -> None:
    """The later edit reads what the earlier one made, whatever the order in which they are given;
    an edit may have a gate of its own."""
    width = both.bridge.d_model
    open_at = gates(width, EARLIER, rows)
    first = edits(width, EARLIER, rows)["project_out"]
    second = dataclasses.replace(
        edits(width, SITE, rows)["add_features"], gate=open_at["per_token"]
    )
    batch = left_padded(prompts(both))
    mask = batch["attention_mask"].bool()
    for order in ((first, second), (second, first)):
        whole = Intervention(edits=order, gate=open_at["cosine_prompt"])
        assert set(whole.sites) == {SITE, EARLIER}
        with whole.apply(both.plain, sae):
            found = both.hf(**batch).logits[mask]
        with steer(both.hf, sae, of(second)), steer(both.hf, sae, of(first, whole.gate)):
            expected = both.hf(**batch).logits[mask]
        assert torch.equal(found, expected)
    with steer(both.hf, sae, of(first, whole.gate)):
        assert not torch.allclose(both.hf(**batch).logits[mask], found)


def site(both: Twins) -> Site:
    return both.plain.site(SITE)


def noting(both: Twins, noted: list[Tensor]) -> AbstractContextManager[None]:
    """Within the context, what passes the site is noted."""

    def note(h_BLD: Tensor) -> Tensor:
        noted.append(h_BLD)
        return h_BLD

    return site(both).write(note)


@pytest.mark.parametrize("positions", ["all", "prompt", "generated", "last"])
@torch.no_grad()
def test_positions_are_those_of_a_turn_and_never_of_an_earlier_one(
    both: Twins, rows: Tensor, positions: Any
) -> None:
    """A chat of two turns from one cache, and the same read anew."""
    add = edits(both.bridge.d_model, SITE, rows)["add"]
    spec = of(add, positions=positions)
    tokens = torch.tensor([prompt_tokens(both.bridge, "".join(PROMPTS))])[:, :14]
    # Prompt of 4, two tokens that the model wrote, a message of 5, three that it wrote.
    passes = ((0, 4), (4, 5), (5, 6), (6, 11), (11, 12), (12, 13), (13, 14))
    names = {
        "all": set(range(14)),
        "prompt": {0, 1, 2, 3, *range(6, 11)},
        "generated": {4, 5, 11, 12, 13},
        "last": {3, 10},
    }
    changed: set[int] = set()
    name, cache = new_cache(both.hf)
    run = steer(both.hf, None, spec)
    for start, end in passes:
        seen: list[Tensor] = []
        plain: list[Tensor] = []
        # The outer context sees what is read, the inner one what is made of it.
        with noting(both, plain), run, noting(both, seen):
            both.hf(tokens[:, start:end], **{name: cache}, use_cache=True)
        moved = (seen[0] - plain[0]).abs().amax(-1)[0] > 1e-9
        changed |= {start + int(column) for column in moved.nonzero()[:, 0]}
    assert changed == names[positions]
    # Read anew as a prompt of 11 columns, the first turn's answer is not the model's own any more.
    h_BLD = site(both).read(tokens)
    with steer(both.hf, None, spec, prompt_columns=11):
        moved = (site(both).read(tokens) - h_BLD).abs().amax(-1)[0] > 1e-9
    anew = {"prompt": set(range(11)), "generated": {11, 12, 13}, "last": {10}}
    assert set(map(int, moved.nonzero()[:, 0])) == anew.get(positions, set(range(14)))


@torch.no_grad()
def test_the_last_token_of_a_prompt_is_found_behind_and_before_padding(
    both: Twins, rows: Tensor
) -> None:
    spec = of(edits(both.bridge.d_model, SITE, rows)["add"], positions="last")
    own = prompts(both)
    width = max(map(len, own))
    for left in (True, False):
        tokens = torch.tensor(
            [[0] * (width - len(r)) * left + r + [0] * (width - len(r)) * (not left) for r in own]
        )
        mask = tokens > 0
        h_BLD = site(both).read(tokens, mask)
        with steer(both.plain, None, spec):
            moved_BL = (site(both).read(tokens, mask) != h_BLD).any(-1)
        columns = [width - 1 if left else len(row) - 1 for row in own]
        assert torch.equal(moved_BL, torch.nn.functional.one_hot(torch.tensor(columns), width) > 0)
