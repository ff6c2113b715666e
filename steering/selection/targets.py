"""Rows chosen for a target in memory, and a check of whether the choice finds the right ones."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...sae.autoencoder import SparseAutoencoder
from ...sae.errors import InputError
from ...sae.language_model import LanguageModel
from ...sae.site import Site
from ..loading import LoadedRun
from .config import require_ratio
from .rows import Row, RowText, find_text_fields
from .scores import Prototype, RowScore, is_scored, prototype_of, score_texts, summary_of
from .selecting import best, rows_of_ratio


@dataclass(frozen=True, eq=False)
class Selection:
    """Rows of a pool, scored and chosen."""

    rows: list[RowScore]
    """For each row of the pool."""
    prototype: Prototype
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
    field: str | None = None,
    batch_size: int = 32,
    max_length: int | None = None,
) -> Selection:
    """Score a pool of rows against the target's rows and choose the best share, in memory.

    Args:
        model, site, sae: what reads the texts.
        pool: rows to choose from, mappings such as {"instruction": ..., "output": ...}.
        target: example rows of the task.
        ratio: share of the pool to take, as in `SelectConfig`.
        field: as in `ScoreConfig`; by default each side's layout is detected.
        batch_size, max_length: as in `encode_texts`.

    Raises:
        InputError: the pool or the target has no readable text, or the ratio is out of range.
    """
    require_ratio(ratio)
    loaded = LoadedRun(model, site, sae)
    prototype = prototype_of(
        loaded,
        _texts(target, field, "the target"),
        where="given",
        batch_size=batch_size,
        max_length=max_length,
    )
    rows = score_texts(
        loaded,
        _texts(pool, field, "the pool"),
        prototype.latents,
        batch_size=batch_size,
        max_length=max_length,
    )
    scores = [row.score for row in rows]
    return Selection(rows, prototype, best(scores, rows_of_ratio(ratio, len(rows))))


def recover_group(
    model: LanguageModel,
    site: Site,
    sae: SparseAutoencoder,
    rows: Sequence[Row],
    *,
    group: str,
    group_field: str = "group",
    n_targets: int = 5,
    ratio: float = 0.1,
    seed: int = 0,
    batch_size: int = 32,
    max_length: int | None = None,
) -> dict[str, Any]:
    """Hide a few rows of one group as the target, select from the rest, and count the group's.

    Args:
        rows: rows with a column `group_field`, the group's own among them.
        group: the group that the target is drawn from, at random by `seed`.
        n_targets: rows of the target; they are not in the pool.
        ratio: share of the pool to take.

    Returns:
        group, target (rows), pool, selected, precision_of_target_source (share of the selected that
        are of the group), precision_of_random (the group's share of the pool, what random choice
        would reach on average), spearman_tokens (rank correlation of score and length), and
        precision_of_length: what choosing the rows nearest the target's mean length reaches.

    Raises:
        InputError: the group has no more rows than the target needs.
    """
    members = [place for place, row in enumerate(rows) if row.get(group_field) == group]
    if len(members) <= n_targets:
        raise InputError(
            f"{group_field} {group!r} has {len(members)} rows, but more than n_targets = "
            f"{n_targets} are needed; choose a larger group"
        )
    hidden = set(random.Random(seed).sample(members, n_targets))
    pool = [row for place, row in enumerate(rows) if place not in hidden]
    target = [rows[place] for place in sorted(hidden)]
    selection = select_for_target(
        model, site, sae, pool, target, ratio, batch_size=batch_size, max_length=max_length
    )
    is_member = [row.get(group_field) == group for row in pool]
    return {
        "group": group,
        "target": n_targets,
        "pool": len(pool),
        "selected": len(selection.chosen),
        "precision_of_target_source": _share(is_member, selection.chosen),
        "precision_of_random": _share(is_member, range(len(pool))),
        "precision_of_length": _share(is_member, _nearest_in_length(selection)),
        "spearman_tokens": summary_of(selection.rows)["spearman_tokens"],
    }


def _texts(rows: Sequence[Row], field: str | None, where: str) -> list[RowText]:
    if not rows:
        raise InputError(f"{where} has no rows; give at least one")
    columns = Counter(name for row in rows for name in row)
    fields = find_text_fields(columns, field, where, "field")
    return [fields.text_of(row) for row in rows]


def _share(is_member: Sequence[bool], places: Sequence[int]) -> float:
    return sum(is_member[place] for place in places) / len(places)


def _nearest_in_length(selection: Selection) -> list[int]:
    """As many rows as were chosen, those whose length is nearest the target's mean length."""
    lengths = [row.tokens for row in selection.prototype.rows if is_scored(row.status)]
    mean = sum(length or 0 for length in lengths) / len(lengths)
    nearness = [
        None if row.score is None else -abs((row.tokens or 0) - mean) for row in selection.rows
    ]
    return best(nearness, len(selection.chosen))
