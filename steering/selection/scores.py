"""Texts against a target's prototype: the score of each, or why it has none."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

from ...sae.common.errors import InputError
from ...training.data.row_files.row_text import RowText
from ..encoding import EncodedText, encode_texts, first_tokens, read_limit
from ..loading import LoadedRun
from .embedding import Mean, SparseRows, mean_code
from .statistics import quantiles, spearman

_DIGITS = 7
"""What the float32 arithmetic of the language model supports."""


_NAMED_ROWS = 3
"""Rows of each status but ok that a summary names."""


class RowScore(NamedTuple):
    """What is known of one row."""

    score: float | None
    """Similarity with the target, from 0 to 1, to 7 digits; None if the row was not scored."""
    status: str
    """ok; truncated (scored by its beginning); too_long (longer than the limit, not scored); empty
    (no text); too_short (no token but those that are left out); missing (no such field); not_text
    (a field holds something that is no text); non_finite (the activations overflow)."""
    tokens: int | None
    """Tokens of the whole text; None if there is no text to count."""


class Prototype(NamedTuple):
    """A target, as rows are compared with it."""

    latents: Float[Tensor, "F"]
    """The mean over the target's examples of their mean codes."""
    rows: list[RowScore]
    """Status and tokens of each example; there is no score."""

    @property
    def n_used(self) -> int:
        """Examples that the mean is over."""
        return sum(is_scored(row.status) for row in self.rows)


def is_scored(status: str) -> bool:
    """Whether a row of this status has a score, and a target's example of it counts."""
    return status in ("ok", "truncated")


class ReadRows(NamedTuple):
    """Rows as they were read: what they are compared by, and status and tokens of each."""

    means: SparseRows
    rows: list[RowScore]
    """Without a score."""

    def take(self, places: Sequence[int]) -> "ReadRows":
        """Some of the rows, in the order asked for."""
        return ReadRows(self.means.take(places), [self.rows[place] for place in places])

    def prototype(self, where: str) -> Prototype:
        """The rows as a target; those without content tokens do not count.

        Raises InputError if none counts; `where` names the target.
        """
        used = [place for place, row in enumerate(self.rows) if is_scored(row.status)]
        if not used:
            states = ", ".join(sorted({row.status for row in self.rows}))
            raise InputError(
                f"{where} has no example that can be read (status {states}); give at least one "
                "with two tokens of text"
            )
        return Prototype(self.means.take(used).mean(), self.rows)

    def scored_against(self, prototype: Prototype) -> list[RowScore]:
        """The rows with their scores."""
        scored = [place for place, row in enumerate(self.rows) if is_scored(row.status)]
        similarities = self.means.take(scored).similarities(prototype.latents)
        found = list(self.rows)
        for place, similarity in zip(scored, similarities, strict=True):
            found[place] = found[place]._replace(score=float(f"{float(similarity):.{_DIGITS}g}"))
        return found


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
) -> ReadRows:
    """Read the mean code of each text; with `skip_long` those over the limit are not read.

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
    )
    n_latents = loaded.sae.config.n_latents
    means: list[Mean] = []
    rows: list[RowScore] = []
    for text, skip, read in zip(texts, skipped, encoded, strict=True):
        means.append(mean_code(read.codes, n_latents))
        has_text = text.status in ("ok", "empty")
        status = text.status if text.status != "ok" else _status(read, means[-1], bool(skip))
        rows.append(RowScore(None, status, (skip or read.n_tokens) if has_text else None))
    return ReadRows(SparseRows.stack(means, n_latents), rows)


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
