"""The page of a suite: a table for each part, and fronts against L0; HTML that loads nothing."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...sae.common.wording import counted
from .files import write_page
from .fronts import FVU_AXIS, RECOVERED_AXIS, Point, family_of, front
from .inline import PAGE, for_page
from .markup import Child, Html, join, table, tag
from .measures import suite_figure
from .page import figure, page
from .plots import Drawing, Palette

PAGE_FILE = "report.html"

_FRONTS = (
    ("held_out", "fvu", FVU_AXIS, "lower left is better"),
    ("held_out", "loss_recovered", RECOVERED_AXIS, "upper left is better"),
)
"""Part, figure, axis, and how to read the front."""


def write_suite_page(result: Mapping[str, Any], *, with_plots: bool) -> Path:
    """Write the page of what `run_suite` found into its folder, and give its path.

    Args:
        result: what `run_suite` gives.
        with_plots: whether fronts are drawn, for which matplotlib is needed.
    """
    drawings = list(fronts(result, PAGE)) if with_plots else []
    return write_page(Path(result["folder"]) / PAGE_FILE, suite_page(result, drawings))


def fronts(result: Mapping[str, Any], palette: Palette) -> Iterator[tuple[Drawing, str]]:
    """The fronts that can be drawn of what `run_suite` found, each with what to see in it."""
    for part, name, axis, reading in (*_FRONTS, *_probing(result)):
        points = [
            Point(
                family=family_of(one),
                l0=float(l0["value"]),
                value=float(found["value"]),
                error=error,
            )
            for one in result["autoencoders"]
            if (l0 := _figure(one, "held_out", "l0")) is not None
            and (found := _figure(one, part, name)) is not None
            for error in [found["standard_error"]]
        ]
        drawing = front(f"{axis} against L0", axis, points, palette)
        if drawing is not None:
            shown = f"{axis[0].upper()}{axis[1:]}"
            yield drawing, f"{shown} against L0; {reading}. Bars are standard errors."


def _probing(result: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """The figures of the part `probing` that stand in its table."""
    names: dict[str, str] = {}
    for one in result["autoencoders"]:
        for name, found in one["parts"].get("probing", {}).get("figures", {}).items():
            if found["in_table"]:
                names.setdefault(name, found["heading"])
    for name, heading in names.items():
        yield "probing", name, f"probing, {heading}", "higher is better"


def _figure(one: Mapping[str, Any], part: str, name: str) -> Mapping[str, Any] | None:
    found = one["parts"].get(part, {}).get("figures", {}).get(name)
    return None if found is None or found["value"] is None else found


def suite_page(result: Mapping[str, Any], drawings: Sequence[tuple[Drawing, str]]) -> str:
    """The text of the page.

    Args:
        result: what `run_suite` gives.
        drawings: the fronts, drawn for a page, each with its caption.
    """
    autoencoders = result["autoencoders"]
    measured = [one for one in autoencoders if not one["baseline"]]
    n_baselines = len(autoencoders) - len(measured)
    lead = (
        f"{counted(len(measured), 'autoencoder')} and {counted(n_baselines, 'baseline')}, "
        f"measured on the cache {result['cache']}. After ± stands the "
        "standard error, or, for runs that differ in the seed alone, the standard deviation over "
        "seeds; in brackets stands an interval of 95%."
    )
    figures = [figure(for_page(drawing), caption) for drawing, caption in drawings]
    warnings = dict.fromkeys(
        f"{one['name']}: {text}"
        for one in autoencoders
        for part in one["parts"].values()
        for text in part["warnings"]
    )
    sections = (
        tag("h1", "Evaluation suite"),
        tag("p", lead),
        *([tag("div", join(*figures), class_="figures")] if figures else []),
        *(_part(result, name) for name in result["parts"]),
        *([tag("h2", "Cautions")] if warnings else []),
        *(tag("p", f"{text}.") for text in warnings),
    )
    return page("Evaluation suite", sections)


def _part(result: Mapping[str, Any], part: str) -> Html:
    """All figures of a part: of each autoencoder, and of seeds together."""
    about = result["parts"][part]
    rows: list[tuple[str, Mapping[str, Any]]] = [
        (f"{group['name']} ({len(group['members'])} seeds)", group["parts"][part])
        for group in result["seeds"]
    ]
    rows += [(one["name"], one["parts"][part]["figures"]) for one in result["autoencoders"]]
    headings = {name: found["heading"] for _, own in rows for name, found in own.items()}
    body: list[list[Child]] = [
        [name, *(suite_figure(figures.get(key)) for key in headings)] for name, figures in rows
    ]
    return join(
        tag("h2", f"{about['heading'][0].upper()}{about['heading'][1:]}"),
        tag("p", about["reading"]),
        table(["Autoencoder", *headings.values()], body, class_="plain"),
    )
