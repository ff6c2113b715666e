"""Rows chosen for a target in memory, and a check of whether the choice finds the right ones."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...sae.autoencoder import SparseAutoencoder
from ...sae.common.errors import InputError
from ...sae.common.validation import require_ratio
from ...sae.language_model.model import LanguageModel
from ...sae.language_model.sites import Site
from ...training.data.row_files.row_file import Row
from ...training.data.row_files.row_text import RowText, find_text_fields
from ..loading import LoadedRun
from .config import DEFAULT_METHOD
from .read_rows import ReadRows, RowScore, read_rows, summary_of
from .selecting import best, rows_of_ratio


@dataclass(frozen=True, eq=False)
class Selection:
    """Rows of a pool, scored and chosen."""

    rows: list[RowScore]
    """For each row of the pool."""
    target: ReadRows
    """The target's rows as they were read; `target.readable` are those that were compared with."""
    chosen: list[int]
    """Numbers of the chosen rows, rising."""


def select_for_target(
    model: LanguageModel,
    site: Site,
    sae: SparseAutoencoder,
    pool: Sequence[Row],
    target: Sequence[Row],
    ratio: float,
    *,
    method: str = DEFAULT_METHOD,
    field: str | None = None,
    batch_size: int = 32,
    max_length: int | None = None,
) -> Selection:
    """Score a pool of rows against the target's rows and choose the best fraction, in memory.

    Args:
        model, site, sae: what reads the texts.
        pool: rows to choose from, mappings such as {"instruction": ..., "output": ...}.
        target: example rows of the task.
        ratio: fraction of the pool to take, as in `SelectConfig`.
        method: name of what compares rows with the target, as in `ScoreConfig`; its seed is 0.
        field: as in `ScoreConfig`; by default each side's layout is detected.
        batch_size, max_length: as in `encode_texts`.

    Raises:
        InputError: the pool or the target has no readable text, or the ratio is out of range.
    """
    require_ratio("ratio", ratio)
    loaded = LoadedRun(model, site, sae)
    pool_texts, target_texts = _texts(pool, field, "the pool"), _texts(target, field, "the target")
    target_rows = read_rows(loaded, target_texts, batch_size=batch_size, max_length=max_length)
    target_rows.require_readable("the target")
    pool_rows = read_rows(loaded, pool_texts, batch_size=batch_size, max_length=max_length)
    return _choose(pool_rows, target_rows, ratio, method)


def retrieval_precision(
    model: LanguageModel,
    site: Site,
    sae: SparseAutoencoder,
    rows: Sequence[Row],
    *,
    group_field: str = "group",
    n_targets: int = 5,
    ratio: float = 0.1,
    draws: int = 5,
    seed: int = 0,
    method: str = DEFAULT_METHOD,
    batch_size: int = 32,
    max_length: int | None = None,
) -> dict[str, dict[str, Any]]:
    """Whether selection finds a group's rows again from a few of them, for every group.

    A target is drawn from the group and taken out of the pool, the best of all other rows are
    selected, and the group's fraction among them is counted; several targets are drawn to show how
    much the result depends on them. The rows are read once, whatever the number of targets.

    Args:
        rows: rows with a text and a `group_field`.
        n_targets: rows of a target.
        ratio: fraction of the pool to select.
        draws: targets drawn from each group.
        seed: of the draws, and of a method that draws at random.
        method: name of what compares rows with the target, as in `ScoreConfig`.
        batch_size, max_length: as in `encode_texts`.

    Returns:
        For each group with more rows than a target needs, most frequent first: target, pool
        and selected (rows), precisions (the group's fraction of the selected rows, for each draw),
        precision_of_target_source (their mean), and what would be reached without reading:
        precision_of_random (the group's fraction of the pool) and precision_of_length (choosing
        rows of about the target's length); and spearman_tokens (mean rank correlation of score and
        length, None if there is none).

    Raises:
        InputError: no group is large enough, or a number is out of range.
    """
    require_ratio("ratio", ratio)
    groups = Counter(row.get(group_field) for row in rows)
    large = [group for group, n in groups.most_common() if group is not None and n > n_targets]
    if not large or n_targets < 1 or draws < 1:
        raise InputError(
            f"no group of {group_field!r} has more than {n_targets} rows, or n_targets or draws is "
            "below 1; give rows with larger groups"
        )
    texts = _texts(rows, None, "the pool")
    loaded = LoadedRun(model, site, sae)
    read = read_rows(loaded, texts, batch_size=batch_size, max_length=max_length)
    found: dict[str, dict[str, Any]] = {}
    for group in large:
        members = {place for place, row in enumerate(rows) if row.get(group_field) == group}
        source = random.Random(f"{seed} {group}")
        targets = [set(source.sample(sorted(members), n_targets)) for _ in range(draws)]
        found[str(group)] = _recovered(read, members, targets, ratio, method, seed)
    return found


def _choose(
    pool: ReadRows, target: ReadRows, ratio: float, method: str, seed: int = 0
) -> Selection:
    rows = pool.scored_against(target, method, seed)
    scores = [row.score for row in rows]
    return Selection(rows, target, best(scores, rows_of_ratio(ratio, len(rows))))


def _recovered(
    read: ReadRows,
    members: set[int],
    targets: Sequence[set[int]],
    ratio: float,
    method: str,
    seed: int,
) -> dict[str, Any]:
    precisions: list[float] = []
    by_length: list[float] = []
    correlations: list[float] = []
    n_selected = 0
    for target in targets:
        places = [place for place in range(len(read.rows)) if place not in target]
        examples, pool = read.take(sorted(target)), read.take(places)
        examples.require_readable("the target")
        selection = _choose(pool, examples, ratio, method, seed)
        is_member = [place in members for place in places]
        n_selected = len(selection.chosen)
        precisions.append(_fraction(is_member, selection.chosen))
        nearest = selection
        if method != "length":
            nearest = _choose(pool, examples, ratio, "length")
        by_length.append(_fraction(is_member, nearest.chosen))
        correlation = summary_of(selection.rows)["spearman_tokens"]
        correlations += [] if correlation is None else [correlation]
    n_targets = len(targets[0])
    n_pool = len(read.rows) - n_targets
    return {
        "target": n_targets,
        "pool": n_pool,
        "selected": n_selected,
        "precisions": precisions,
        "precision_of_target_source": _mean(precisions),
        "precision_of_random": (len(members) - n_targets) / n_pool,
        "precision_of_length": _mean(by_length),
        "spearman_tokens": _mean(correlations) if correlations else None,
    }


def _texts(rows: Sequence[Row], field: str | None, where: str) -> list[RowText]:
    if not rows:
        raise InputError(f"{where} has no rows; give at least one")
    columns = Counter(name for row in rows for name in row)
    fields = find_text_fields(columns, field, where, "field")
    return [fields.text_of(row) for row in rows]


def _fraction(is_member: Sequence[bool], places: Sequence[int]) -> float:
    return sum(is_member[place] for place in places) / len(places) if places else 0.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
