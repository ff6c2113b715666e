"""ReFT-r1: its edit in training, its steps, and that a planted direction is found."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsteer.kernels.numerics import row_norms
from sparsteer.sae.common.errors import InputError
from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.steering.fitting.reft import fit_reft, push, step_on_sphere
from sparsteer.steering.fitting.trained_config import ReFTConfig

from .chains import letter, plain_model, without_blocks, wrapped

SITE = "blocks.0.hook_resid_post"
PLANTED_D = torch.nn.functional.normalize(
    torch.tensor([1.0, -2.0, 0.5, 0.0, 1.5, -1.0, 0.3, 2.0], dtype=torch.float64), dim=0
)
PROMPTS = ["bcd", "ghi", "jbe", "dfh", "che", "fib", "jed", "hid"]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def test_with_all_tokens_the_push_is_the_mean_activation() -> None:
    h_BLD, w_D = drawn(3, 6, 8), torch.nn.functional.normalize(drawn(8, seed=1), dim=0)
    real_BL = torch.ones(3, 6, dtype=torch.bool)
    for k in (6, 9):
        pushed = push(h_BLD, w_D, real_BL, k)
        mean_B = (h_BLD @ w_D).relu().mean(1)
        torch.testing.assert_close(
            pushed.changed_BLD, h_BLD + mean_B[:, None, None] * w_D, rtol=1e-12, atol=1e-12
        )
        assert pushed.penalty == 0


def test_a_text_is_pushed_as_if_it_were_alone() -> None:
    h_BLD, w_D = drawn(2, 7, 8), torch.nn.functional.normalize(drawn(8, seed=1), dim=0)
    real_BL = torch.tensor([[True] * 7, [False, True, True, True, True, False, False]])
    both = push(h_BLD, w_D, real_BL, 2)
    alone = push(h_BLD[1:, 1:5], w_D, real_BL[1:, 1:5], 2)
    torch.testing.assert_close(both.changed_BLD[1, 1:5], alone.changed_BLD[0])
    assert torch.equal(both.changed_BLD[1, 5:], h_BLD[1, 5:])
    activations = [(h_BLD[row, real_BL[row]] @ w_D).relu().sort().values for row in range(2)]
    expected = torch.cat([each[:-2] for each in activations]).mean()
    torch.testing.assert_close(both.penalty, expected)


def test_a_step_stays_on_the_sphere() -> None:
    w_D = torch.nn.functional.normalize(drawn(8), dim=0).requires_grad_()
    optimizer = torch.optim.AdamW([w_D], lr=0.1, weight_decay=0.0)
    before_D = w_D.detach().clone()
    for seed in range(5):
        w_D.grad = 100 * drawn(8, seed=seed)
        step_on_sphere(w_D, optimizer)
        assert float(row_norms(w_D.detach())) == pytest.approx(1, abs=1e-12)
    assert not torch.equal(w_D, before_D)
    # A gradient along w itself moves nothing.
    still_D = torch.tensor([1.0, 0.0]).double().requires_grad_()
    still_D.grad = torch.tensor([3.0, 0.0]).double()
    step_on_sphere(still_D, torch.optim.AdamW([still_D], lr=0.1, weight_decay=0.0))
    assert list(map(float, still_D.detach())) == [1, 0]


@pytest.fixture(scope="module")
def planted(tiny_model_folder: Path) -> LanguageModel:
    """A model in which `a` is written and read along the planted direction."""
    model: Any = without_blocks(plain_model(tiny_model_folder, "gpt2"))
    with torch.no_grad():
        model.transformer.ln_f.weight.fill_(1.0)
        model.transformer.ln_f.bias.zero_()
        model.transformer.wte.weight[letter("a")] += 4 * PLANTED_D
        model.lm_head.weight[letter("a")] = 4 * (PLANTED_D - PLANTED_D.mean())
    return wrapped(model, tiny_model_folder)


POSITIVE = [(prompt, "aaaaa") for prompt in PROMPTS]


def test_a_planted_direction_is_found(planted: LanguageModel) -> None:
    config = ReFTConfig(site=SITE, epochs=15, lr=0.1, held_out=0.25)
    losses: list[float] = []
    fitted = fit_reft(
        planted,
        POSITIVE,
        PROMPTS,
        config,
        neutral=["feed"],
        progress=lambda done, total, loss: losses.append(loss),
    )
    (edit,) = fitted.edits
    v_D = edit.tensors["v"]
    assert float(torch.nn.functional.cosine_similarity(v_D, PLANTED_D, dim=0)) > 0.85
    assert float(row_norms(v_D)) == pytest.approx(fitted.report.details["max_activation"])
    assert losses[-1] < 0.7 * losses[0]
    assert fitted.report.separation is not None
    assert fitted.report.separation["auroc"] == 1
    assert fitted.report.separation["n_positive"] == 2
    assert fitted.report.neutral_kl is not None and fitted.report.neutral_kl > 0.1
    tokens = torch.tensor([[1, *planted.tokenize("bcd")]])
    with planted.site(SITE).write(lambda h_BLD: h_BLD + v_D):
        assert int(planted.logits(tokens)[0, -1].argmax()) == letter("a")


def test_seeds_reproduce(planted: LanguageModel) -> None:
    found = [
        fit_reft(planted, POSITIVE, [], ReFTConfig(site=SITE, epochs=1, seed=seed)).edits[0]
        for seed in (3, 3, 4)
    ]
    assert torch.equal(found[0].tensors["v"], found[1].tensors["v"])
    assert not torch.equal(found[0].tensors["v"], found[2].tensors["v"])


def test_texts_without_a_response_are_said(planted: LanguageModel) -> None:
    with pytest.raises(InputError, match="no positive text has a response"):
        fit_reft(planted, [("bcd", "")], [], ReFTConfig(site=SITE))
    with pytest.raises(InputError, match="at least two more"):
        fit_reft(planted, POSITIVE[:1], [], ReFTConfig(site=SITE))
