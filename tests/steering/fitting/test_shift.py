"""The shift of the next-token distribution: none without steering, and little with little."""

import copy
import math
import random
import string
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from math import nan
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsteer.sae.common.errors import InputError
from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.steering.fitting.capture import tokenize_texts
from sparsteer.steering.fitting.config import FitConfig
from sparsteer.steering.fitting.fitted import fitted_edit
from sparsteer.steering.fitting.fitting import fit
from sparsteer.steering.fitting.shift import measure_shift, next_token_entropies
from sparsteer.steering.interventions.intervention import Intervention

from ..plain_families import Twins
from .conftest import listed, randn

SITE = "blocks.1.hook_resid_post"
TEXTS = ["a few words", "b", "and some more of them"]


def applied(model: LanguageModel, strength: float = 1.0) -> AbstractContextManager[object]:
    edit = fitted_edit("add", SITE, {"v": randn(32, seed=4)})
    return Intervention(edits=(replace(edit, strength=strength),)).apply(model)


@pytest.mark.parametrize("kind", ["bridge", "plain"])
def test_nothing_shifts_nothing(both: Twins, kind: str) -> None:
    model: LanguageModel = getattr(both, kind)
    for steering in (nullcontext, lambda: applied(model, 0.0)):
        found = measure_shift(model, steering, TEXTS)
        assert (found.kl_base_steered, found.kl_steered_base, found.kl_steered_base_p95) == (
            0,
            0,
            0,
        )
        assert (found.entropy_change, found.top1_agreement) == (0, 1)
        assert (found.n_texts, found.n_tokens) == (2, 30)


@pytest.mark.parametrize("last", [False, True])
def test_the_figures_are_those_of_the_logits(both: Twins, last: bool) -> None:
    model = both.plain
    found = measure_shift(model, lambda: applied(model), TEXTS, last=last, batch_size=2)
    kls: list[tuple[float, float, float, bool]] = []
    for text in tokenize_texts(model, TEXTS):
        tokens = torch.tensor([text.ids])
        base = model.logits(tokens)[0].log_softmax(-1)
        with applied(model):
            steered = model.logits(tokens)[0].log_softmax(-1)
        for place in text.content_L.nonzero()[:, 0][-1 if last else 0 :]:
            p, q = base[place], steered[place]
            there = float((p.exp() * (p - q)).sum())
            back = float((q.exp() * (q - p)).sum())
            entropies = float((p.exp() * p).sum() - (q.exp() * q).sum())
            kls.append((there, back, entropies, bool(p.argmax() == q.argmax())))
    means = torch.tensor(kls).double().mean(0)
    measured = (
        *(found.kl_base_steered, found.kl_steered_base),
        *(found.entropy_change, found.top1_agreement),
    )
    torch.testing.assert_close(torch.tensor(measured).double(), means, rtol=1e-5, atol=1e-7)
    assert found.n_tokens == len(kls) and found.kl_base_steered > 0.01


def test_little_steering_shifts_by_the_fisher_form(both: Twins) -> None:
    """KL / strength^2 goes to half the variance of the logits' slope under the distribution."""
    model, strength = both.plain, 1e-3
    tokens = torch.tensor([tokenize_texts(model, TEXTS[:1])[0].ids])
    with applied(model, strength):
        above = model.logits(tokens)[0, -1]
    with applied(model, -strength):
        below = model.logits(tokens)[0, -1]
    slope_V = (above - below) / (2 * strength)
    p_V = model.logits(tokens)[0, -1].softmax(-1)
    form = float(p_V @ slope_V.square() - (p_V @ slope_V) ** 2) / 2
    found = measure_shift(model, lambda: applied(model, strength), TEXTS[:1], last=True)
    assert found.kl_base_steered / strength**2 == pytest.approx(form, rel=5e-3)
    assert found.kl_steered_base / strength**2 == pytest.approx(form, rel=5e-3)


def test_equal_logits_have_the_largest_entropy(both: Twins) -> None:
    hf: Any = copy.deepcopy(both.hf)
    hf.lm_head.weight = torch.nn.Parameter(torch.zeros_like(hf.lm_head.weight))
    model = LanguageModel.from_transformers(hf, both.bridge.tokenizer)
    entropies_N = next_token_entropies(model, tokenize_texts(model, TEXTS))
    expected = math.log(model.network.n_vocab)
    assert listed(entropies_N) == pytest.approx([expected] * 3)


def test_entropies_are_those_behind_each_text(both: Twins) -> None:
    model = both.plain
    texts = tokenize_texts(model, TEXTS)
    found = next_token_entropies(model, texts, batch_size=2)
    for text, entropy in zip(texts, found, strict=True):
        p = model.logits(torch.tensor([text.ids]))[0, -1].softmax(-1)
        assert float(entropy) == pytest.approx(float(torch.distributions.Categorical(p).entropy()))


def test_what_cannot_be_compared_is_refused(both: Twins) -> None:
    with pytest.raises(InputError, match="no text has a content token"):
        measure_shift(both.plain, nullcontext, ["a", ""])
    with pytest.raises(InputError, match="steer less"):
        measure_shift(both.plain, lambda: both.plain.site(SITE).write(lambda h: h * nan), TEXTS)


def test_the_entropy_of_the_next_token_is_a_score(both: Twins, tmp_path: Path) -> None:
    """Along the direction that goes with it, unseen texts get another entropy."""
    letters = random.Random(3)
    texts = ["".join(letters.choices(string.ascii_letters, k=4)) for _ in range(150)]
    (tmp_path / "texts.txt").write_text("\n".join(texts[:110]))
    config = FitConfig(
        method="covariance",
        model="tiny",
        site=("blocks.2.hook_resid_post",),
        out=str(tmp_path / "out"),
        scored=str(tmp_path / "texts.txt"),
        score="entropy",
        batch_size=110,
    )
    model, fitted = both.plain, fit(config, both.plain)
    assert fitted.report.details["score_mean"] > 0
    for strength in (-0.02, 0.02):
        steering = fitted.intervention.scaled(strength)
        with_steering = partial(steering.apply, model)
        shift = measure_shift(model, with_steering, texts[110:], last=True, batch_size=80)
        assert shift.entropy_change * strength > 0
