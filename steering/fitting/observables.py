"""Observables: how much more likely some tokens are made than others, as a number.

An observable is n . logits for a vector n over the vocabulary, such as 1 at ` he` and -1 at
` she` (observable propagation, Dunefsky and Cohan, arXiv 2312.16291).
"""

import re
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from ...sae.common.errors import InputError
from ...sae.language_model.model import LanguageModel

_TERM = re.compile(r"(?:^|\s)([+-])(.*?)(?=\s[+-]|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Observable:
    """The mean logit of some tokens minus the mean logit of others."""

    positive: tuple[int, ...]
    """Token ids that count positively."""
    negative: tuple[int, ...]
    """Those that count negatively; if one of the two is empty, the whole vocabulary takes its
    place, so that adding a number to all logits never changes the observable."""

    @classmethod
    def parse(cls, text: str, model: LanguageModel) -> "Observable":
        """Read `+ he - she`: what stands behind each sign is a token, its leading space included.

        `+ he - she` means the tokens ` he` and ` she`, `+he -she` the tokens `he` and `she`, and
        `+ she + her - he` sets the mean of two against one.

        Raises:
            InputError: the text has no sign, or something in it is not a single token.
        """
        terms = _TERM.findall(text)
        if not terms or _TERM.sub("", text).strip():
            raise InputError(
                f"the observable {text!r} has text without a sign; write it as in '+ he - she'",
                field="observable",
            )
        sides: dict[str, list[int]] = {"+": [], "-": []}
        for sign, token in terms:
            sides[sign].append(_single_token(model, token))
        if common := set(sides["+"]) & set(sides["-"]):
            shown = _decoded(model, min(common))
            raise InputError(
                f"the observable {text!r} has {shown!r} on both sides; leave it out of one",
                field="observable",
            )
        return cls(tuple(dict.fromkeys(sides["+"])), tuple(dict.fromkeys(sides["-"])))

    def weights(self, n_vocab: int, like: Tensor) -> Float[Tensor, "V"]:
        """n, with the dtype and device of `like`; it sums to 0.

        Raises:
            InputError: there is no token on either side, or one beyond the vocabulary.
        """
        if not self.positive and not self.negative:
            raise InputError("an observable needs at least one token", field="observable")
        if max(*self.positive, *self.negative, 0) >= n_vocab:
            raise InputError(
                f"the observable has token {max(*self.positive, *self.negative)}, but there are "
                f"{n_vocab} logits",
                field="observable",
            )
        n_V = torch.zeros(n_vocab, dtype=like.dtype, device=like.device)
        for tokens, sign in ((self.positive, 1.0), (self.negative, -1.0)):
            if tokens:
                n_V[list(tokens)] += sign / len(tokens)
            else:
                n_V += sign / n_vocab
        return n_V

    def value(self, logits: Float[Tensor, "*B V"]) -> Float[Tensor, "*B"]:
        """The observable of logits."""
        return logits @ self.weights(logits.shape[-1], logits)


def coupling(
    known_MD: Float[Tensor, "M D"], wanted_ND: Float[Tensor, "N D"]
) -> Float[Tensor, "M N"]:
    """Coupling coefficients C(y1, y2) = y1 . y2 / |y1|^2 of directions.

    If y1 . h is k, the best linear guess of y2 . h is C k for activations h that vary alike in all
    directions: it is the slope of a regression. It is not symmetric; C(y1, y2) C(y2, y1) is the
    squared cosine.

    Raises:
        InputError: a known direction is 0.
    """
    squared_M = known_MD.square().sum(-1)
    if not bool((squared_M > 0).all()):
        raise InputError("a direction of length 0 has no coupling coefficient; leave it out")
    return known_MD @ wanted_ND.T / squared_M[:, None]


def _decoded(model: LanguageModel, token: int) -> str:
    return cast(Any, model.tokenizer).decode([token])


def _single_token(model: LanguageModel, text: str) -> int:
    ids = model.tokenize(text) if text else []
    if len(ids) == 1:
        return ids[0]
    other = text.removeprefix(" ") if text.startswith(" ") else f" {text}"
    pieces = [_decoded(model, number) for number in ids]
    remedy = "name one token"
    if len(model.tokenize(other)) == 1:
        remedy = f"{other!r} is one, which is written with{'' if other[0] == ' ' else 'out'} "
        remedy += "a space behind the sign"
    raise InputError(
        f"the observable's {text!r} is {len(ids)} tokens, {pieces}, not one; {remedy}",
        field="observable",
    )
