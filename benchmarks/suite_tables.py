"""What the evaluation suite found as tables in Markdown."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sparsteer.app.report.measures import suite_figure
from sparsteer.cli.suite_table import suite_rows


def tables(result: Mapping[str, Any]) -> Iterator[str]:
    """Of each part how to read it, and a table with a line for each autoencoder, or for those that
    differ in the seed alone.

    Args:
        result: what `run_suite` gives.
    """
    rows = list(suite_rows(result))
    for part, about in result["parts"].items():
        found = [(name, parts[part]) for name, parts in rows if parts.get(part)]
        headings = {
            figure: values["heading"]
            for _, figures in found
            for figure, values in figures.items()
            if values["in_table"]
        }
        if headings:
            heading: str = about["heading"]
            yield f"**{heading[0].upper()}{heading[1:]}.** {about['reading']}"
            yield table(
                ["autoencoder", *headings.values()],
                [
                    [name, *(suite_figure(figures.get(figure)) for figure in headings)]
                    for name, figures in found
                ],
            )


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(
        "| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *rows]
    )
