"""The gradient of an observable by the activation at a site, through the rest of the model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...kernels.numerics import at_least_float32
from ...sae.common.errors import InputError
from ...sae.language_model.model import LanguageModel
from .observables import Observable
from .trained_capture import TextBatch, frozen
from .trained_config import ObservablePositions

_MOST_STEPS = 60
"""In search of the boundary; a few are enough unless the observable jumps."""


@dataclass(frozen=True, eq=False)
class PromptGradient:
    """Of the observable behind a prompt, at one site."""

    value: float
    """The observable."""
    h_LD: Float[Tensor, "L D"]
    """The activations of the prompt's tokens."""
    gradient_LD: Float[Tensor, "L D"]
    """Of the observable behind the last token, by each of them."""


def prompt_gradients(
    model: LanguageModel, site: str, observable: Observable, batches: Sequence[TextBatch]
) -> list[PromptGradient]:
    """The observable behind each prompt and its gradient, in the order of the prompts.

    Attention patterns and norms take part: it is the exact first-order effect of a change at the
    site. Gradients are in at least float32.
    """
    found: dict[int, PromptGradient] = {}
    for batch in batches:
        h_BLD, gradient_BLD, value_B = _backward(model, site, observable, batch, None)
        for row, number in enumerate(batch.texts):
            real_L = batch.mask_BL[row].to(h_BLD.device)
            found[number] = PromptGradient(
                float(value_B[row]), h_BLD[row, real_L], gradient_BLD[row, real_L]
            )
    return [found[number] for number in sorted(found)]


def boundary_gradients(
    model: LanguageModel,
    site: str,
    observable: Observable,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
) -> tuple[list[PromptGradient], int]:
    """Gradients halfway between the prompts of each pair, where the observable is 0.

    The activations at the site are mixed, (1 - t) of one prompt and t of the other at all of its
    tokens, and t is found by the Illinois variant of false position.

    Args:
        model: the language model.
        site: name of the site.
        observable: of the token behind the prompts.
        pairs: token ids of prompts with as many tokens, such as the same sentence about a man and
            about a woman, of which one has a positive and the other a negative observable.

    Returns:
        The gradients, and how many pairs were left out as the observable has one sign for both.

    Raises:
        InputError: the prompts of a pair differ in length, or no pair has two signs.
    """
    found: list[PromptGradient] = []
    n_excluded = 0
    for first, second in pairs:
        if len(first) != len(second):
            raise InputError(
                f"the prompts of a pair have {len(first)} and {len(second)} tokens; the boundary "
                "between them needs equally many"
            )
        batches = [_alone(tokens) for tokens in (first, second)]
        ends = [_backward(model, site, observable, batch, None) for batch in batches]
        values = [float(value_B[0]) for _, _, value_B in ends]
        if values[0] * values[1] > 0:
            n_excluded += 1
            continue
        (low_BLD, _, _), (high_BLD, _, _) = ends

        def at(
            t: float, low_BLD: Tensor = low_BLD, high_BLD: Tensor = high_BLD
        ) -> Float[Tensor, "1 L D"]:
            return (1 - t) * low_BLD + t * high_BLD

        def value(t: float, batch: TextBatch = batches[0], at: _Mixed = at) -> float:
            logits_1LV = _logits(model, site, batch, at(t))
            return float(observable.value(logits_1LV[0, -1]))

        mixed_BLD = at(_root(value, values[0], values[1]))
        h_BLD, gradient_BLD, value_B = _backward(model, site, observable, batches[0], mixed_BLD)
        found.append(PromptGradient(float(value_B[0]), h_BLD[0], gradient_BLD[0]))
    if not found:
        raise InputError(
            "no pair of prompts has an observable of both signs; give prompts that call for the "
            "tokens on either side"
        )
    return found, n_excluded


def mean_gradient(
    gradients: Sequence[PromptGradient], positions: ObservablePositions
) -> Float[Tensor, "D"]:
    """The mean over prompts of how the observable grows as one vector is added at all tokens of the
    prompt, or at the last only."""
    of_prompts = [
        each.gradient_LD.sum(0) if positions == "all" else each.gradient_LD[-1]
        for each in gradients
    ]
    return torch.stack(of_prompts).mean(0)


_Mixed = Callable[[float], Tensor]


def _root(function: Callable[[float], float], at_0: float, at_1: float) -> float:
    """Where a function is 0 between 0 and 1, at which its signs differ."""
    low, high, below, above = 0.0, 1.0, at_0, at_1
    scale = max(abs(at_0), abs(at_1))
    if scale == 0:
        return 0.0
    middle, side = 0.0, 0
    for _ in range(_MOST_STEPS):
        middle = (low * above - high * below) / (above - below)
        value = function(middle)
        if abs(value) <= 1e-12 * scale or high - low < 1e-15:
            break
        if (value > 0) == (above > 0):
            high, above = middle, value
            below *= 0.5 if side == 1 else 1.0
            side = 1
        else:
            low, below = middle, value
            above *= 0.5 if side == -1 else 1.0
            side = -1
    return middle


@torch.no_grad()
def _logits(
    model: LanguageModel, site: str, batch: TextBatch, given_BLD: Float[Tensor, "B L D"]
) -> Float[Tensor, "B L V"]:
    """The logits as the model goes on with other activations at the site."""
    with model.site(site).write(lambda h_BLD: given_BLD.to(h_BLD).clone()):
        return model.run(batch.tokens_BL, batch.mask_BL)


def _backward(
    model: LanguageModel,
    site: str,
    observable: Observable,
    batch: TextBatch,
    given_BLD: Float[Tensor, "B L D"] | None,
) -> tuple[Float[Tensor, "B L D"], Float[Tensor, "B L D"], Float[Tensor, "B"]]:
    """Activations at the site (those given, or the prompts' own), the gradient of the observable
    behind each row's last token by them, and the observable."""
    leaves: list[Tensor] = []

    def leaf(h_BLD: Tensor) -> Tensor:
        value = h_BLD if given_BLD is None else given_BLD.to(h_BLD)
        leaves.append(value.detach().clone().requires_grad_())
        return leaves[0].clone()  # which the layer may change in place

    last_B = _last_places(batch.mask_BL)
    with torch.enable_grad(), frozen(model), model.site(site).write(leaf):
        logits_BLV = model.run(batch.tokens_BL, batch.mask_BL)
        rows_B = torch.arange(len(last_B), device=logits_BLV.device)
        value_B = observable.value(logits_BLV[rows_B, last_B.to(logits_BLV.device)])
        (gradient_BLD,) = torch.autograd.grad(value_B.sum(), leaves[0])
    wide = at_least_float32(gradient_BLD.dtype)
    return leaves[0].detach().to(wide), gradient_BLD.to(wide), value_B.detach()


def _last_places(mask_BL: Bool[Tensor, "B L"]) -> Int[Tensor, "B"]:
    """The place of each row's last token."""
    places_L = torch.arange(mask_BL.shape[1], device=mask_BL.device)
    return (mask_BL * places_L).argmax(dim=1)


def _alone(tokens: Sequence[int]) -> TextBatch:
    tokens_1L = torch.tensor([list(tokens)])
    mask_1L = torch.ones_like(tokens_1L, dtype=torch.bool)
    return TextBatch(tokens_1L, mask_1L, mask_1L, (0,))
