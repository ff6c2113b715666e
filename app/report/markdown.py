"""Tables in Markdown: any, and those of an evaluation suite."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .measures import suite_figure


def table_of(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines
    )


def suite_rows(result: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The name and the figures by part of each line of a suite's tables: runs that differ in the
    seed alone are one line.

    Args:
        result: what `run_suite` gives.
    """
    grouped: set[str] = set()
    for group in result["seeds"]:
        grouped.update(group["members"])
        yield f"{group['name']} ({len(group['members'])} seeds)", group["parts"]
    for one in result["autoencoders"]:
        if one["name"] not in grouped:
            yield one["name"], {part: found["figures"] for part, found in one["parts"].items()}


def suite_tables(result: Mapping[str, Any]) -> Iterator[str]:
    """Of each part of a suite how to read it, and its table, with the figures of the terminal's.

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
            yield table_of(
                ["autoencoder", *headings.values()],
                [
                    [name, *(suite_figure(figures.get(figure)) for figure in headings)]
                    for name, figures in found
                ],
            )
            if warnings := _warnings(result, part):
                yield "\n".join(f"- {sentence}." for sentence in warnings)


def _warnings(result: Mapping[str, Any], part: str) -> list[str]:
    """What a part warns of, each sentence once, with whom it is about unless that is all."""
    of_all = [one for one in result["autoencoders"] if part in one["parts"]]
    about: dict[str, list[str]] = {}
    for one in of_all:
        for sentence in one["parts"][part]["warnings"]:
            about.setdefault(sentence, []).append(one["name"])
    return [
        sentence if len(names) == len(of_all) else f"{', '.join(names)}: {sentence}"
        for sentence, names in about.items()
    ]
