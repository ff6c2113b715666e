"""ReFT-r1: one direction, trained to detect a concept in texts and to write it."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from ...kernels.numerics import at_least_float32
from ...sae.common.errors import InputError
from ...sae.language_model.model import LanguageModel
from .affine_maps import aurocs
from .fitted import FitReport, Fitted, fitted_edit
from .neutral import with_neutral
from .trained_capture import TextBatch, frozen, site_activations, text_batches
from .trained_config import ReFTConfig
from .trained_report import held_out_split

_CLIP_NORM = 1.0


@dataclass(frozen=True, eq=False)
class Push:
    """What the direction does to a batch in training."""

    activations_BL: Float[Tensor, "B L"]
    """relu(h . w); 0 at padding."""
    changed_BLD: Float[Tensor, "B L D"]
    """h plus the mean of each text's largest activations times w, at every token."""
    penalty: Float[Tensor, ""]
    """The mean of the other activations; 0 if there are none."""


def push(
    h_BLD: Float[Tensor, "B L D"], w_D: Float[Tensor, "D"], real_BL: Bool[Tensor, "B L"], k: int
) -> Push:
    """The edit of ReFT-r1 in training: h'_t = h_t + mean of the k largest relu(h . w) times w.

    Args:
        h_BLD: activations.
        w_D: the direction, of norm 1.
        real_BL: which are tokens of the text that count; others are neither read nor changed.
        k: how many count; all of a text with fewer tokens.
    """
    activations_BL = torch.where(real_BL, (h_BLD.to(w_D) @ w_D).relu(), 0)
    sorted_BL = activations_BL.sort(dim=1, descending=True).values
    n_real_B = real_BL.sum(1)
    n_largest_B = n_real_B.clamp(max=k)
    places_L = torch.arange(h_BLD.shape[1], device=h_BLD.device)
    is_largest_BL = places_L < rearrange(n_largest_B, "b -> b 1")
    size_B = torch.where(is_largest_BL, sorted_BL, 0).sum(1) / n_largest_B.clamp(min=1)
    # Padding has activation 0 and adds nothing to the others' sum.
    others = torch.where(is_largest_BL, 0, sorted_BL).sum()
    n_others = (n_real_B - n_largest_B).sum().clamp(min=1)
    change_BLD = rearrange(size_B, "b -> b 1 1") * w_D
    change_BLD = torch.where(rearrange(real_BL, "b l -> b l 1"), change_BLD, 0)
    return Push(activations_BL, h_BLD + change_BLD.to(h_BLD), others / n_others)


