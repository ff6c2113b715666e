"""Text generated a token at a time, steered or not, in batches whose rows do not touch each other.

Prompts are padded on the left and decoded with a key-value cache. Each row draws its own random
numbers, so its text depends on the prompt, the settings and the seed, not on the rest of the batch;
only where max_new_tokens is left open does the longest prompt limit the length of all texts.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..sae.common.errors import InputError
from ..sae.common.wording import counted
from ..sae.language_model.model import LanguageModel
from .config import Sampling
from .decoding import DecodingRows
from .errors import TooStrong
from .interventions.autoencoders import Autoencoders
from .interventions.intervention import Intervention
from .interventions.prepared import PreparedIntervention
from .interventions.row_steering import RowSteering, SteeredRow
from .sampling import RowSampler
from .texts import continuation_text, prompt_tokens, text_before_stop

_MAX_NEW_TOKENS = 64
_NGRAM = 3
INCOHERENT_REPETITION = 0.5
"""A text that repeats itself more than this is likely incoherent."""


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """What was generated after one prompt."""

    text: str
    """The continuation alone, special tokens left out."""
    tokens: tuple[int, ...]
    """Its token ids, the end-of-text token not among them; those of a stop string are, though
    `text` ends before it."""
    stopped: Literal["eos", "stop", "length"]
    """Why it ends: the end-of-text token, one of the strings `stop`, or `max_new_tokens`."""
    steered_tokens: int = 0
    """Tokens of prompt and continuation at which something was added; a last token that the model
    has not read is none of them. 0 where nothing is steered and where every strength is 0."""
    steered_from: int | None = None
    """The first of them, counted from 0 at the prompt's first, BOS; None if there is none."""

    @property
    def repetition(self) -> float:
        """Fraction of its runs of three tokens that occurred before in it; 0 if it has none."""
        return repetition_of(self.tokens)

    @property
    def likely_incoherent(self) -> bool:
        """Whether it repeats itself so much that steering has likely broken it."""
        return self.repetition > INCOHERENT_REPETITION


