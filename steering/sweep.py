"""The same prompts steered at several strengths: where the text changes, and where it breaks."""

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from ..sae.common.errors import InputError
from ..sae.common.validation import require_finite
from .config import Sampling
from .generation import INCOHERENT_REPETITION, Continuation, Generation, in_room
from .interventions.intervention import Intervention
from .loading import LoadedRun
from .reading_back import ReadBack, read_back
from .texts import prompt_tokens

STRENGTHS = (-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""What is tried unless the caller says otherwise."""

INCOHERENT_PERPLEXITY = 4.0
"""A text so many times less likely, token for token, than the unsteered one is likely broken."""


@dataclass(frozen=True, kw_only=True)
class SweepRow:
    """What one strength did, over all prompts."""

    strength: float
    """The factor of the intervention's own strengths."""
    texts: tuple[str, ...]
    """The continuation of each prompt."""
    perplexity: float | None
    """Of the unsteered model on the continuations, the geometric mean over the prompts; None where
    no token was written."""
    repetition: float
    """Fraction of the runs of three tokens that occurred before in the text, mean over the
    prompts."""
    activations: dict[int, float]
    """For each steered feature, its mean activation on the continuations as the unsteered model
    reads them, in multiples of its largest activation."""
    likely_incoherent: bool
    """Whether steering has likely broken the text: it repeats itself (`INCOHERENT_REPETITION`) and
    more than the unsteered text does, is far less likely than that one (`INCOHERENT_PERPLEXITY`),
    or could not be written."""
    problem: str = ""
    """Why no text could be written at this strength; empty otherwise."""

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON; the numbers of the features become texts."""
        values = dataclasses.asdict(self)
        values["activations"] = {str(number): each for number, each in self.activations.items()}
        return values


def strength_sweep(
    loaded: LoadedRun,
    intervention: Intervention,
    prompts: Sequence[str | Sequence[int]],
    strengths: Sequence[float] = STRENGTHS,
    sampling: Sampling | None = None,
    *,
    report: Callable[[SweepRow], None] = lambda row: None,
    stopped: Callable[[], bool] = lambda: False,
    turn: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> list[SweepRow]:
    """Continue the prompts at each strength, and read the texts back with the unsteered model.

    All strengths draw the same random numbers. The unsteered text is written first, whether 0 is
    among the strengths or not, since the others are compared with it.

    Args:
        loaded: the language model, its site and the autoencoder.
        intervention: what is steered; it is made each of `strengths` times as strong
            (`Intervention.scaled`).
        prompts: texts, or token ids with BOS, at least one.
        strengths: factors, each finite, in the order in which they are tried.
        sampling: how tokens are chosen; by default the likeliest of 40.
        report: told each row as soon as it is known.
        stopped: asked before each token; once it is true the rows so far are returned.
        turn: gives a context that is entered for each forward pass, such as a lock of a model that
            other threads use, too.

    Returns:
        A row for each strength, in their order; fewer if it was stopped.

    Raises:
        InputError: there is no prompt or strength, one is not finite, or a prompt does not fit.

    Example:
        Find the largest strength whose text still holds together::

            rows = strength_sweep(loaded, intervention, ["My day was"], (0.5, 1.0, 2.0, 4.0))
            usable = [row.strength for row in rows if not row.likely_incoherent]
    """
    if not prompts or not strengths:
        raise InputError("a sweep needs at least one prompt and one strength; give them")
    for strength in strengths:
        require_finite("strengths", strength)
    with turn():
        loaded = _fastest(loaded)
    model = loaded.model
    rows = [prompt_tokens(model, each) if isinstance(each, str) else list(each) for each in prompts]
    sampling = in_room(sampling or Sampling(max_new_tokens=40), model, rows)
    features = [feature.index for feature in intervention.features]

    def written(strength: float) -> "_Written | None":
        steered = intervention.scaled(strength)
        return _write(loaded, rows, sampling, steered, features, stopped, turn)

    base = written(0.0)
    found: list[SweepRow] = []
    for strength in strengths:
        if base is None:
            break
        try:
            one = base if strength == 0 else written(strength)
        except InputError as error:  # the logits are no numbers at such a strength
            row = SweepRow(
                strength=strength,
                texts=(),
                perplexity=None,
                repetition=0.0,
                activations=dict.fromkeys(features, 0.0),
                likely_incoherent=True,
                problem=str(error),
            )
        else:
            if one is None:
                break
            row = one.row(strength, base, intervention)
        found.append(row)
        report(row)
    return found


@dataclass(frozen=True)
class _Written:
    """The continuations at one strength, and what the unsteered model makes of them."""

    texts: list[Continuation]
    read: list[ReadBack]

    @property
    def perplexity(self) -> float | None:
        known = [each.perplexity for each in self.read if each.perplexity is not None]
        product = 1.0
        for value in known:
            product *= value ** (1 / len(known))
        return product if known else None

    @property
    def repetition(self) -> float:
        return sum(text.repetition for text in self.texts) / len(self.texts)

    def row(self, strength: float, base: "_Written", intervention: Intervention) -> SweepRow:
        repeats = self.repetition > max(INCOHERENT_REPETITION, base.repetition)
        own, usual = self.perplexity, base.perplexity
        unlikely = own is not None and usual is not None and own > INCOHERENT_PERPLEXITY * usual
        return SweepRow(
            strength=strength,
            texts=tuple(text.text for text in self.texts),
            perplexity=own,
            repetition=self.repetition,
            activations={
                each.index: sum(read.activations[each.index] for read in self.read)
                / len(self.read)
                / each.max_activation
                for each in intervention.features
            },
            likely_incoherent=repeats or unlikely,
        )


def _write(
    loaded: LoadedRun,
    rows: list[list[int]],
    sampling: Sampling,
    intervention: Intervention,
    features: list[int],
    stopped: Callable[[], bool],
    turn: Callable[[], AbstractContextManager[Any]],
) -> _Written | None:
    """The continuations under an intervention; None if it was stopped before they were done."""
    model, _, sae = loaded
    texts: list[Continuation] = []
    for start in range(0, len(rows), sampling.batch_size):
        batch = rows[start : start + sampling.batch_size]
        with turn():
            generation = Generation(model, batch, sampling, intervention=intervention, sae=sae)
        while not generation.done:
            if stopped():
                return None
            with turn():
                generation.step()
        texts += generation.results()
    read: list[ReadBack] = []
    for row, text in zip(rows, texts, strict=True):
        if stopped():
            return None
        with turn():
            read.append(read_back(loaded, row, text.tokens, features))
    return _Written(texts, read)


def _fastest(loaded: LoadedRun) -> LoadedRun:
    """The same, with the language model as it runs fastest."""
    model = loaded.model.fastest([loaded.site.name])
    return LoadedRun(model, model.site(loaded.site.name), loaded.sae)
