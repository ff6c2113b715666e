"""The table of a suite: a line for each autoencoder, and for each part its columns below those of
the part before, so that it fits a narrow screen."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..app.report.markdown import suite_rows
from ..app.report.measures import suite_figure

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table

_WIDEST_NAME = 24
_BETWEEN = 2


@dataclass(frozen=True)
class Column:
    """One figure of all autoencoders."""

    heading: str
    cells: tuple[str, ...]

    @property
    def width(self) -> int:
        """Letters that it takes, a heading of several words being in several lines."""
        return _BETWEEN + max(len(text) for text in (*self.heading.split(), *self.cells))


@dataclass(frozen=True)
class SuiteTable:
    """What rich prints for a suite."""

    names: tuple[str, ...]
    """The headings of the lines."""
    parts: tuple[tuple[str, tuple[Column, ...]], ...]
    """The heading and the columns of each part."""
    what: str = "autoencoder"
    """What a line is of."""

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        for heading, columns in self.parts:
            yield ""
            yield f"{heading}:"
            for block in self.blocks(columns, options.max_width):
                yield self._table(block)

    def blocks(self, columns: Sequence[Column], width: int) -> Iterator[Sequence[Column]]:
        """The columns, as many at a time as fit beside the names into so many letters, at least
        one."""
        block: list[Column] = []
        for column in columns:
            taken = self._name_width + _BETWEEN + sum(other.width for other in block)
            if block and taken + column.width > width:
                yield block
                block = []
            block.append(column)
        yield block

    @property
    def _name_width(self) -> int:
        return min(_WIDEST_NAME, max(map(len, (*self.names, self.what))))

    def _table(self, columns: Sequence[Column]) -> "Table":
        from rich.table import Table

        grid = Table(box=None, pad_edge=False, padding=(0, _BETWEEN, 0, 0), header_style="bold")
        grid.add_column(self.what, overflow="fold", width=self._name_width, vertical="bottom")
        for column in columns:
            lines = "\n".join(column.heading.split())
            grid.add_column(lines, justify="right", no_wrap=True, vertical="bottom")
        for row, name in enumerate(self.names):
            grid.add_row(name, *(column.cells[row] for column in columns))
        return grid


def suite_table(result: Mapping[str, Any]) -> SuiteTable:
    """The table of what `run_suite` found; runs that differ in the seed alone are one line."""
    rows = list(suite_rows(result))
    parts: list[tuple[str, tuple[Column, ...]]] = []
    for part, about in result["parts"].items():
        of_rows = [figures.get(part, {}) for _, figures in rows]
        headings = {
            name: figure["heading"]
            for figures in of_rows
            for name, figure in figures.items()
            if figure["in_table"]
        }
        columns = tuple(
            Column(heading, tuple(suite_figure(figures.get(name)) for figures in of_rows))
            for name, heading in headings.items()
        )
        if columns:
            parts.append((about["heading"], columns))
    return SuiteTable(tuple(name for name, _ in rows), tuple(parts))