def repetition_of(tokens: Sequence[int]) -> float:
    """Fraction of the runs of three tokens that occurred before in the text; 0 if it has none."""
    grams = list(zip(*(tokens[start:] for start in range(_NGRAM)), strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


class Generation:
    """A batch of prompts being continued, a token a step.

    Nothing is left on the model between steps, so several generations may take turns.
    """

    def __init__(
        self,
        model: LanguageModel,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        intervention: Intervention | None = None,
        sae: Autoencoders | None = None,
        use_cache: bool = True,
    ) -> None:
        """Take the prompts as token ids, BOS included (see `prompt_tokens`).

        Args:
            model: the language model.
            prompts: token ids of at least one prompt, each of at least one token.
            sampling: how tokens are chosen; its batch_size is not looked at here, and a
                max_new_tokens of None is that of `in_room` for these prompts.
            intervention: how to steer; with features it needs `sae`. None generates what the model
                would.
            sae: the autoencoder of the intervention's features, or that of each site, by name.
            use_cache: False gives the model the whole text anew at each step, which is slower. That
                is also done where the model's cache does not give the same tokens.

        Raises:
            InputError: a prompt is empty, has a token without an embedding or does not fit into the
                model's context, the model takes the padding of prompts of unlike lengths for text,
                or the intervention does not fit the model or the autoencoder.
        """
        if not prompts or not all(prompts):
            raise InputError("a prompt has no token; give at least a word")
        self._model, self._sampling = model, in_room(sampling, model, prompts)
        self._prompts = [model.require_embedded(list(prompt), "a prompt") for prompt in prompts]
        self._intervention = intervention
        prepared = None
        if intervention is not None:
            if sae is None and intervention.needs_autoencoder:
                raise TypeError("an intervention needs the autoencoder that its features are of")
            prepared = PreparedIntervention.of(intervention, model, sae)
        steering = RowSteering(model, [SteeredRow(prepared) for _ in self._prompts])
        self._rows = DecodingRows(model, self._prompts, steering, use_cache=use_cache)
        self._sampler = RowSampler([sampling] * len(prompts), self._prompts, model.device)
        self._stop_ids = stop_ids(model)
        self.generated: list[list[int]] = [[] for _ in prompts]
        """Token ids generated so far, a list for each row."""
        self._ended: list[Literal["eos", "stop"] | None] = [None for _ in prompts]
        self._stopped_texts: dict[int, str] = {}
        self._n_steps = 0

    @property
    def done(self) -> bool:
        """Whether no row goes on."""
        return all(self._ended) or self._n_steps == self._sampling.max_new_tokens

    def step(self) -> None:
        """Add one token to each row that goes on.

        Raises:
            InputError: the intervention is so strong that the model's logits are not numbers.
            ArithmeticError: they are not numbers though nothing is steered.
        """
        logits_BV = self._next_logits()
        chosen_B = self._choose(logits_BV)
        # Together, since the host waits for each copy.
        both_2B = torch.stack([chosen_B, are_numbers(logits_BV).to(chosen_B)]).cpu()
        chosen, numbers = (list(map(int, part_B)) for part_B in both_2B)
        if not all(numbers):
            raise not_numbers(self._model, self._intervention)
        for row, token in enumerate(chosen):
            if self._ended[row]:
                continue
            if token in self._stop_ids:
                self._ended[row] = "eos"
                continue
            self.generated[row].append(token)
            self._look_for_stop(row)
        self._n_steps += 1
        # What stands behind the end of a row is masked, whatever it is.
        go_on = [ended is None for ended in self._ended]
        self._rows.append(chosen_B, None if all(go_on) else torch.tensor(go_on))

    def text(self, row: int) -> str:
        """The row's continuation so far, without a character whose bytes are not complete."""
        if row in self._stopped_texts:
            return self._stopped_texts[row]
        return continuation_text(self._model, self._prompts[row], self.generated[row])

    def results(self) -> list[Continuation]:
        """The continuations so far, in the order of the prompts."""
        return [
            Continuation(
                text=self.text(row),
                tokens=tuple(self.generated[row]),
                stopped=self._ended[row] or "length",
                steered_tokens=len(steered),
                steered_from=steered[0] if steered else None,
            )
            for row, steered in enumerate(map(self._steered, range(len(self._prompts))))
        ]

    def _steered(self, row: int) -> list[int]:
        """The steered positions of a row, rising."""
        n_padding = max(map(len, self._prompts)) - len(self._prompts[row])
        return [int(column) - n_padding for column in self._rows.steered_BT[row].nonzero()[:, 0]]

    def _next_logits(self) -> Float[Tensor, "B V"]:
        logits_BV = self._rows.read()
        for error in self._rows.steering.errors.values():
            raise error
        return logits_BV

    def _choose(self, logits_BV: Float[Tensor, "B V"]) -> Int[Tensor, "B"]:
        return self._sampler.choose(logits_BV)

    def _look_for_stop(self, row: int) -> None:
        """End the row if a stop string has appeared in its text."""
        if self._sampling.stop:
            prompt, generated = self._prompts[row], self.generated[row]
            text = text_before_stop(self._model, prompt, generated, self._sampling.stop)
            if text is not None:
                self._ended[row] = "stop"
                self._stopped_texts[row] = text


def generate(
    model: LanguageModel,
    prompts: Sequence[str],
    sampling: Sampling,
    *,
    intervention: Intervention | None = None,
    sae: Autoencoders | None = None,
    use_cache: bool = True,
) -> list[Continuation]:
    """Continue each prompt and return the continuations in the prompts' order.

    Prompts of like lengths share a batch of `sampling.batch_size`; how they are batched changes
    nothing but rounding.

    Args:
        model: the language model.
        prompts: beginnings of texts; each is read after the model's BOS token.
        sampling: how tokens are chosen.
        intervention, sae, use_cache: how to steer, and with which memory, as for `Generation`.

    Raises:
        InputError: as `Generation`.
    """
    tokenized = [prompt_tokens(model, prompt) for prompt in prompts]
    sampling = in_room(sampling, model, tokenized)
    order = sorted(range(len(prompts)), key=lambda number: len(tokenized[number]))
    found: dict[int, Continuation] = {}
    for start in range(0, len(order), sampling.batch_size):
        batch = order[start : start + sampling.batch_size]
        rows = [tokenized[number] for number in batch]
        generation = Generation(
            model, rows, sampling, intervention=intervention, sae=sae, use_cache=use_cache
        )
        while not generation.done:
            generation.step()
        found.update(zip(batch, generation.results(), strict=True))
    return [found[number] for number in range(len(prompts))]


def in_room(
    sampling: Sampling,
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    *,
    say: Callable[[str], None] = lambda sentence: None,
) -> Sampling:
    """The sampling with a number of new tokens: by default 64, or as many as the model's context
    leaves behind the longest of the prompts if those are fewer.

    Args:
        sampling, model, prompts: as for `Generation`, but of all prompts, whatever their batches.
        say: told where the longest prompt leaves room for fewer than 64.

    Raises InputError if a prompt leaves no room, or less than was asked for.
    """
    longest = max(map(len, prompts), default=0)
    room = model.max_context - longest
    if room < 1:
        raise InputError(
            f"a prompt has {longest} tokens, which leaves no room for another in the "
            f"{model.max_context} that {model.name} can hold; shorten the prompt"
        )
    if sampling.max_new_tokens is None:
        if room < _MAX_NEW_TOKENS:
            say(
                f"texts end after {counted(room, 'token')}, for which the longest prompt (of "
                f"{longest}) leaves room in the {model.max_context} that {model.name} can hold; "
                "shorten it, or continue it in a command of its own, for longer texts"
            )
        return dataclasses.replace(sampling, max_new_tokens=min(_MAX_NEW_TOKENS, room))
    if sampling.max_new_tokens > room:
        raise InputError(
            f"max_new_tokens is {sampling.max_new_tokens}, which with a prompt of {longest} tokens "
            f"exceeds the {model.max_context} that {model.name} can hold; lower it or shorten the "
            "prompt",
            field="max_new_tokens",
        )
    return sampling


def are_numbers(logits_BV: Float[Tensor, "B V"]) -> Bool[Tensor, "B"]:
    """Of which rows the logits are numbers; minus infinity is one."""
    return logits_BV.amax(dim=-1).isfinite()


def not_numbers(
    model: LanguageModel, intervention: Intervention | None
) -> InputError | ArithmeticError:
    """What is wrong where the logits of a row are not numbers."""
    if intervention is None or intervention.changes_nothing:
        return ArithmeticError(
            f"the logits of {model.name} are not numbers, though nothing is steered; "
            "load it in float32"
        )
    return TooStrong(
        f"the model's logits are not numbers any more with {intervention.pushes}; lower the "
        "strength"
    )


def stop_ids(model: LanguageModel) -> set[int]:
    """Tokens that end a text: the tokenizer's, and those that the model's own settings add."""
    settings = getattr(model.network.model, "generation_config", None)
    more = getattr(settings, "eos_token_id", None)
    ids: list[int | None] = [model.eos_id, *(more if isinstance(more, list) else [more])]
    return {token for token in ids if token is not None}
