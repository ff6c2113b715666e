"""Two models of one architecture: a planted change is found, and texts are told apart by it."""

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from sparsteer.kernels.numerics import row_norms
from sparsteer.sae.autoencoder import SparseAutoencoder
from sparsteer.sae.common.errors import InputError
from sparsteer.sae.config import TopKConfig
from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.steering.fitting.model_pair import changed_latents, fit_model_pair
from sparsteer.steering.fitting.trained_config import ModelPairConfig

from .chains import LOWER, letter, plain_model, wrapped

PRE, MIDDLE, END = (
    f"blocks.{n}" for n in ("0.hook_resid_pre", "0.hook_resid_post", "1.hook_resid_post")
)
DELTA_D = torch.tensor([3.0, -1.0, 2.0, 0.0, 0.5, -2.0, 1.0, 1.0], dtype=torch.float64)
TEXTS = ["abcdef", "jihg", "fade a cab", "cafe", "beadgh", "hijab", "gac", "deaf", "bdfh", "iiaj"]


def changed(folder: Path) -> tuple[LanguageModel, LanguageModel]:
    """A model that writes letters, and the same with a bias added behind its first block."""
    pair: list[LanguageModel] = []
    letters = [letter(one) for one in LOWER]
    for delta_D in (0 * DELTA_D, DELTA_D):
        model: Any = plain_model(folder, "gpt2")
        with torch.no_grad():
            head: Tensor = model.lm_head.weight
            kept = torch.zeros(len(head), 1, dtype=torch.bool)
            kept[letters] = True
            head.copy_(torch.where(kept, head, 0))
            model.transformer.h[0].mlp.c_proj.bias += delta_D
        pair.append(wrapped(model, folder))
    return pair[0], pair[1]


def config(**given: Any) -> ModelPairConfig:
    settings: dict[str, Any] = {"sites": (END, MIDDLE, PRE), "batch_size": 4, **given}
    return ModelPairConfig(**settings)


def test_a_planted_bias_is_found_and_gives_the_second_model(tiny_model_folder: Path) -> None:
    first, second = changed(tiny_model_folder)
    fitted = fit_model_pair(first, second, TEXTS, config(), neutral=["abc"])
    found = {edit.site: edit.tensors["v"] for edit in fitted.edits}
    assert list(found) == [PRE, MIDDLE, END]
    assert not found[PRE].any()
    torch.testing.assert_close(found[MIDDLE], DELTA_D, rtol=1e-12, atol=1e-12)
    assert fitted.report.details["cosine_of_halves"][MIDDLE] == pytest.approx(1)
    assert fitted.report.details["norm"][MIDDLE] == pytest.approx(float(row_norms(DELTA_D)))
    tokens = torch.tensor([[1, *first.tokenize("feed")]])
    with first.site(MIDDLE).write(lambda h_BLD: h_BLD + found[MIDDLE]):
        steered = first.logits(tokens)
    torch.testing.assert_close(steered, second.logits(tokens), rtol=1e-10, atol=1e-10)
    assert fitted.report.neutral_kl is not None and fitted.report.neutral_kl > 0


@pytest.mark.slow
def test_swapping_the_models_negates_and_order_does_not_matter(tiny_model_folder: Path) -> None:
    first, second = changed(tiny_model_folder)
    there = fit_model_pair(first, second, TEXTS, config())
    back = fit_model_pair(second, first, TEXTS[::-1], config(batch_size=3))
    for one, other in zip(there.edits, back.edits, strict=True):
        torch.testing.assert_close(one.tensors["v"], -other.tensors["v"], rtol=1e-10, atol=1e-12)


def next_letter(model: LanguageModel, text: str) -> str:
    logits = model.logits(torch.tensor([[1, *model.tokenize(text)]]))
    return cast(Any, model.tokenizer).decode([int(logits[0, -1].argmax())])


def test_texts_are_counted_by_who_is_right(tiny_model_folder: Path) -> None:
    first, second = changed(tiny_model_folder)
    guesses = [(next_letter(first, text), next_letter(second, text)) for text in TEXTS]
    differing = [n for n, (one, other) in enumerate(guesses) if one != other]
    assert 4 <= len(differing) <= len(TEXTS)
    # The first two that differ are answered by the second model, the third by the first, the rest
    # by neither; where both say the same, both are right.
    answers = [one for one, _ in guesses]
    for place, number in enumerate(differing):
        answers[number] = guesses[number][1 if place < 2 else 0]
        if place > 2:
            answers[number] = next(c for c in LOWER if c not in guesses[number])
    given = config(keep="gain")
    fitted = fit_model_pair(first, second, TEXTS, given, answers=answers)
    details = fitted.report.details
    same = len(TEXTS) - len(differing)
    counts = {name: details[name] for name in ("gain", "loss", "both", "neither", "disagree")}
    assert counts == {
        "gain": 2,
        "loss": 1,
        "both": same,
        "neither": len(differing) - 3,
        "disagree": len(differing),
    }
    assert fitted.report.n_texts == 2
    alone = fit_model_pair(first, second, [TEXTS[n] for n in differing], config())
    kept = fit_model_pair(first, second, TEXTS, config(keep="disagree"))
    assert kept.report.n_texts == len(differing)
    for one, other in zip(kept.edits, alone.edits, strict=True):
        torch.testing.assert_close(one.tensors["v"], other.tensors["v"], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("tokens", ["last", "answer"])
@pytest.mark.slow
def test_only_the_tokens_that_are_asked_for_count(tiny_model_folder: Path, tokens: str) -> None:
    first, second = changed(tiny_model_folder)
    answers = ["ab"] * len(TEXTS)
    given = config(sites=(END,), tokens=tokens)
    (edit,) = fit_model_pair(first, second, TEXTS, given, answers=answers).edits
    rows: list[Tensor] = []
    for text in TEXTS:
        ids = torch.tensor([[1, *first.tokenize(text + "ab")]])
        difference_LD = second.site(END).read(ids)[0] - first.site(END).read(ids)[0]
        rows.append(difference_LD[-3:-2] if tokens == "last" else difference_LD[-2:])
    torch.testing.assert_close(edit.tensors["v"], torch.cat(rows).mean(0))


def test_latents_that_change_are_named(tiny_model_folder: Path) -> None:
    first, second = changed(tiny_model_folder)
    sae = SparseAutoencoder(TopKConfig(d_model=8, n_latents=16, k=3), seed=2).double()
    with torch.no_grad():
        sae.W_enc[5] = DELTA_D / row_norms(DELTA_D)
    found = changed_latents(first, second, sae, MIDDLE, TEXTS, top=4)
    assert found[0][0] == 5
    assert found[0][2] > found[0][1]
    assert changed_latents(first, second, sae, PRE, TEXTS) == []


def test_models_that_do_not_go_together_are_said(tiny_model_folder: Path) -> None:
    first, second = changed(tiny_model_folder)
    other = wrapped(plain_model(tiny_model_folder, "gpt2", layers=3), tiny_model_folder)
    with pytest.raises(InputError, match="one architecture"):
        fit_model_pair(first, other, TEXTS, config())
    with pytest.raises(InputError, match="needs the right answer"):
        fit_model_pair(first, second, TEXTS, config(keep="loss"))
    with pytest.raises(InputError, match="10 texts and 1 answers"):
        fit_model_pair(first, second, TEXTS, config(), answers=["a"])
    with pytest.raises(InputError, match="none of the 10 texts"):
        fit_model_pair(first, first, TEXTS, config(keep="disagree"))
