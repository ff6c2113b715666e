"""A file of scored rows, opened for looking: its scores in memory, its rows left in the file."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ...sae.common.errors import InputError
from ...training.data.row_files.opening import open_rows
from ...training.data.row_files.row_file import Row, RowFile
from ...training.data.row_files.row_text import RowText, TextFields, find_text_fields
from .config import DEFAULT_METHOD
from .record import ScoringRecord
from .selecting import read_scores, rows_of_ratio
from .statistics import quantiles, spearman

_DEFAULT_PREFIX = "sparsteer"


@dataclass(frozen=True, eq=False)
class ScoredFile:
    """Scores and lengths of N rows, by `ScoredFile.open`; three numbers of a row are in memory."""

    rows: RowFile
    column: str
    """Name of the column of scores."""
    fields: TextFields
    """Where a row's text lies."""
    scores_N: Float[np.ndarray, "N"]
    """NaN where a row was not scored."""
    tokens_N: Float[np.ndarray, "N"] | None
    """Tokens of each row's text, NaN where they are not known; None without such a column."""
    identity: dict[str, Any] = field(default_factory=dict[str, Any])
    """What the scores depend on, as `score` wrote it beside the file; empty without."""
    summary: dict[str, Any] = field(default_factory=dict[str, Any])
    """What `score` said of them; empty without."""

    @classmethod
    def open(cls, path: str | Path, *, column: str | None = None) -> "ScoredFile":
        """Read the scores of a file.

        Args:
            path: the file.
            column: of the scores; by default the one that `score` wrote.

        Raises:
            InputError: the file is missing, broken, or has no such column or no score in it; or the
                record beside it is not of it.
        """
        rows, path = open_rows(path, "FILE"), Path(path)
        record = None
        if path.with_name(f"{path.name}.scoring").exists():
            record = ScoringRecord(path, force=False)
        prefix = record.identity.get("prefix", _DEFAULT_PREFIX) if record else _DEFAULT_PREFIX
        column = column or f"{prefix}_score"
        overview = rows.overview()
        if column not in overview.columns:
            raise InputError(
                f"{path} has no column {column!r}; give a file that `sparsteer score` wrote"
            )
        lengths = f"{column.removesuffix('_score')}_tokens"
        tokens: list[float] = []

        def scores() -> Iterator[object]:
            for row in rows.rows(fields=(column, lengths)):
                value = row.get(lengths)
                tokens.append(value if type(value) is int else math.nan)
                yield row.get(column)

        read = read_scores(scores(), column, path)
        scores_N = np.array([math.nan if score is None else score for score in read])
        if np.isnan(scores_N).all():
            raise InputError(f"no row of {path} has a score in {column!r}; score it anew")
        tokens_N = np.array(tokens, dtype=np.float64) if lengths in overview.columns else None
        if record is not None:
            text = record.summary["text"]
            fields = TextFields(text["layout"], tuple(text["fields"]))
            return cls(rows, column, fields, scores_N, tokens_N, record.identity, record.summary)
        found = find_text_fields(overview.columns, None, str(path), "--field")
        return cls(rows, column, found, scores_N, tokens_N)

    def __len__(self) -> int:
        return len(self.scores_N)

    @property
    def path(self) -> Path:
        """The file."""
        return self.rows.path

    @property
    def method(self) -> str | None:
        """What compared the rows with the target; None where it is not known."""
        return self.identity.get("method", DEFAULT_METHOD) if self.identity else None

    @cached_property
    def order(self) -> Int[np.ndarray, "S"]:
        """Numbers (from 0) of the scored rows, the highest score first; of equal ones the first
        row, as `select` takes them."""
        scored = np.flatnonzero(~np.isnan(self.scores_N))
        return scored[np.argsort(-self.scores_N[scored], kind="stable")]

    @cached_property
    def spread(self) -> dict[str, float]:
        """Mean, extremes and quantiles of the scores."""
        found = quantiles(self.scores_N[self.order].tolist())
        assert found is not None  # `open` has seen to it
        return found

    @cached_property
    def correlation(self) -> float | None:
        """Spearman's rank correlation of score and tokens; None where there is none."""
        if self.tokens_N is None:
            return None
        known = self.order[~np.isnan(self.tokens_N[self.order])]
        return spearman(self.scores_N[known].tolist(), self.tokens_N[known].tolist())

    def cut(self, ratio: float) -> dict[str, Any]:
        """What `select --ratio` would take: rows, the lowest score taken and the highest left, and
        the mean tokens of the rows taken and of all that are scored."""
        n_taken = min(rows_of_ratio(ratio, len(self)), len(self.order))
        taken, left = self.order[:n_taken], self.order[n_taken:]
        return {
            "rows": n_taken,
            "of": len(self),
            "lowest_taken": float(self.scores_N[taken[-1]]),
            "highest_left": float(self.scores_N[left[0]]) if len(left) else None,
            "tokens_taken": self._mean_tokens(taken),
            "tokens_scored": self._mean_tokens(self.order),
        }

    def take(self, numbers: Sequence[int]) -> list[Row]:
        """Rows by their numbers, from 0, in the order asked for; one pass over the file.

        Raises InputError if there is no such row.
        """
        for number in numbers:
            if not 0 <= number < len(self):
                raise InputError(
                    f"there is no row {number + 1} in {self.path}; it has rows 1 to {len(self):,}",
                    field="row",
                )
        wanted, found = set(numbers), dict[int, Row]()
        for number, row in enumerate(self.rows.rows() if wanted else ()):
            if number in wanted:
                found[number] = row
                if len(found) == len(wanted):
                    break
        return [found[number] for number in numbers]

    def texts(self, numbers: Sequence[int]) -> list[RowText]:
        """The texts of rows, as `take` takes them."""
        return [self.fields.text_of(row) for row in self.take(numbers)]

    def _mean_tokens(self, numbers: Int[np.ndarray, "S"]) -> float | None:
        if self.tokens_N is None or not len(numbers):
            return None
        lengths = self.tokens_N[numbers]
        return None if np.isnan(lengths).any() else float(lengths.mean())
