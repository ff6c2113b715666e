"""What passes inside a model while it reads questions with the untouched model's answers.

Question and answer are the same whatever steers, so that the same tokens are compared. They are
read as generation reads them, the question first and the answer from its cache, so that a gate that
asks what the question holds is open where it is open when an answer is written.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...sae.language_model.model import LanguageModel
from ...sae.language_model.network import is_being_asked
from ..evaluation.reading import Steered, continuation_logits
from .answers import Questions
from .lens import LogitLens, mass_of
from .value_vectors import DownProjection, ValueVector


@dataclass(frozen=True, eq=False, kw_only=True)
class Passed:
    """What was seen in a model; on the CPU, in float64."""

    written_NV: Float[Tensor, "N V"]
    """What each of V neurons writes along the untouched model's value vector of it, at the N
    content tokens of questions and answers: its activation, times the value vector that it has now
    projected on the untouched one, in units of that; the activation where it is the same."""
    questions_N: Int[Tensor, "N"]
    """Of which question each token is."""
    masses_AL: Float[Tensor, "A L"]
    """At the A tokens from which a token of an answer is predicted: the probability of the
    concept's tokens behind each of L layers by the logit lens, and behind the last by the model."""
    questions_A: Int[Tensor, "A"]
    """Of which question each of them is."""


@torch.no_grad()
def passed(
    model: LanguageModel,
    questions: Questions,
    steered: Steered,
    *,
    projections: Sequence[DownProjection],
    vectors: Sequence[ValueVector],
    lens: LogitLens,
    tokens_T: Int[Tensor, "T"],
    batch_size: int = 16,
) -> Passed:
    """Read questions with the untouched model's answers under `steered`; questions without an
    answer are passed over.

    Args:
        model: the language model, whose key-value cache works.
        questions: the questions and answers.
        steered: how the model is steered or changed.
        projections: the model's down projections.
        vectors: the neurons that are watched.
        lens: the model's logit lens.
        tokens_T: the concept's tokens.
        batch_size: questions in a pass.
    """
    found: dict[int, tuple[Tensor, Tensor]] = {}
    for batch in _batches(model, questions, batch_size):
        rows = [questions.rows[number] for number in batch]
        answers = [questions.answer_tokens[number] for number in batch]
        with _watching(model, projections, vectors) as (seen, within):
            logits_BCV = continuation_logits(model, rows, answers, within(steered))
        acts_BTV = torch.cat(seen.neurons, dim=1)
        n_prompt = max(map(len, rows))
        layers_BCD = [
            torch.cat([passes[0][:, -1:], *passes[1:]], dim=1) for passes in seen.residuals
        ]
        for row, number in enumerate(batch):
            text, length = [*rows[row], *answers[row]], len(answers[row])
            content_L = ~model.excluded_tokens(torch.tensor([text]))[0, :-1]
            first = n_prompt - len(rows[row])
            own_LV = acts_BTV[row, first : first + len(text) - 1]
            masses = [lens.mass(acts_BCD[row, :length], tokens_T) for acts_BCD in layers_BCD]
            masses.append(mass_of(logits_BCV[row, :length], tokens_T))
            found[number] = (own_LV[content_L], torch.stack(masses, dim=1))
    numbers = sorted(found)
    return Passed(
        written_NV=torch.cat([found[number][0] for number in numbers]),
        questions_N=_repeated(numbers, [len(found[number][0]) for number in numbers]),
        masses_AL=torch.cat([found[number][1] for number in numbers]),
        questions_A=_repeated(numbers, [len(found[number][1]) for number in numbers]),
    )


@dataclass(frozen=True, eq=False)
class _Seen:
    """What the hooks saw, pass by pass: of the prompts, then of what follows them."""

    neurons: list[Float[Tensor, "B T V"]]
    residuals: list[list[Float[Tensor, "B T D"]]]
    """Of each layer but the last."""


_Within = Callable[[Steered], Steered]
"""From a way to steer to the same with the hooks, which see what is steered."""


@contextmanager
def _watching(
    model: LanguageModel, projections: Sequence[DownProjection], vectors: Sequence[ValueVector]
) -> Generator[tuple[_Seen, _Within]]:
    """Give what the hooks see, and a function that puts them into a way to steer.

    Hooks on one module run in the order in which they were put there, so those that are to see the
    steered activations come behind those that steer.
    """
    n_read = model.n_layers - 1
    seen = _Seen([], [[] for _ in range(n_read)])
    by_layer: dict[int, list[int]] = {}
    for number, vector in enumerate(vectors):
        by_layer.setdefault(vector.layer, []).append(number)
    last = max(by_layer, default=-1)
    own_rows = {
        each.layer: _rows(each, vectors, by_layer[each.layer])
        for each in projections
        if each.layer in by_layer
    }
    parts: dict[int, Tensor] = {}

    def neurons_of(projection: DownProjection) -> Callable[..., None]:
        layer = projection.layer
        numbers, own_ND = by_layer[layer], own_rows[projection.layer]
        neurons = [vectors[number].neuron for number in numbers]
        squares_N = own_ND.square().sum(1)
        along_N = (_rows(projection, vectors, numbers) * own_ND).sum(1)
        shares_N = torch.where(squares_N > 0, along_N / squares_N, 1.0)

        def note(module: object, inputs: tuple[Any, ...]) -> None:
            if is_being_asked():
                return
            acts_BTN = inputs[0][..., neurons].double().cpu() * shares_N
            for place, number in enumerate(numbers):
                parts[number] = acts_BTN[..., place]
            if layer == last:
                seen.neurons.append(torch.stack([parts[n] for n in range(len(vectors))], dim=-1))

        return note

    def residual_of(layer: int) -> Callable[[Tensor], None]:
        def note(acts_BTD: Tensor) -> None:
            seen.residuals[layer].append(acts_BTD.clone())

        return note

    def within(steered: Steered) -> Steered:
        @contextmanager
        def both() -> Generator[None]:
            with ExitStack() as stack:
                stack.enter_context(steered())
                for each in projections:
                    if each.layer in by_layer:
                        hook = neurons_of(each)
                        stack.callback(each.module.register_forward_pre_hook(hook).remove)
                for layer in range(n_read):
                    # The next layer's input is what all edits behind this layer have left.
                    name = f"blocks.{layer + 1}.hook_resid_pre"
                    stack.enter_context(model.network.hooked(name, residual_of(layer)))
                yield

        return both

    yield seen, within


def _rows(
    projection: DownProjection, vectors: Sequence[ValueVector], numbers: Sequence[int]
) -> Float[Tensor, "N D"]:
    """The value vectors that the neurons have now."""
    return torch.stack([projection.rows_FD[vectors[n].neuron].double().cpu() for n in numbers])


def _batches(
    model: LanguageModel, questions: Questions, batch_size: int
) -> Generator[Sequence[int]]:
    """The numbers of questions that are read together, of like lengths."""
    lengths = [len(answer) for answer in questions.answer_tokens]
    order = sorted(
        (number for number, length in enumerate(lengths) if length),
        key=lambda number: (lengths[number], len(questions.rows[number])),
    )
    at_once = 1 if model.wrong_padding else batch_size
    for start in range(0, len(order), at_once):
        yield order[start : start + at_once]


def _repeated(numbers: Sequence[int], lengths: Sequence[int]) -> Int[Tensor, "N"]:
    return torch.tensor(numbers, dtype=torch.int64).repeat_interleave(
        torch.tensor(lengths, dtype=torch.int64)
    )
