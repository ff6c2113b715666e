"""Take the best part of scored rows."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...sae.errors import InputError
from .config import SelectConfig
from .rows import require_column
from .tables import RowFile, open_rows


def select(config: SelectConfig) -> dict[str, Any]:
    """Write the rows with the highest scores, unchanged and in their order.

    Of equal scores the first rows are taken, so the result is deterministic. Rows whose score is
    null or NaN are never taken, but count among the rows that a ratio is of.

    Returns:
        out, rows, scored, selected, column, lowest_selected, highest_left (scores at the cut; None
        if nothing is left), and mean_tokens {selected, scored} where the file has the column of
        tokens that `score` writes beside that of the score, else None.

    Raises:
        InputError: the file is missing, broken or empty; the column is not there (the columns are
            listed) or holds something that is no number; or fewer rows are scored than asked for.
    """
    file, out = open_rows(config.file, "FILE"), Path(config.out)
    file.require_same_kind(out)
    overview = file.overview()
    if overview.n_rows == 0:
        raise InputError(f"{config.file} holds no rows; give a file with at least one")
    require_column(config.column, overview.columns, config.file)
    scores = _scores(file, config.column)
    n_scored = sum(score is not None for score in scores)
    if n_scored == 0:
        raise InputError(f"no row of {config.file} has a score in {config.column!r}; score it anew")
    wanted = config.count
    if wanted is None:
        wanted = rows_of_ratio(config.ratio or 0, len(scores))
    elif wanted > n_scored:
        raise InputError(f"count is {wanted}, but only {n_scored} rows have a score; lower --count")
    chosen = best(scores, wanted)
    file.write(out, chosen=chosen)
    taken = set(chosen)
    left = [score for n, score in enumerate(scores) if score is not None and n not in taken]
    tokens = config.column.removesuffix("_score") + "_tokens"
    return {
        "out": config.out,
        "file": config.file,
        "column": config.column,
        "rows": len(scores),
        "scored": n_scored,
        "selected": len(chosen),
        "lowest_selected": min(score for n in chosen if (score := scores[n]) is not None),
        "highest_left": max(left, default=None),
        "mean_tokens": _mean_tokens(file, tokens, scores, chosen)
        if tokens in overview.columns
        else None,
    }


def rows_of_ratio(ratio: float, n_rows: int) -> int:
    """The whole number nearest to the share of the rows (a half rounds up), at least 1."""
    return max(1, math.floor(ratio * n_rows + 0.5))


def best(scores: Sequence[float | None], count: int) -> list[int]:
    """Numbers of the `count` highest scores, rising; of equal scores the first; never a None.

    Fewer if fewer rows have a score.
    """
    scored = [(score, -place) for place, score in enumerate(scores) if score is not None]
    scored.sort(reverse=True)
    return sorted(-place for _, place in scored[:count])


def _scores(file: RowFile, column: str) -> list[float | None]:
    """The column's numbers; None for null and NaN."""
    scores: list[float | None] = []
    for number, row in enumerate(file.rows(fields=(column,)), start=1):
        value: object = row.get(column)
        if value is None:
            scores.append(None)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            scores.append(None if math.isnan(value) else float(value))
        else:
            raise InputError(
                f"{file.path}: {column!r} holds {str(value)[:40]!r} in row {number}, which is no "
                "number; choose a column of scores with --column"
            )
    return scores


def _mean_tokens(
    file: RowFile, column: str, scores: Sequence[float | None], chosen: Sequence[int]
) -> dict[str, float] | None:
    """Mean length of the chosen rows and of all that could have been; None if any is unknown."""
    lengths: list[object] = [row.get(column) for row in file.rows(fields=(column,))]
    scored = [length for length, score in zip(lengths, scores, strict=True) if score is not None]
    numbers = [float(length) for length in scored if isinstance(length, int | float)]
    if len(numbers) < len(scored):
        return None
    own = [length for place in chosen if isinstance(length := lengths[place], int | float)]
    return {"selected": sum(own) / len(own), "scored": sum(numbers) / len(numbers)}
