"""Texts against a target's examples: the score of each, or why it has none."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from ...sae.common.errors import InputError
from ...training.data.row_files.row_text import RowText
from ..encoding import EncodedText, encode_texts, first_tokens, read_limit
from ..loading import LoadedRun
from ..registries import SELECTION_METHODS
from .config import DEFAULT_METHOD
from .embedding import Mean, SparseRows, mean_code
from .statistics import quantiles, spearman

_DIGITS = 7
"""What the float32 arithmetic of the language model supports."""


_NAMED_ROWS = 3
"""Rows of each status but ok that a summary names."""


class RowScore(NamedTuple):
    """What is known of one row."""

    score: float | None
    """How well it suits the target, to 7 digits: a similarity from 0 to 1 by the usual method;
    None if the row was not scored."""
    status: str
    """ok; truncated (scored by its beginning); too_long (longer than the limit, not scored); empty
    (no text); too_short (no token but those that are left out); missing (no such field); not_text
    (a field holds something that is no text); non_finite (the activations overflow)."""
    tokens: int | None
    """Tokens of the whole text; None if there is no text to count."""


def is_scored(status: str) -> bool:
    """Whether a row of this status has a score, and a target's example of it counts."""
    return status in ("ok", "truncated")


@dataclass(frozen=True, eq=False)
class ReadRows:
    """N rows as they were read: what methods of selection compare them by."""

    means: SparseRows
    """Mean codes of the rows' content tokens."""
    mean_activations_ND: Float[Tensor, "N D"]
    """Mean raw activations of the same tokens, in float32."""
    rows: list[RowScore]
    """Status and tokens of each, without a score."""
    numbers: list[int]
    """The place of each row among all that are scored, from 0."""

    @cached_property
    def mean_code_F(self) -> Float[Tensor, "F"]:
        """The mean of the rows' mean codes, dense: the prototype of a target's examples."""
        return self.means.mean()

    @cached_property
    def readable(self) -> "ReadRows":
        """The rows that have content tokens; only they have a score or count in a target."""
        places = [place for place, row in enumerate(self.rows) if is_scored(row.status)]
        return self if len(places) == len(self.rows) else self.take(places)

    def take(self, places: Sequence[int]) -> "ReadRows":
        """Some of the rows, in the order asked for."""
        return ReadRows(
            self.means.take(places),
            self.mean_activations_ND[list(places)],
            [self.rows[place] for place in places],
            [self.numbers[place] for place in places],
        )

    def require_readable(self, where: str) -> None:
        """Raise InputError if no row can be read; `where` names the target that they are."""
        if not self.readable.rows:
            states = ", ".join(sorted({row.status for row in self.rows}))
            raise InputError(
                f"{where} has no example that can be read (status {states}); give at least one "
                "with two tokens of text"
            )

    def scored_against(
        self, target: "ReadRows", method: str = DEFAULT_METHOD, seed: int = 0
    ) -> list[RowScore]:
        """The rows with their scores by a method of this name.

        Raises:
            InputError: there is no such method, or it gave something else than a finite number for
                each row.
        """
        judge, readable = SELECTION_METHODS.get(method), self.readable
        scores: list[float] = []
        if readable.rows:
            given = judge(readable, target.readable, seed)
            scores = [float(f"{float(score):.{_DIGITS}g}") for score in given]
        if len(scores) != len(readable.rows) or not all(map(math.isfinite, scores)):
            raise InputError(
                f"method {method!r} gave {len(scores)} scores for {len(readable.rows)} rows, "
                "or one that is no finite number; mend it, or take another"
            )
        left = iter(scores)
        return [
            row._replace(score=next(left)) if is_scored(row.status) else row for row in self.rows
        ]


def summary_of(rows: Sequence[RowScore]) -> dict[str, Any]:
    """Rows, scored rows, statuses, the first rows of each but ok (counted from 1), spread of the
    scores, and their correlation with length."""
    scored = [(row.score, float(row.tokens or 0)) for row in rows if row.score is not None]
    scores = [score for score, _ in scored]
    odd: dict[str, list[int]] = {}
    for number, row in enumerate(rows, start=1):
        if row.status != "ok" and len(odd.setdefault(row.status, [])) < _NAMED_ROWS:
            odd[row.status].append(number)
    return {
        "rows": len(rows),
        "scored": len(scored),
        "statuses": dict(sorted(Counter(row.status for row in rows).items())),
        "status_rows": dict(sorted(odd.items())),
        "score": quantiles(scores),
        "spearman_tokens": spearman(scores, [length for _, length in scored]),
        "tokens": sum(row.tokens or 0 for row in rows),
    }


def read_rows(
    loaded: LoadedRun,
    texts: Sequence[RowText],
    *,
    batch_size: int,
    max_length: int | None,
    skip_long: bool = False,
    first: int = 0,
) -> ReadRows:
    """Read the mean code and activation of each text, of which the first has number `first`; with
    `skip_long` those over the limit are not read.

    Raises InputError for a limit that is out of range.
    """
    limit = read_limit(loaded.model, max_length)
    # The length of a row that is not read, so that its tokens are counted but not held.
    skipped = [
        n_tokens if skip_long and (n_tokens := _length(loaded, text)) > limit else None
        for text in texts
    ]
    encoded = encode_texts(
        *loaded,
        ("" if skip else text.text for text, skip in zip(texts, skipped, strict=True)),
        batch_size=batch_size,
        max_length=max_length,
        mean_activations=True,
    )
    n_latents = loaded.sae.config.n_latents
    means: list[Mean] = []
    activations = [torch.empty(0, loaded.sae.config.d_model)]
    rows: list[RowScore] = []
    for text, skip, read in zip(texts, skipped, encoded, strict=True):
        means.append(mean_code(read.codes, n_latents))
        assert read.mean_activation_D is not None  # it was asked for
        activations.append(rearrange(read.mean_activation_D, "d -> 1 d"))
        has_text = text.status in ("ok", "empty")
        status = text.status if text.status != "ok" else _status(read, means[-1], bool(skip))
        rows.append(RowScore(None, status, (skip or read.n_tokens) if has_text else None))
    return ReadRows(
        SparseRows.stack(means, n_latents),
        torch.cat(activations),
        rows,
        list(range(first, first + len(rows))),
    )


def _length(loaded: LoadedRun, text: RowText) -> int:
    """Tokens of a text."""
    return first_tokens(loaded.model, text.text, 0)[1]


def _status(read: EncodedText, mean: Mean, skipped: bool) -> str:
    """What became of a row that has a text."""
    if skipped:
        return "too_long"
    if read.empty:
        return "empty"
    if not read.kept.any():
        return "too_short"
    if not mean.values.isfinite().all():
        return "non_finite"
    return "truncated" if read.truncated else "ok"
