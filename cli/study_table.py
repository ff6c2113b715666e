"""What a person reads of a study of steering: a table for each cost, and the verdict."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..app.report.study_rows import answer, cost_tables, criteria, goal_lines
from .suite_table import Column, SuiteTable

if TYPE_CHECKING:
    from rich.console import RenderableType


def study_table(result: Mapping[str, Any]) -> "Iterator[RenderableType]":
    """Tables and lines of what `run_study` found."""
    for one in cost_tables(result):
        columns = tuple(
            Column(heading, tuple(cells[number] for _, cells in one.lines))
            for number, heading in enumerate(one.columns)
        )
        names = tuple(name for name, _ in one.lines)
        yield SuiteTable(names, ((one.heading, columns),), "way to steer")
    for goal in result["goal"]:
        yield ""
        yield from goal_lines(goal)
        for words, met in criteria(goal):
            yield f"  {words}: {answer(met)}"