def fit_reft(
    model: LanguageModel,
    positive: Sequence[tuple[str, str]],
    negative: Sequence[str],
    config: ReFTConfig,
    *,
    neutral: Sequence[str] = (),
    progress: Callable[[int, int, float], None] = lambda done, total, loss: None,
) -> Fitted:
    """Train ReFT-r1 (Wu et al., AxBench, arXiv 2501.17148): a direction by which the model, pushed
    along it, writes the positive responses.

    The loss is the cross entropy of the responses' tokens under the push, plus a penalty on the
    activations of tokens that are not among the k largest, which grows during training. w stays of
    norm 1: before each step of AdamW the part of the gradient along w is taken away.

    Args:
        model: the language model.
        positive: prompt and response that has the concept; the prompt may be empty.
        negative: texts without it. They are not trained on; the held-out ones of them show how well
            the direction detects the concept.
        config: site, and how long.
        neutral: texts for the cost that is reported; none are needed.
        progress: told of each step: steps done, steps in all, and the loss.

    Returns:
        An `add` edit along w, as long at strength 1 as the largest activation relu(h . w) on the
        positive texts; `max_activation` in the report's details.

    Raises:
        InputError: no positive text has a response, there are too few texts, the loss is NaN, or
            the direction fires on no positive text.
    """
    site = model.site(config.site).name
    examples, apart = _examples(model, positive, config)
    dtype = at_least_float32(model.dtype)
    draw = torch.Generator().manual_seed(config.seed)
    drawn_D = torch.randn(model.d_model, generator=draw, dtype=torch.float64)
    w_D = normalize(drawn_D, dim=0).to(model.device, dtype).requires_grad_()
    optimizer = torch.optim.AdamW([w_D], lr=config.lr, weight_decay=0.0)
    order = list(range(len(examples)))
    per_epoch = -(-len(examples) // config.texts_per_step)
    total = config.epochs * per_epoch
    losses: list[float] = []
    with frozen(model):
        for epoch in range(config.epochs):
            random.Random(config.seed * 1_000_003 + epoch).shuffle(order)
            for start in range(0, len(order), config.texts_per_step):
                chosen = [examples[n] for n in order[start : start + config.texts_per_step]]
                done = len(losses)
                for group in optimizer.param_groups:
                    group["lr"] = config.lr * (1 - done / total)
                loss = _backward(model, site, w_D, chosen, config, config.penalty * done / total)
                if not torch.isfinite(torch.tensor(loss)):
                    raise InputError(
                        f"the loss is {loss} at step {done}; give a smaller lr than {config.lr:g}"
                    )
                step_on_sphere(w_D, optimizer)
                losses.append(loss)
                progress(done + 1, total, loss)
    direction_D = w_D.detach()
    return _fitted(model, site, direction_D, examples, apart, negative, neutral, config, losses)


@torch.no_grad()
def step_on_sphere(w_D: Float[Tensor, "D"], optimizer: torch.optim.Optimizer) -> None:
    """One step with the gradient that is there, along the unit sphere; w has norm 1 after it."""
    gradient = w_D.grad
    assert gradient is not None
    gradient -= (gradient @ w_D) * w_D
    torch.nn.utils.clip_grad_norm_([w_D], _CLIP_NORM)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    w_D.copy_(normalize(w_D, dim=0))


@dataclass(frozen=True, eq=False)
class _Example:
    ids: list[int]
    n_prompt: int
    """Tokens before the response, BOS among them."""


def _examples(
    model: LanguageModel, positive: Sequence[tuple[str, str]], config: ReFTConfig
) -> tuple[list[_Example], list[_Example]]:
    """The positive texts to train on, and those held out."""
    begin = [] if model.bos_id is None else [model.bos_id]
    found: dict[tuple[int, ...], _Example] = {}
    for prompt, response in positive:
        before = begin + model.tokenize(prompt)
        longest = min(config.max_length + len(begin), model.max_context)
        ids = (before + model.tokenize(response))[:longest]
        # Without BOS the first token has nothing before it from which it could be told.
        if len(ids) > max(1, len(before)):
            found[tuple(ids)] = _Example(ids, max(1, len(before)))
    if not found:
        raise InputError(
            "no positive text has a response within max_length; give texts, or a larger max_length"
        )
    return held_out_split(list(found.values()), config.held_out, config.seed)


def _backward(
    model: LanguageModel,
    site: str,
    w_D: Float[Tensor, "D"],
    examples: Sequence[_Example],
    config: ReFTConfig,
    penalty: float,
) -> float:
    """Put the gradient of the loss on some texts into w; the loss."""
    batches = text_batches(model, [example.ids for example in examples], len(examples))
    n_targets = sum(len(example.ids) - example.n_prompt for example in examples)
    total = 0.0
    for batch in batches:
        penalties: list[Tensor] = []

        def edit(
            h_BLD: Tensor, batch: TextBatch = batch, penalties: list[Tensor] = penalties
        ) -> Tensor:
            pushed = push(h_BLD, w_D, _pushed_tokens(model, batch).to(h_BLD.device), config.k)
            penalties.append(pushed.penalty)
            return pushed.changed_BLD

        with model.site(site).write(edit):
            logits_BLV = model.run(batch.tokens_BL, batch.mask_BL)
        is_target_BL = torch.zeros_like(batch.mask_BL)
        for row, number in enumerate(batch.texts):
            is_target_BL[row, examples[number].n_prompt : len(examples[number].ids)] = True
        logits_NV = logits_BLV[:, :-1][is_target_BL[:, 1:].to(logits_BLV.device)]
        targets_N = batch.tokens_BL[:, 1:][is_target_BL[:, 1:]].to(logits_NV.device)
        wide_NV = logits_NV.to(at_least_float32(logits_NV.dtype))
        loss = cross_entropy(wide_NV, targets_N, reduction="sum") / n_targets
        loss = loss + penalty * penalties[0] * len(batch.texts) / len(examples)
        loss.backward()  # pyright: ignore[reportUnknownMemberType] - untyped builtin
        total += float(loss.detach())
    return total


def _pushed_tokens(model: LanguageModel, batch: TextBatch) -> Bool[Tensor, "B L"]:
    """All tokens of the texts but BOS, whose activation is far from all others'."""
    ids = torch.tensor(model.special_ids, dtype=batch.tokens_BL.dtype)
    return batch.mask_BL & ~torch.isin(batch.tokens_BL, ids)


def _fitted(
    model: LanguageModel,
    site: str,
    w_D: Float[Tensor, "D"],
    examples: Sequence[_Example],
    held_out: Sequence[_Example],
    negative: Sequence[str],
    neutral: Sequence[str],
    config: ReFTConfig,
    losses: Sequence[float],
) -> Fitted:
    """The edit and what is known of it."""
    begin = [] if model.bos_id is None else [model.bos_id]

    def rows(texts: Sequence[str]) -> list[list[int]]:
        room = min(config.max_length, model.max_context - len(begin))
        return [begin + model.tokenize(text)[:room] for text in texts if text]

    fired_N = _largest(model, site, w_D, [example.ids for example in examples])
    largest = float(fired_N.max())
    if not largest > 0:
        raise InputError(
            "the direction fires on no positive text, so it has no size; train for more epochs, or "
            "with another seed"
        )
    v_D = largest * w_D
    separation = None
    if held_out and negative:
        sides = [
            _largest(model, site, w_D, part)
            for part in ([example.ids for example in held_out], rows(negative))
        ]
        separation = {
            "auroc": float(aurocs(sides[0][:, None], sides[1][:, None])),
            "n_positive": float(len(sides[0])),
            "n_negative": float(len(sides[1])),
        }
    report = FitReport(
        method="reft_r1",
        n_texts=len(examples),
        n_tokens=sum(len(example.ids) for example in examples),
        separation=separation,
        details={
            "max_activation": largest,
            "loss_first": losses[0],
            "loss_last": losses[-1],
            "steps": len(losses),
        },
    )
    edit = fitted_edit("add", site, {"v": v_D})
    fitted = Fitted(method="reft_r1", edits=(edit,), report=report)
    return with_neutral(fitted, model, neutral, batch_size=config.texts_per_step)


@torch.no_grad()
def _largest(
    model: LanguageModel, site: str, w_D: Float[Tensor, "D"], rows: Sequence[list[int]]
) -> Float[Tensor, "N"]:
    """relu(h . w) of each text's token where it is largest."""
    found: list[Tensor] = []
    for batch in text_batches(model, rows, 16):
        acts_BLD = site_activations(model, [site], batch)[site]
        real_BL = _pushed_tokens(model, batch).to(acts_BLD.device)
        found.append(push(acts_BLD, w_D, real_BL, 1).activations_BL.amax(1))
    return torch.cat(found)
