"""Take the best part of scored rows."""

import math
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from ...sae.common.errors import InputError
from ...sae.common.files import other_content
from ...sae.common.locks import hold
from ...training.data.row_files.opening import open_rows
from ...training.data.row_files.row_file import RowFile
from ...training.data.row_files.row_text import require_column
from .config import SelectConfig


def select(config: SelectConfig) -> dict[str, Any]:
    """Write the rows with the highest scores, unchanged and in their order.

    Of equal scores the first rows are taken, so the result is deterministic. Rows whose score is
    null or NaN are never taken, but count among the rows that a ratio is of.

    Returns:
        out, rows, scored, asked (rows that the ratio or count stands for), selected (fewer if a
        ratio asks for more than are scored), column, lowest_selected, highest_left (scores at the
        cut; None if nothing is left), and mean_tokens {selected, scored} where the file has the
        column of tokens that `score` writes beside that of the score, else None.

    Raises:
        InputError: the file is missing, broken or empty; the column is not there (the columns are
            listed) or holds something that is no finite number; fewer rows are scored than a count
            asks for; `out` exists with other content and `config.force` is not set; or another
            process is writing it.
    """
    file, out = open_rows(config.file, "FILE"), Path(config.out)
    file.require_same_kind(out)
    overview = file.overview()
    if overview.n_rows == 0:
        raise InputError(f"{config.file} holds no rows; give a file with at least one")
    require_column(config.column, overview.columns, config.file)
    scores = read_scores(file.numbers(config.column), config.column, file.path)
    n_scored = sum(score is not None for score in scores)
    if n_scored == 0:
        raise InputError(f"no row of {config.file} has a score in {config.column!r}; score it anew")
    wanted = config.count
    if wanted is None:
        wanted = rows_of_ratio(config.ratio or 0, len(scores))
    elif wanted > n_scored:
        raise InputError(
            f"count is {wanted}, but only {n_scored} rows have a score; lower it", field="count"
        )
    chosen = best(scores, wanted)
    if out.exists() and not config.force:
        _require_same_rows(out, file, chosen)
    with hold(out):
        file.write(out, chosen=chosen, replace=config.force)
    taken = set(chosen)
    left = [score for n, score in enumerate(scores) if score is not None and n not in taken]
    tokens = config.column.removesuffix("_score") + "_tokens"
    return {
        "out": config.out,
        "file": config.file,
        "column": config.column,
        "rows": len(scores),
        "scored": n_scored,
        "asked": wanted,
        "selected": len(chosen),
        "lowest_selected": min(score for n in chosen if (score := scores[n]) is not None),
        "highest_left": max(left, default=None),
        "mean_tokens": _mean_tokens(file, tokens, scores, chosen)
        if tokens in overview.columns
        else None,
    }


def rows_of_ratio(ratio: float, n_rows: int) -> int:
    """The whole number nearest to the fraction of the rows (a half rounds up), at least 1."""
    return max(1, math.floor(ratio * n_rows + 0.5))


def best(scores: Sequence[float | None], count: int) -> list[int]:
    """Numbers of the `count` highest scores, rising; of equal scores the first; never a None.

    Fewer if fewer rows have a score.
    """
    scored = [(score, -place) for place, score in enumerate(scores) if score is not None]
    scored.sort(reverse=True)
    return sorted(-place for _, place in scored[:count])


def _require_same_rows(out: Path, file: RowFile, chosen: Sequence[int]) -> None:
    """Raise InputError if other rows than these are at OUT, before any is written."""
    wanted = set(chosen)
    rows = (row for number, row in enumerate(file.rows()) if number in wanted)
    try:
        pairs = zip_longest(open_rows(out, "--out").rows(), rows)
        # As text, for NaN is not equal to itself.
        same = all(repr(found) == repr(row) for found, row in pairs)
    except InputError:
        same = False
    if not same:
        raise other_content(out)


def read_scores(values: Iterable[object], column: str, file: Path) -> list[float | None]:
    """A column's values as numbers; None for null and NaN.

    Raises InputError naming the first row that holds something else.
    """
    scores: list[float | None] = []
    for number, value in enumerate(values, start=1):
        if value is None or value != value:
            scores.append(None)
            continue
        finite = _finite(value)
        if finite is None:
            raise InputError(
                f"{file}: {column!r} holds {str(value)[:40]!r} in row {number}, which is no "
                "finite number; mend it, or choose a column of scores with --column"
            )
        scores.append(finite)
    return scores


def _finite(value: object) -> float | None:
    """The number as a float; None for infinity, for what no float can hold, and for no number."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _mean_tokens(
    file: RowFile, column: str, scores: Sequence[float | None], chosen: Sequence[int]
) -> dict[str, float] | None:
    """Mean length of the chosen rows and of all that could have been; None if any is unknown."""
    lengths = [_finite(value) for value in file.numbers(column)]
    scored = [length for length, score in zip(lengths, scores, strict=True) if score is not None]
    numbers = [length for length in scored if length is not None]
    if len(numbers) < len(scored):
        return None
    own = [length for place in chosen if (length := lengths[place]) is not None]
    return {"selected": sum(own) / len(own), "scored": sum(numbers) / len(numbers)}
